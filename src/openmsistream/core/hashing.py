"""The whole-file hashes of the two wire formats. Pure computation on bytes."""

from __future__ import annotations

from hashlib import sha512
from typing import Protocol

from blake3 import blake3

from openmsistream.core.chunk import HashName


class Hasher(Protocol):
    """What hashlib and blake3 have in common; both let other threads run while they work on large buffers."""

    def update(self, data: bytes | bytearray | memoryview, /) -> object:
        """Take in bytes."""
        ...

    def digest(self) -> bytes:
        """The digest of what was taken in so far; more may follow."""
        ...


def new_hasher(name: HashName) -> Hasher:
    """A fresh hasher: BLAKE3 (32-byte digest, what ``b3sum`` prints) or SHA-512 (64 bytes, what 1.x uses)."""
    return blake3() if name is HashName.BLAKE3 else sha512()
