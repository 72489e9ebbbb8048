"""A bucket with a folder beside it: every file goes to both (``ports.Sink``), as 1.x's ``--mode both`` has it.

A file counts as delivered once it stands in both. The quarantine is the bucket's. Knows the two sinks and nothing of
what they write to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from openmsistream.adapters.filesystem.sink import FolderSink
from openmsistream.adapters.s3.sink import S3Sink
from openmsistream.core.chunk import HashName
from openmsistream.core.versions import VersionKey
from openmsistream.errors import OpenMSIStreamError
from openmsistream.ports import NOT_KNOWN, Buffer, Failure, Publication, Record


class BucketAndFolder:
    """
    Delivers to both.

    Args:
        bucket: Where files go in the first place.
        folder: Where their copies go.
    """

    def __init__(self, bucket: S3Sink, folder: FolderSink) -> None:
        self._bucket, self._folder = bucket, folder

    def where(self, key: VersionKey) -> str:
        """The address of a version of the last batch in the bucket."""
        return self._bucket.where(key)

    def write(self, key: VersionKey, offset: int, data: Buffer) -> None:
        """Keep bytes of an open version."""
        self._folder.write(key, offset, data)
        self._bucket.write(key, offset, data)

    def read(self, key: VersionKey, start: int, stop: int) -> Iterator[Buffer]:
        """The bytes of an open version again, in pieces: of the bucket's, as what is checked is to be what is sent."""
        return self._bucket.read(key, start, stop)

    def sync(self, keys: Iterable[VersionKey]) -> None:
        """Make what was written of these versions survive a power cut."""
        wanted = list(keys)
        self._folder.sync(wanted)
        self._bucket.sync(wanted)

    def publish(self, publications: Sequence[Publication]) -> dict[VersionKey, OpenMSIStreamError]:
        """Make versions appear, in the bucket first; what fails in one of them is told."""
        failed = self._bucket.publish(publications)
        return {**self._folder.publish([p for p in publications if p.key not in failed]), **failed}

    def stands(self, path: str, size: int) -> bool:
        """True when a file of that size is in both."""
        return self._folder.stands(path, size) and self._bucket.stands(path, size)

    def holds(self, path: str, size: int, hash_name: HashName, digest: bytes) -> bool:
        """True when the file in both has that size and that digest."""
        return self._folder.holds(path, size, hash_name, digest) and self._bucket.holds(path, size, hash_name, digest)

    def discard(self, key: VersionKey) -> None:
        """Forget the bytes of an open version."""
        self._folder.discard(key)
        self._bucket.discard(key)

    def set_aside(self, key: VersionKey, reason: str, failure: Failure = NOT_KNOWN) -> None:
        """Move the bytes of an open version to quarantine, with the reason."""
        self._bucket.set_aside(key, reason, failure)
        self._folder.discard(key)

    def quarantine(self, topic: str, record: Record, reason: str, *, path: str = "", at_ns: int | None = None) -> None:
        """Keep a record that cannot be handled, with its origin and the reason."""
        self._bucket.quarantine(topic, record, reason, path=path, at_ns=at_ns)

    def restore(self, known: Iterable[VersionKey]) -> set[VersionKey]:
        """Which of ``known`` can be gone on with in both."""
        wanted = set(known)
        return self._folder.restore(wanted) & self._bucket.restore(wanted)

    def close(self) -> None:
        """Let go of everything."""
        try:
            self._folder.close()
        finally:
            self._bucket.close()
