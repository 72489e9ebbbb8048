"""What travels: a span of a file version with its header.

Pure values: this module never sees a file, a clock or Kafka. The wire formats turn a ``Chunk`` into
bytes and back; assembly takes chunks of both formats without asking which one they came in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from openmsistream.errors import ConfigError

DEFAULT_CHUNK_BYTES = 524_288


class HashName(Enum):
    """The hash function that a version's whole-file digest was made with."""

    BLAKE3 = "blake3"
    SHA512 = "sha512"


@dataclass(frozen=True, slots=True)
class Span:
    """A half-open byte range ``[start, stop)`` of a file; ``index`` counts from 0."""

    index: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """
    One record of a file version, in either wire format.

    Attributes:
        version: What tells versions apart: the 16-byte id (v2) or the SHA-512 digest of the file (v1).
        path: Relative POSIX path. Bytes that are not valid UTF-8 stand as lone surrogates
            (``os.fsdecode`` with ``surrogateescape``), so that any POSIX name survives.
        offset: Where the payload begins in the file, in bytes; >= 0.
        index: Chunk index from 0.
        payload: The bytes; empty for an empty file's only chunk and for ``abort`` and ``alive`` records.
        mtime_ns: Modification time in ns since 1970, for information; None when the sender gave none.
        size: Whole size in bytes when the sender knew it. v1 never says it.
        last: True on the final chunk of a v2 version.
        digest: Whole-file digest: on every chunk of v1, on the last of v2, else None.
        hash_name: Which function ``digest`` belongs to.
        total: Number of chunks of the version when known (v1: always), else None.
        src: v2: the uploader's identity, 16 bytes. None in v1.
        gen: v2: newer = greater within a ``src``. None in v1.
        name: v2: final path of a file that was streamed under a temporary one (last chunk only).
        append: v1: text to insert between the stem and the suffix of the name ("filename_append").
        attrs: User metadata (first chunk of v2).
        abort: v2: why the producer gave the version up; such a record has no payload.
        alive: v2: keep-alive of a version that has been open for long; no payload.
    """

    version: bytes
    path: str
    offset: int
    index: int
    payload: bytes | memoryview
    mtime_ns: int | None = None
    size: int | None = None
    last: bool = False
    digest: bytes | None = None
    hash_name: HashName = HashName.BLAKE3
    total: int | None = None
    src: bytes | None = None
    gen: int | None = None
    name: str | None = None
    append: str = ""
    attrs: Mapping[str, str] = field(default_factory=dict)
    abort: str | None = None
    alive: bool = False


def spans(size_bytes: int, chunk_bytes: int, start: int = 0) -> Iterator[Span]:
    """
    Yield the spans covering a file from ``start`` on, in order, without gaps or overlap.

    An empty file yields one empty span: consumers learn of a file only through a chunk.

    Args:
        size_bytes: Length of the file; >= 0.
        chunk_bytes: Length of every span but the last; >= 1.
        start: Where to go on, a multiple of ``chunk_bytes`` (0: the whole file).

    Yields:
        ``max(1, ceil(size_bytes / chunk_bytes))`` spans when ``start`` is 0.

    Raises:
        ConfigError: ``chunk_bytes`` is below 1.
    """
    if chunk_bytes < 1:
        raise ConfigError(
            f"chunk size must be at least 1 byte, got {chunk_bytes}",
            hint="set chunk_size in the config file or --chunk-size, e.g. 524288",
        )
    first = start // chunk_bytes
    starts = range(start, size_bytes, chunk_bytes) or (range(1) if size_bytes == 0 else range(0))
    for step, begin in enumerate(starts):
        yield Span(first + step, begin, min(begin + chunk_bytes, size_bytes))
