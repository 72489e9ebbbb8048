"""A sink in memory (``ports.Sink``): whole files in a dict. It touches no disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from openmsistream.core.chunk import HashName
from openmsistream.core.hashing import new_hasher
from openmsistream.core.paths import check_relative
from openmsistream.core.versions import VersionKey
from openmsistream.errors import OpenMSIStreamError, ProtocolError, StorageError
from openmsistream.ports import NOT_KNOWN, Buffer, Failure, Publication, Record


@dataclass(slots=True)
class MemorySink:
    """
    Keeps whole files in a dict (``ports.Sink``).

    Attributes:
        files: What is visible: path to content.
        published: Every publication that succeeded, in order.
        aside: Versions in quarantine: key to content and reason.
        failures: What else is known of these.
        quarantined: Records in quarantine, with the reason: topic, record, reason.
        paths: The paths that these name, as far as that is known, by topic, partition and offset.
        full: Set it to refuse writes with StorageError, as a full disk does.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    published: list[Publication] = field(default_factory=list)
    aside: dict[VersionKey, tuple[bytes, str]] = field(default_factory=dict)
    failures: dict[VersionKey, Failure] = field(default_factory=dict)
    quarantined: list[tuple[str, Record, str]] = field(default_factory=list)
    paths: dict[tuple[str, int, int], str] = field(default_factory=dict)
    full: bool = False
    _partial: dict[VersionKey, bytearray] = field(default_factory=dict)
    _synced: dict[VersionKey, bytes] = field(default_factory=dict)
    _unsafe: set[str] = field(default_factory=set)

    def write(self, key: VersionKey, offset: int, data: Buffer) -> None:
        """Keep bytes of an open version."""
        self._refuse_when_full()
        content = self._partial.setdefault(key, bytearray())
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data

    def read(self, key: VersionKey, start: int, stop: int) -> Iterator[Buffer]:
        """The bytes of an open version again."""
        content = self._partial.get(key, b"")
        if start < stop:
            if len(content) < stop:
                raise StorageError(f"{key.path}: {stop} bytes are wanted, {len(content)} are here")
            yield bytes(content[start:stop])

    def sync(self, keys: Iterable[VersionKey]) -> None:
        """Let the bytes of these versions survive ``power_cut``."""
        self._synced.update({key: bytes(self._partial[key]) for key in keys if key in self._partial})

    def publish(self, publications: Sequence[Publication]) -> dict[VersionKey, OpenMSIStreamError]:
        """Make versions appear in ``files``."""
        self._refuse_when_full()
        failed: dict[VersionKey, OpenMSIStreamError] = {}
        for publication in publications:
            key, path = publication.key, publication.path
            try:
                check_relative(path)
                self._refuse_folder_and_file(path)
            except ProtocolError as error:
                failed[key] = error
                continue
            if key in self._partial:
                self.files[path] = bytes(self._partial.pop(key))
                self._unsafe.discard(path)
                if self._synced.pop(key, None) != self.files[path]:
                    self._unsafe.add(path)
                self.published.append(publication)
            elif not self.stands(path, publication.size):
                raise StorageError(f"{path}: there are no bytes to publish")
        return failed

    def stands(self, path: str, size: int) -> bool:
        """True when a file of that size is there."""
        return path in self.files and len(self.files[path]) == size

    def holds(self, path: str, size: int, hash_name: HashName, digest: bytes) -> bool:
        """True when the file under its final path has that size and that digest."""
        if not self.stands(path, size):
            return False
        hasher = new_hasher(hash_name)
        hasher.update(self.files[path])
        return hasher.digest() == digest

    def where(self, key: VersionKey) -> str:
        """The path that a version was published under."""
        return next((each.path for each in reversed(self.published) if each.key == key), "")

    def discard(self, key: VersionKey) -> None:
        """Forget the bytes of an open version."""
        self._partial.pop(key, None)
        self._synced.pop(key, None)

    def set_aside(self, key: VersionKey, reason: str, failure: Failure = NOT_KNOWN) -> None:
        """Move the bytes of an open version to ``aside``."""
        if key in self._partial:
            self.aside[key] = (bytes(self._partial[key]), reason)
            self.failures[key] = failure
        self.discard(key)

    def quarantine(self, topic: str, record: Record, reason: str, *, path: str = "", at_ns: int | None = None) -> None:
        """Keep a record in ``quarantined``, once, however often it is read."""
        del at_ns
        self._refuse_when_full()
        if path:
            self.paths[topic, record.partition, record.offset] = path
        if not any((t, r) == (topic, record) for t, r, _ in self.quarantined):
            self.quarantined.append((topic, record, reason))

    def restore(self, known: Iterable[VersionKey]) -> set[VersionKey]:
        """Which of ``known`` have bytes here; the others' are removed."""
        keep = set(known)
        for key in [key for key in self._partial if key not in keep]:
            self.discard(key)
        return set(self._partial)

    def close(self) -> None:
        """Nothing is held."""

    def power_cut(self) -> None:
        """Lose what was not synced: it reads as zeros, in open versions and in files that were published too early."""
        for key, content in self._partial.items():
            safe = self._synced.get(key, b"")
            content[:] = safe + bytes(len(content) - len(safe))
        for path in self._unsafe:
            self.files[path] = bytes(len(self.files[path]))
        self._unsafe.clear()

    def _refuse_when_full(self) -> None:
        if self.full:
            raise StorageError("the sink in memory is told to be full", hint="set full = False")

    def _refuse_folder_and_file(self, path: str) -> None:
        folders = {path[:at] for at, letter in enumerate(path) if letter == "/"}
        if folders & self.files.keys() or any(other.startswith(f"{path}/") for other in self.files):
            raise ProtocolError(f"{path!r} is not a valid name here: a folder or file of that name is in the way")
