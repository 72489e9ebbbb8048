"""Checking a version's bytes against its digest, while they come in and again from the sink where they did not.

Bytes that come in order are hashed as they pass; what came out of order, or before a restart, is read back once
at the end. Knows the core and the sink's port.
"""

from __future__ import annotations

from openmsistream.core.assembly import OpenVersion
from openmsistream.core.hashing import Hasher, new_hasher
from openmsistream.core.versions import VersionKey
from openmsistream.ports import Buffer, Sink


class Verifier:
    """
    The hashers of the open versions.

    Attributes:
        found: The digest of the bytes that ``agrees`` was asked of last.
        read_back: True when some of these came back from the sink: then it may be the reason that they do not agree.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._hashed: dict[VersionKey, tuple[Hasher, int]] = {}
        self.found = b""
        self.read_back = False

    def take(self, version: OpenVersion, offset: int, data: Buffer) -> None:
        """Bytes of a version were written at ``offset``."""
        entry = self._hashed.get(version.key)
        if entry is None:
            if offset > 0:
                return  # begins in the middle: read back at the end
            entry = (new_hasher(version.hash_name), 0)
        hasher, upto = entry
        if offset == upto:
            hasher.update(data)
            self._hashed[version.key] = (hasher, upto + len(data))

    def agrees(self, version: OpenVersion) -> bool:
        """
        True when the complete version has the digest its sender gave.

        Raises:
            StorageError: Bytes that have to be read back cannot be.
        """
        hasher, upto = self._hashed.pop(version.key, (new_hasher(version.hash_name), 0))
        size = version.size or 0
        self.read_back = upto < size
        if self.read_back:
            for piece in self._sink.read(version.key, upto, size):
                hasher.update(piece)
        self.found = hasher.digest()
        return self.found == version.digest

    def forget(self, key: VersionKey) -> None:
        """The version ended without being checked."""
        self._hashed.pop(key, None)
