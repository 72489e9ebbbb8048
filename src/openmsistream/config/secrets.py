"""Which settings are secret, and how they are shown without giving them away.

Pure text in, text out: this module never sees a file, an environment or Kafka. When in doubt a value
counts as secret: a masked harmless value costs a look into the file, a shown password costs more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

MASK = "***"

# Full key names that carry a secret without saying so; "." stands for "_" and "-" too.
_SECRET_KEYS = frozenset(
    {
        "access.key.id",
        "sasl.jaas.config",
        "sasl.oauthbearer.config",
        "secret.key.id",
        "ssl.key.pem",
        "ssl.keystore.key",
    }
)
_SECRET_PARTS = (
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "credential",
    "api.key",
    "apikey",
    "private.key",
    "access.key",
    "user.info",
)
# "https://user:password@host": everything between the scheme and the last @ of the authority.
_USER_IN_URL = re.compile(r"(?<=://)[^/\s]*@")


def is_secret(name: str) -> bool:
    """Whether a key, an option or an environment variable of this name is to be masked."""
    plain = re.sub(r"[_\-\s]", ".", name.strip().lower())
    return plain in _SECRET_KEYS or any(part in plain for part in _SECRET_PARTS)


def masked(name: str, value: str) -> str:
    """The value as it may be shown: ``***`` when its name is secret, without user names in URLs."""
    return MASK if is_secret(name) else _USER_IN_URL.sub(f"{MASK}@", value)


def redacted(mapping: Mapping[str, str]) -> dict[str, str]:
    """A copy of ``mapping`` whose values may be logged: secrets are replaced by ``***``."""
    return {name: masked(name, value) for name, value in mapping.items()}
