"""The work folder of deliveries to a bucket on this computer, and the note in it that says which bucket that is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from openmsistream.errors import ConfigError, StorageError

NOTE = "bucket.json"


@dataclass(frozen=True, slots=True)
class Goes:
    """
    Where the files of a work folder go.

    Attributes:
        bucket: The name of the bucket.
        endpoint: The store's address; "" for AWS.
        topic, key_template: What keys are made of (``naming.object_key``).
    """

    bucket: str
    endpoint: str
    topic: str
    key_template: str

    @property
    def store(self) -> str:
        """The store as a user knows it."""
        return self.endpoint or "AWS S3"


def note(work: Path, goes: Goes) -> None:
    """Write down where the files of a work folder go; StorageError when it cannot be written."""
    text = json.dumps(asdict(goes)).encode()
    with _told(work):
        if (work / NOTE).exists() and (work / NOTE).read_bytes() == text:
            return
        new = work / f"{NOTE}.new"
        new.write_bytes(text)
        new.replace(work / NOTE)


def noted(work: Path) -> Goes | None:
    """
    Where the files of a work folder go; None for a folder that is none of deliveries to a bucket.

    Raises:
        ConfigError: The note is damaged.
        StorageError: It cannot be read.
    """
    with _told(work):
        try:
            text = (work / NOTE).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            text = ""
    try:
        return Goes(**{name: str(value) for name, value in json.loads(text).items()})
    except (ValueError, AttributeError, TypeError):
        raise ConfigError(
            f"{work / NOTE}: is damaged: it does not say which bucket the files of this folder go to",
            hint="start openmsistream s3 once as before, which writes it anew",
        ) from None


@contextmanager
def _told(work: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{work / NOTE}: cannot be used: {error.strerror or error}",
            hint="run this under the account that openmsistream s3 runs under",
        ) from error
