"""A bucket as the destination of ``quarantine retry``: files that stand on this computer become objects with free keys.

Sends as the downloader does, with a work folder of its own. It must not know where a file comes from.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from openmsistream.adapters.filesystem.staging import READ_BYTES
from openmsistream.adapters.s3.bucket import Bucket
from openmsistream.adapters.s3.naming import object_key
from openmsistream.adapters.s3.placing import KeyTakenError
from openmsistream.adapters.s3.sink import About, S3Settings, S3Sink
from openmsistream.adapters.s3.work_folder import Goes
from openmsistream.config.s3 import S3Access
from openmsistream.core.versions import VersionKey, VersionOrder
from openmsistream.errors import BusyError, StorageError
from openmsistream.ports import Buffer, Events, Publication

_PARTS = 4


class FreeKeys:
    """
    Makes objects.

    Args:
        access: How to reach the store.
        goes: The bucket, and what keys are made of.
        work: A folder of its own on this computer, which is made if need be; what an earlier one that was killed has
            left in the store is removed.
        events: Told what a user should know.
        progress: Called with a word, how many bytes of how many of a file were sent, and 0.

    Raises:
        ConfigError: Another program uses the work folder.
        StorageError: It cannot be used.
    """

    def __init__(
        self,
        access: S3Access,
        goes: Goes,
        work: Path,
        events: Events,
        progress: Callable[[str, int, int | None, int], None],
    ) -> None:
        self._goes, self._progress = goes, progress
        self._bucket = Bucket(access, goes.bucket, 2 * _PARTS)
        self.where = f"in the {self._bucket.where}"
        how = S3Settings(goes.topic, goes.key_template, part_threads=_PARTS, put_threads=_PARTS, only_new=True)
        self._sink = S3Sink(self._bucket, work, how, events)

    def check(self, path: str) -> str:
        """The path, when it makes a key; else ProtocolError."""
        object_key(self._goes.key_template, self._goes.topic, path)
        return path

    def add(self, file: Path, publication: Publication) -> bool:
        """
        Make an object of a file, if its key is free.

        Args:
            file: Where it stands.
            publication: Its path and what the object is to say of itself.

        Returns:
            True when it stands there now, or an object with the same content has its key; False when another has.

        Raises:
            ProtocolError, DeliveryError: The store refuses it for good.
            IntegrityError: What the store has is something else.
            StorageError: The store refuses now, or the file cannot be read; what was sent of it is removed.
        """
        key, path, size = publication.key, publication.path, publication.size
        if self._bucket.look(object_key(self._goes.key_template, self._goes.topic, path)) is not None:
            return self._sink.holds(path, size, publication.hash_name, publication.digest)
        about = About(path, publication.order or VersionOrder(None, None, publication.mtime_ns, 0))
        self._sink.describe = lambda _: about
        try:
            with file.open("rb", buffering=0) as source:
                self._write(key, 0, b"")
                offset = 0
                while piece := source.read(READ_BYTES):
                    self._write(key, offset, piece)
                    offset += len(piece)
                    self._progress(f"bytes of {path} sent", offset, size, 0)
        except OSError as error:
            raise StorageError(
                f"{file}: cannot be read: {error.strerror or error}", hint="check the disk of that folder"
            ) from error
        problem = self._sink.publish([publication]).get(key)
        if isinstance(problem, KeyTakenError):  # meanwhile
            return False
        if problem is not None:
            raise problem
        return True

    def close(self) -> None:
        """Remove what did not become an object."""
        self._sink.restore(())
        self._sink.close()

    def _write(self, key: VersionKey, offset: int, data: Buffer) -> None:
        while True:
            try:
                self._sink.write(key, offset, data)
            except BusyError:  # a slow store; it says so itself when it is away
                continue
            return
