"""Wire format v1: the MessagePack array of OpenMSIStream 1.x, with 9 or 10 fields, and its record keys.

This module owns the bytes of one 1.x record in both directions. It must not know Kafka, files, or what
other chunks of the file said; whether a path is safe to write to is judged by ``core.paths``.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgpack

from openmsistream.core.chunk import Chunk, HashName
from openmsistream.core.paths import PATH_BYTES_MAX
from openmsistream.core.wire.describe import describe
from openmsistream.errors import ConfigError, ProtocolError, SourceError

FIELDS = 10
"""What 1.8.7 and later write; versions up to 1.8.6 write 9 fields and refuse to read 10."""

DIGEST_BYTES = 64

_INT_LIMIT = 1 << 63
_NS = 1_000_000_000
_FIRST_BYTES = (0x99, 0x9A)  # MessagePack fixarray of 9 and of 10 items
_USE_V2 = "send with value.serializer = DataFileChunkV2Serializer, or rename the file"
_WRITER = "find out which program writes such records to the topic, and update it"


def encode(chunk: Chunk, *, fields: int = FIELDS) -> bytes:
    """
    Return the record value that OpenMSIStream 1.x would write for this chunk, byte for byte.

    Args:
        chunk: A chunk with ``version`` and ``digest`` (both the SHA-512 digest of the whole file) and
            ``total``. Its payload's own SHA-512 is computed here.
        fields: 10 as 1.8.7 and later, or 9 (without the modification time) for older readers.

    Raises:
        ConfigError: The chunk breaks a rule of the format, or ``fields`` is neither 9 nor 10.
        SourceError: The path is not valid Unicode, or longer than 4,096 bytes.

    Source: the wire format of OpenMSIStream 1.x, seen by running 1.8.5 and 1.8.8 (tests/data/golden).
    """
    if fields not in {9, FIELDS}:
        raise ConfigError(f"a v1 record has 9 or 10 fields, got {fields}", hint="use 9 for readers before 1.8.7")
    if chunk.hash_name is not HashName.SHA512 or chunk.digest is None or len(chunk.digest) != DIGEST_BYTES:
        raise _broken(chunk, "v1 needs the SHA-512 digest of the whole file on every chunk")
    if chunk.version != chunk.digest:
        raise _broken(chunk, "the version of a v1 chunk is the digest of its file")
    if chunk.total is None or not 0 <= chunk.index < chunk.total < _INT_LIMIT:
        raise _broken(chunk, f"its number of chunks is {chunk.total}")
    if not 0 <= chunk.offset < _INT_LIMIT - len(chunk.payload):
        raise _broken(chunk, f"its offset is {chunk.offset}")
    if chunk.abort is not None or chunk.alive:
        raise _broken(chunk, "v1 has no records that abort a file or keep it alive")
    _check_name(chunk.path)
    folder, _, name = chunk.path.rpartition("/")
    record: list[Any] = [
        name,
        chunk.digest,
        hashlib.sha512(chunk.payload).digest(),
        chunk.offset,
        chunk.index + 1,
        chunk.total,
        folder,
        chunk.append,
        chunk.payload,
    ]
    if fields == FIELDS:
        record.append(0.0 if chunk.mtime_ns is None else _seconds(chunk.mtime_ns))
    packed: bytes = msgpack.packb(record)
    return packed


def decode(value: bytes | memoryview) -> Chunk:
    """
    Return the chunk in a v1 record value, its payload checked against the SHA-512 that came with it.

    The path is the folder and the name as sent; the text to insert into the name stays in ``append``:
    ``delivered_name`` puts both together. A modification time of 0 or less means that none is known.

    Raises:
        ProtocolError: The value is not what 1.x writes, or the payload does not have the digest it came with.
    """
    fields = _unpack(value)
    name, digest, payload_digest, offset, number, total, folder, append, payload = fields[:9]
    for key, text in (("filename", name), ("subdir_str", folder), ("filename_append", append)):
        if type(text) is not str:
            raise _refused(f"{key} is {describe(text)}, expected text")
    for key, raw in (("file_hash", digest), ("chunk_hash", payload_digest)):
        if type(raw) is not bytes or len(raw) != DIGEST_BYTES:
            raise _refused(f"{key} is {describe(raw)}, expected {DIGEST_BYTES} bytes")
    # `type(x) is int` and not isinstance: true and false are no integers on the wire.
    if type(total) is not int or not 1 <= total < _INT_LIMIT:
        raise _refused(f"n_total_chunks is {describe(total)}, expected an integer from 1 to 2**63 - 1")
    if type(number) is not int or not 1 <= number <= total:
        raise _refused(f"chunk_i is {describe(number)}, expected an integer from 1 to {total}")
    if type(payload) is not bytes:
        raise _refused(f"data is {describe(payload)}, expected bytes")
    if type(offset) is not int or not 0 <= offset < _INT_LIMIT - len(payload):
        raise _refused(f"chunk_offset_write is {describe(offset)}, expected an integer from 0 to 2**63 - 1")
    if hashlib.sha512(payload).digest() != payload_digest:
        raise _refused(f"the {len(payload)} bytes of data do not have the SHA-512 that came with them")
    return Chunk(
        version=digest,
        path=f"{folder}/{name}" if folder else name,
        offset=offset,
        index=number - 1,
        payload=payload,
        mtime_ns=None if len(fields) == 9 else _mtime_in(fields[9]),
        digest=digest,
        hash_name=HashName.SHA512,
        total=total,
        append=append,
    )


def record_key(path: str, index: int, total: int) -> str:
    """
    Return the record key that 1.x gives to a chunk, e.g. ``run 1_scan.csv_chunk_2_of_3``.

    Not a unique name: ``a_b/f`` and ``a/b/f`` share their keys, and a file at the top begins with ``_``.

    Args:
        path: Relative POSIX path.
        index: Chunk index from 0 (the key counts from 1).
        total: Number of chunks of the file.
    """
    folder, _, name = path.rpartition("/")
    return f"{folder.replace('/', '_')}_{name}_chunk_{index + 1}_of_{total}"


def delivered_name(path: str, append: str) -> str:
    """
    Return the path that a file is delivered under: ``append`` put between stem and suffix of its name.

    ``("run/scan.csv", "_a")`` gives ``run/scan_a.csv``. The suffix is the last one, as ``pathlib`` before
    Python 3.14 counts: none in ``.hidden`` and ``ends.with.dot.``. Check the *result* with
    ``core.paths.check_relative``: the text to insert comes from the topic as well.
    """
    if not append:
        return path
    folder, slash, name = path.rpartition("/")
    dot = name.rfind(".")
    stem_length = dot if 0 < dot < len(name) - 1 else len(name)
    return f"{folder}{slash}{name[:stem_length]}{append}{name[stem_length:]}"


def _check_name(path: str) -> None:
    try:
        length = len(path.encode())
    except UnicodeEncodeError as error:
        raise SourceError(
            f"the name {path[:80]!r} is not valid Unicode, and wire format v1 cannot carry it", hint=_USE_V2
        ) from error
    if not 0 < length <= PATH_BYTES_MAX:
        raise SourceError(
            f"path {path[:80]!r} has {length:,} bytes, allowed are 1 to {PATH_BYTES_MAX:,}",
            hint="give the file or its folders shorter names",
        )


def _seconds(mtime_ns: int) -> float:
    # The arithmetic of os.stat, so that a file gives the same float64 as in 1.x: dividing by 1e9 rounds
    # twice, and now and then differs in the last bit.
    seconds, rest = divmod(mtime_ns, _NS)
    return seconds + 1e-9 * rest


def _mtime_in(seconds: Any) -> int | None:
    # Instruments set odd dates; refused are only numbers that no clock shows: NaN, or behind the year 2262.
    if type(seconds) not in {float, int} or not seconds < _INT_LIMIT // _NS:
        raise _refused(f"file_mtime is {describe(seconds)}, expected seconds since 1970")
    if seconds <= 0:
        return None
    whole = int(seconds)
    nanoseconds: int = whole * _NS + round((seconds - whole) * _NS)
    return nanoseconds


def _unpack(value: bytes | memoryview) -> list[Any]:
    if len(value) == 0 or value[0] not in _FIRST_BYTES:
        raise _refused("it does not begin with a MessagePack array of 9 or 10 items")
    try:
        # No field is an array, map or extension type: allowing none of them keeps lengths that a record
        # merely claims from costing memory.
        unpacked: list[Any] = msgpack.unpackb(value, max_array_len=FIELDS, max_map_len=0, max_ext_len=0)
    except (ValueError, msgpack.UnpackException) as error:
        raise _refused(f"it is not one whole MessagePack array: {error}") from error
    return unpacked


def _broken(chunk: Chunk, why: str) -> ConfigError:
    return ConfigError(f"chunk {chunk.index} of {chunk.path[:80]!r} cannot be sent in wire format v1: {why}")


def _refused(why: str) -> ProtocolError:
    return ProtocolError(f"v1 record refused: {why}", hint=_WRITER)
