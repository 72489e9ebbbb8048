"""What a client does with the local object store: does it answer, make and empty buckets, list what is unfinished.

Talks to the store through boto3 as any program would. It knows no process and no folder. Everything here is
small: it is for tests, the demo and the command line, not for data.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from openmsistream.errors import ConfigError, UnavailableError
from openmsistream.local.parts import INSTALL_HINT
from openmsistream.local.ports import LOOPBACK

# As S3 wants bucket names: 3 to 63 letters, digits, dots and hyphens, at both ends a letter or digit.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_CONNECT_SECONDS = 5
_READ_SECONDS = 60
_making = threading.Lock()


@dataclass(frozen=True, slots=True)
class Access:
    """What a client needs to use a store; ``endpoint`` is an address with ``http://``."""

    endpoint: str
    access_key: str
    secret_key: str
    region: str

    def environment(self) -> dict[str, str]:
        """The same as the environment variables that config files of 1.x refer to."""
        return {
            "ENDPOINT_URL": self.endpoint,
            "ACCESS_KEY_ID": self.access_key,
            "SECRET_KEY_ID": self.secret_key,
            "REGION": self.region,
        }


@dataclass(frozen=True, slots=True)
class UnfinishedUpload:
    """A multipart upload that was neither completed nor aborted, and what was stored of it."""

    key: str
    upload_id: str
    initiated: datetime
    parts: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class BucketStatus:
    """A bucket, with how much is in it; ``unfinished`` counts multipart uploads."""

    name: str
    objects: int
    size_bytes: int
    unfinished: int


def s3_client(access: Access, **config: Any) -> Any:
    """
    Return a boto3 client for a store, which heeds no proxy and no AWS settings of this user.

    Args:
        access: Where the store is, and the keys.
        config: More settings of ``botocore.config.Config``; they replace ours.

    Raises:
        ConfigError: boto3 is not installed.
    """
    try:
        from botocore.config import Config  # noqa: PLC0415  an extra, and slow to import

        session = _session()
    except ImportError as error:
        raise ConfigError(
            "the local object store needs the package boto3, which is not installed", hint=INSTALL_HINT
        ) from error
    settings = {
        "connect_timeout": _CONNECT_SECONDS,
        "read_timeout": _READ_SECONDS,
        "retries": {"total_max_attempts": 3, "mode": "standard"},
        "proxies": {},
        "s3": {"addressing_style": "path"},
        **config,
    }
    with _making:
        return session.client(
            "s3",
            endpoint_url=access.endpoint,
            aws_access_key_id=access.access_key,
            aws_secret_access_key=access.secret_key,
            region_name=access.region,
            config=Config(**settings),
        )


@functools.cache
def _session() -> Any:
    """One for all clients, which parses what boto3 knows of S3 once; to be used by one thread at a time."""
    import boto3  # noqa: PLC0415  an extra

    return boto3.session.Session()


def probing_client(access: Access, seconds: float) -> Any:
    """Return a client for ``answers``, which gives up after ``seconds`` and tries nothing twice."""
    once = {"total_max_attempts": 1, "mode": "standard"}
    return s3_client(access, connect_timeout=seconds, read_timeout=seconds, retries=once)


def answers(client: Any, master_port: int, seconds: float) -> bool:
    """Return True when the store lists its buckets and has room to write to; ask with a ``probing_client``."""
    with contextlib.suppress(*_outside_errors()):
        client.list_buckets()
        return _has_volumes(master_port, seconds)
    return False


def check_bucket_name(name: str) -> None:
    """Raise ConfigError when S3 does not allow a bucket of this name."""
    if not _BUCKET.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be the name of a bucket",
            hint="3 to 63 lower-case letters, digits and hyphens, e.g. my-files",
        )


def create_bucket(client: Any, name: str) -> bool:
    """
    Make a bucket; False when it is there already.

    Raises:
        ConfigError: The name is none that S3 allows.
        UnavailableError: The store does not answer.
    """
    check_bucket_name(name)
    with _told(f"bucket {name} cannot be made"):
        if name in bucket_names(client):
            return False
        client.create_bucket(Bucket=name)
    return True


def delete_bucket(client: Any, name: str) -> None:
    """Remove a bucket with everything in it, unfinished uploads and old versions included."""
    with _told(f"bucket {name} cannot be removed"):
        for upload in unfinished_uploads(client, name):
            client.abort_multipart_upload(Bucket=name, Key=upload.key, UploadId=upload.upload_id)
        for page in client.get_paginator("list_object_versions").paginate(Bucket=name):
            there = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
            if there:
                names = [{"Key": one["Key"], "VersionId": one["VersionId"]} for one in there]
                client.delete_objects(Bucket=name, Delete={"Objects": names, "Quiet": True})
        client.delete_bucket(Bucket=name)


def bucket_names(client: Any) -> list[str]:
    """Return the names of all buckets, sorted."""
    with _told("the buckets cannot be listed"):
        return sorted(one["Name"] for one in client.list_buckets()["Buckets"])


def unfinished_uploads(client: Any, bucket: str, prefix: str = "") -> list[UnfinishedUpload]:
    """
    Return the multipart uploads of a bucket that were begun and neither completed nor aborted, by key and age.

    Args:
        client: From ``s3_client``.
        bucket: An existing bucket.
        prefix: Only uploads whose key begins so.

    Raises:
        UnavailableError: There is no such bucket, or the store does not answer.
    """
    found = []
    with _told(f"the unfinished uploads of bucket {bucket} cannot be listed"):
        for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
            for one in page.get("Uploads", []):
                # An object whose key begins with .uploads/ is listed as an upload without a key (SeaweedFS 4.48).
                if not one["Key"]:
                    continue
                with contextlib.suppress(client.exceptions.NoSuchUpload):  # it was completed or removed meanwhile
                    parts = _parts(client, bucket, one["Key"], one["UploadId"])
                    found.append(
                        UnfinishedUpload(one["Key"], one["UploadId"], one["Initiated"], len(parts), sum(parts.values()))
                    )
    return sorted(found, key=lambda upload: (upload.key, upload.initiated, upload.upload_id))


def bucket_statuses(client: Any) -> list[BucketStatus]:
    """Return every bucket with its objects counted, which takes time with very many."""
    statuses = []
    for name in bucket_names(client):
        with _told(f"the objects of bucket {name} cannot be listed"):
            sizes = [
                one["Size"]
                for page in client.get_paginator("list_objects_v2").paginate(Bucket=name)
                for one in page.get("Contents", [])
            ]
        statuses.append(BucketStatus(name, len(sizes), sum(sizes), len(unfinished_uploads(client, name))))
    return statuses


def _parts(client: Any, bucket: str, key: str, upload_id: str) -> dict[int, int]:
    """The size of each part by its number; a part that was sent twice is listed twice (SeaweedFS 4.48)."""
    pages = client.get_paginator("list_parts").paginate(Bucket=bucket, Key=key, UploadId=upload_id)
    return {part["PartNumber"]: part["Size"] for page in pages for part in page.get("Parts", [])}


def _has_volumes(master_port: int, seconds: float) -> bool:
    """The S3 part answers before the part that keeps the bytes has told the master of itself."""
    connection = http.client.HTTPConnection(LOOPBACK, master_port, timeout=seconds)
    with contextlib.closing(connection):
        connection.request("GET", "/dir/status")
        return int(json.loads(connection.getresponse().read())["Topology"]["Max"]) > 0


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except _outside_errors() as error:
        raise UnavailableError(f"{what}: {error}", hint="see `openmsistream local status`") from error


def _outside_errors() -> tuple[type[Exception], ...]:
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415  an extra

    return (BotoCoreError, ClientError, OSError, http.client.HTTPException, ValueError, KeyError, TypeError)
