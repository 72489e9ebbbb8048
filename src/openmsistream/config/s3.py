"""``[s3]`` of a config file: where the object store is, who we are there, and what it can.

Owns the keys of that section, the environment names of 1.x and every error about them. It must not know a client
library, nor what is put into a bucket.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from openmsistream.config.ini import Settings
from openmsistream.config.secrets import masked
from openmsistream.errors import ConfigError

CHECKSUMS = ("auto", "md5", "none")
ADDRESSING = ("auto", "path", "virtual")
CONDITIONS = ("auto", "none")

ENVIRONMENT = {
    "access_key_id": ("ACCESS_KEY_ID", "ACCESS_SECRET_KEY_ID"),
    "secret_key_id": ("SECRET_KEY_ID",),
    "endpoint_url": ("ENDPOINT_URL",),
    "region": ("REGION",),
    "bucket_name": ("BUCKET_NAME",),
}
"""What counts of the environment where a config file has no such section: the names of 1.x, the older ones last."""

_PLAIN = ("access_key_id", "secret_key_id", "session_token", "endpoint_url", "region", "bucket_name", "ca_bundle")
_CHOICES = {"checksums": CHECKSUMS, "addressing": ADDRESSING, "conditional_writes": CONDITIONS}
# Names that other tools have for the same things.
_OTHER_NAMES = {
    "access_secret_key_id": "access_key_id",
    "aws_access_key_id": "access_key_id",
    "secret_access_key": "secret_key_id",
    "aws_secret_access_key": "secret_key_id",
    "bucket": "bucket_name",
}
KEYS = (*_PLAIN, *_CHOICES)
_ADDRESS = re.compile(r"https?://[^/\s?#@]+(/[^\s?#]*)?")


@dataclass(frozen=True, slots=True)
class S3Access:
    """
    How to reach an object store. What is None is left to AWS's own settings: its environment names, profiles, roles.

    Attributes:
        endpoint: Its address with ``http://`` or ``https://``; None: AWS.
        access_key, secret_key, session_token: Who we are there.
        region: As the store names it.
        ca_bundle: File with the certificates of authorities to trust besides the usual ones.
        checksums: ``auto``: CRC-32 of every part and object, which the store checks; ``md5``: Content-MD5 instead, for
            stores that know no other; ``none``: neither.
        addressing: Whether the bucket stands in the path or in the host name; ``auto``: in the path but for AWS.
        conditional_writes: ``auto``: a newer object is never overwritten, whoever writes it meanwhile; ``none``: the
            store cannot do that, so it is looked at just before.
    """

    endpoint: str | None = None
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    region: str | None = None
    ca_bundle: Path | None = None
    checksums: str = "auto"
    addressing: str = "auto"
    conditional_writes: str = "auto"

    @property
    def shown(self) -> str:
        """The store as a user knows it."""
        return self.endpoint or "AWS S3"

    @property
    def path_style(self) -> bool:
        """True when the bucket is to stand in the path of an address."""
        if self.addressing != "auto":
            return self.addressing == "path"
        return self.endpoint is not None and "amazonaws.com" not in self.endpoint


def s3_access(section: Settings, env: Mapping[str, str]) -> S3Access:
    """
    What the section says, or without one what the environment says under the names of 1.x.

    Args:
        section: ``ProgramConfig.s3``, without the options that may stand there, too.
        env: The environment.

    Raises:
        ConfigError: A key is unknown, a value is not allowed, or one of the two keys of an account is missing.
    """
    found = _named(section) if section else _from_environment(env)
    access, secret = found.get("access_key_id"), found.get("secret_key_id")
    if bool(access) != bool(secret):
        missing = "secret_key_id" if access else "access_key_id"
        raise ConfigError(
            f"[s3] {missing}: is missing, only its other half is given",
            hint=f"give {missing}, or neither of them to use AWS's own settings",
        )
    return S3Access(
        endpoint=_endpoint(found.get("endpoint_url", ""), section),
        access_key=access or None,
        secret_key=secret or None,
        session_token=found.get("session_token") or None,
        region=found.get("region") or None,
        ca_bundle=_existing(found.get("ca_bundle", ""), section),
        **{name: found[name] for name in _CHOICES if name in found},
    )


def configured_bucket(section: Settings, env: Mapping[str, str]) -> str | None:
    """The bucket that the section names, or without such a section the environment; None when neither does."""
    return (_named(section) if section else _from_environment(env)).get("bucket_name") or None


def _named(section: Settings) -> dict[str, str]:
    found: dict[str, str] = {}
    for key in section:
        spelled = key.replace("-", "_")
        name = _OTHER_NAMES.get(spelled, spelled)
        value = section[key].strip()
        if name not in KEYS:
            near = difflib.get_close_matches(spelled, KEYS, n=1)
            raise ConfigError(
                f"{section.origin(key)}: there is no such key",
                hint=f"did you mean {near[0]}?" if near else "allowed are " + ", ".join(KEYS),
            )
        if name in found:
            raise ConfigError(f"{section.origin(key)}: it is already given under another name", hint="keep one")
        if value and value not in _CHOICES.get(name, (value,)):
            raise ConfigError(f"{section.origin(key)}: {section.shown(key)} is not one of {', '.join(_CHOICES[name])}")
        if value:
            found[name] = value
    return found


def _from_environment(env: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name, variables in ENVIRONMENT.items():
        value = next((env[variable] for variable in variables if env.get(variable)), "")
        if value:
            found[name] = value
    return found


def _endpoint(value: str, section: Settings) -> str | None:
    if not value:
        return None
    address = value if "://" in value else f"https://{value}"
    if not _ADDRESS.fullmatch(address):
        shown = masked("endpoint_url", section.mask(value))
        raise ConfigError(
            f"{_place('endpoint_url', section)}: {shown!r} is not an address of a store",
            hint="write it as https://s3.example.org, without user and bucket",
        )
    return address.rstrip("/")


def _existing(value: str, section: Settings) -> Path | None:
    if not value:
        return None
    path = Path(value).expanduser()
    if not path.is_file():
        raise ConfigError(f"{_place('ca_bundle', section)}: {value!r} is not an existing file")
    return path


def _place(key: str, section: Settings) -> str:
    return section.origin(key) if key in section else key.upper()
