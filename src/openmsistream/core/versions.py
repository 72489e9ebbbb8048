"""Which of two versions of one path is the newer one.

Within one uploader (``src``) the greater ``gen`` is newer, never the mtime. Versions of 1.x have no source;
their mtime orders them where both are known. Everything else is decided by the later broker timestamp.
Pure comparison of values.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import NamedTuple

from openmsistream.core.chunk import Chunk
from openmsistream.core.paths import to_wire_bytes

TAG_LETTERS = 6
"""36 bits: of a million finished versions, one passes for one of 600 open ones in 115 re-readings of all of them."""


class VersionKey(NamedTuple):
    """What a version is known by while it is put together: its path and its id (v2) or digest (v1)."""

    path: str
    version: bytes


@dataclass(frozen=True, slots=True)
class VersionOrder:
    """What decides which of two versions of a path is newer; ``timestamp_ms`` is the broker's, of its last record."""

    src: bytes | None
    gen: int | None
    mtime_ns: int | None
    timestamp_ms: int


def key_of(chunk: Chunk) -> VersionKey:
    """
    The version a chunk belongs to.

    A v1 version has no id, so its digest stands in; its mtime does not take part, because a 1.x uploader that
    was restarted sends the chunks that are missing with the mtime it finds then.
    """
    return VersionKey(chunk.path, chunk.version)


def tag_of(key: VersionKey) -> str:
    """Six letters that stand for a version where there is no room for its key."""
    digest = hashlib.blake2b(key.version + b"/" + to_wire_bytes(key.path), digest_size=6).digest()
    return base64.urlsafe_b64encode(digest)[:TAG_LETTERS].decode()


def is_newer(candidate: VersionOrder, current: VersionOrder) -> bool:
    """True when ``candidate`` is to replace ``current``; a tie goes to the candidate, which came later."""
    if candidate.src is not None and candidate.src == current.src:
        return (candidate.gen or 0) > (current.gen or 0)
    if (
        candidate.src is None
        and current.src is None
        and candidate.mtime_ns is not None
        and current.mtime_ns is not None
        and candidate.mtime_ns != current.mtime_ns
    ):
        return candidate.mtime_ns > current.mtime_ns
    return candidate.timestamp_ms >= current.timestamp_ms


def is_conflict(candidate: VersionOrder, current: VersionOrder) -> bool:
    """True when two different uploaders send the same path: worth telling the user."""
    return candidate.src is not None and current.src is not None and candidate.src != current.src
