"""Wire format v2: ``OMS2``, a header length, a MessagePack map, and the bytes of the chunk.

This module owns the bytes of one record: every limit and rule of the format is checked here, on both
sides. It must not know Kafka, files, or what other chunks of the version said; whether a path is safe to
write to is judged by ``core.paths``.
"""

from __future__ import annotations

import struct
from typing import Any

import msgpack

from openmsistream.core.chunk import Chunk, HashName
from openmsistream.core.paths import PATH_BYTES_MAX, from_wire_bytes, to_wire_bytes
from openmsistream.core.wire.describe import describe
from openmsistream.errors import ConfigError, ProtocolError, SourceError

MAGIC = b"OMS2"
HEADER_BYTES_MAX = 16_384
ATTRS_BYTES_MAX = 8_192
ID_BYTES = 16
DIGEST_BYTES = 32

_INT_LIMIT = 1 << 63  # SQLite, Java and C consumers store these as signed 64-bit integers
_PREFIX = struct.Struct(">4sH")
# A MessagePack array claims its length before its items, and room is made for all of them at once. The
# decoder nests at most 1,024 deep, so 256 keeps the worst header at 1,024 x 256 x 8 bytes = 2 MiB.
_ARRAY_ITEMS_MAX = 256

_WRITER = "find out which program writes such records to the topic, and update it"


def encode_header(chunk: Chunk) -> bytes:
    """
    Return the record value of a chunk up to its payload, which the caller puts right behind it.

    Args:
        chunk: A chunk with ``version``, ``src``, ``gen`` and ``mtime_ns``; with ``size`` and ``digest``
            (BLAKE3) when it is the last; without payload when it is an ``abort`` or ``alive`` record.

    Returns:
        ``OMS2``, the length of the map (uint16, big-endian) and the map: 6 to 16,390 bytes.

    Raises:
        ConfigError: The chunk breaks a rule of the format: a length, a range, what belongs together.
        SourceError: Its path or final name is longer than 4,096 bytes, or not something bytes stand for.

    Source: docs/design.md, section 3.
    """
    offset = chunk.offset
    header: dict[str, Any] = {
        "id": _fixed("version id", chunk.version, ID_BYTES),
        "src": _fixed("source id", chunk.src, ID_BYTES),
        "gen": _natural("generation", chunk.gen),
        "path": _path_out(chunk.path),
        "off": _natural("offset", offset),
        "idx": _natural("chunk index", chunk.index),
        "mtime": _mtime_out(chunk.mtime_ns),
    }
    stop = _natural("end", offset + len(chunk.payload))
    size = chunk.size
    if size is not None:
        header["size"] = _natural("size", size)
        # Records without payload may lie behind the end: an abort may report a file that shrank.
        if stop > size and stop > offset:
            raise _broken(chunk, f"it ends at byte {stop}, behind the file's size of {size}")
    if chunk.last:
        if size != stop:
            raise _broken(chunk, f"it is the last, ends at byte {stop}, and the size is {size}")
        if chunk.hash_name is not HashName.BLAKE3:
            raise _broken(chunk, f"the digest of v2 is BLAKE3, not {chunk.hash_name.value}")
        header["last"] = True
        header["hash"] = _fixed("digest", chunk.digest, DIGEST_BYTES)
        if chunk.name is not None:
            header["name"] = _path_out(chunk.name)
    elif chunk.digest is not None or chunk.name is not None:
        raise _broken(chunk, "a digest and a final name belong to the last chunk")
    if chunk.append:
        raise _broken(chunk, f"v2 has no field for {chunk.append!r}, the text that v1 adds to a name")
    if chunk.attrs:
        header["attrs"] = _attrs_out(chunk)
    if chunk.abort is not None:
        header["abort"] = chunk.abort
    if chunk.alive:
        header["alive"] = True
    if (chunk.abort is not None or chunk.alive) and (
        len(chunk.payload) or chunk.last or (chunk.abort is not None and chunk.alive)
    ):
        raise _broken(chunk, "an abort or keep-alive record has no payload, is not the last, and not both")
    try:
        packed: bytes = msgpack.packb(header)
    except UnicodeEncodeError as error:
        raise _broken(chunk, f"the reason of an abort must be valid Unicode: {error}") from error
    if len(packed) > HEADER_BYTES_MAX:
        raise _broken(chunk, f"its header has {len(packed):,} bytes, the limit is {HEADER_BYTES_MAX:,}")
    return _PREFIX.pack(MAGIC, len(packed)) + packed


def encode(chunk: Chunk) -> bytes:
    """Return the whole record value of a chunk: the header and a copy of its payload; raises as it does."""
    return b"".join((encode_header(chunk), chunk.payload))


def decode(value: bytes | memoryview) -> Chunk:
    """
    Return the chunk in a v2 record value; its payload is a view of ``value``, nothing is copied.

    Unknown keys are ignored, so that later versions can add some; in their values, arrays have at most
    256 items.

    Raises:
        ProtocolError: The value is not exactly what the format allows; the text names the key.

    Source: docs/design.md, section 3.
    """
    view = memoryview(value)
    magic, length = _PREFIX.unpack_from(view) if len(view) >= _PREFIX.size else (b"", 0)
    if magic != MAGIC:
        raise ProtocolError(f"v2 record of {len(view)} bytes does not begin with OMS2 and a header length")
    if length > HEADER_BYTES_MAX:
        raise _refused(f"it claims {length:,} bytes, the limit is {HEADER_BYTES_MAX:,}")
    stop = _PREFIX.size + length
    if stop > len(view):
        raise _refused(f"it claims {length:,} bytes, the record has {len(view) - _PREFIX.size:,}")
    header = _unpack(view[_PREFIX.size : stop])
    payload = view[stop:]
    get = header.get

    version, src = _fixed_in(header, "id", ID_BYTES), _fixed_in(header, "src", ID_BYTES)
    gen, offset, index, mtime_ns = get("gen"), get("off"), get("idx"), get("mtime")
    # `type(x) is int` and not isinstance: true and false are no integers on the wire.
    if not (type(gen) is int and 0 <= gen < _INT_LIMIT):
        raise _wrong(header, "gen", "an integer from 0 to 2**63 - 1")
    if not (type(offset) is int and 0 <= offset < _INT_LIMIT):
        raise _wrong(header, "off", "an integer from 0 to 2**63 - 1")
    if not (type(index) is int and 0 <= index < _INT_LIMIT):
        raise _wrong(header, "idx", "an integer from 0 to 2**63 - 1")
    if not (type(mtime_ns) is int and -_INT_LIMIT <= mtime_ns < _INT_LIMIT):
        raise _wrong(header, "mtime", "an integer from -2**63 to 2**63 - 1")
    size = get("size")
    if size is not None and not (type(size) is int and 0 <= size < _INT_LIMIT):
        raise _wrong(header, "size", "an integer from 0 to 2**63 - 1")
    end = offset + len(payload)
    # Records without payload may lie behind the end: an abort may report a file that shrank.
    if end > offset and end > (_INT_LIMIT - 1 if size is None else size):
        raise _refused(f"'off' is {offset} with {len(payload)} bytes of payload, and 'size' is {size}")

    last, alive = get("last", False), get("alive", False)
    if type(last) is not bool:
        raise _wrong(header, "last", "true or false")
    if type(alive) is not bool:
        raise _wrong(header, "alive", "true or false")
    digest = None
    if last:
        digest = _fixed_in(header, "hash", DIGEST_BYTES)
        if end != size:
            raise _refused(f"the last chunk ends at byte {end}, and 'size' is {size}")
    elif "hash" in header or "name" in header:
        raise _refused("'hash' and 'name' belong to the last chunk")
    abort = get("abort")
    if abort is not None and type(abort) is not str:
        raise _wrong(header, "abort", "text")
    if (abort is not None or alive) and (len(payload) or last or (abort is not None and alive)):
        raise _refused("an 'abort' or 'alive' record has no payload, is not the last, and not both")
    return Chunk(
        version=version,
        path=_path_in(header, "path"),
        offset=offset,
        index=index,
        payload=payload,
        mtime_ns=mtime_ns,
        size=size,
        last=last,
        digest=digest,
        src=src,
        gen=gen,
        name=_path_in(header, "name") if "name" in header else None,
        attrs=_attrs_in(header, length) if "attrs" in header else {},
        abort=abort,
        alive=alive,
    )


def _fixed(what: str, value: bytes | None, length: int) -> bytes:
    if value is None or len(value) != length:
        raise ConfigError(f"the {what} of a v2 chunk has {length} bytes, got {len(value or b'')}")
    return value


def _natural(what: str, value: int | None) -> int:
    if value is None or not 0 <= value < _INT_LIMIT:
        raise ConfigError(f"the {what} of a v2 chunk is from 0 to 2**63 - 1, got {value}")
    return value


def _mtime_out(mtime_ns: int | None) -> int:
    if mtime_ns is None or not -_INT_LIMIT <= mtime_ns < _INT_LIMIT:
        raise ConfigError(f"the mtime of a v2 chunk is from -2**63 to 2**63 - 1 ns, got {mtime_ns}")
    return mtime_ns


def _path_out(path: str) -> str | bytes:
    raw = to_wire_bytes(path)
    if not 0 < len(raw) <= PATH_BYTES_MAX:
        raise SourceError(
            f"path {path[:80]!r} has {len(raw):,} bytes, allowed are 1 to {PATH_BYTES_MAX:,}",
            hint="give the file or its folders shorter names",
        )
    try:
        raw.decode()
    except UnicodeDecodeError:
        return raw
    return path


def _attrs_out(chunk: Chunk) -> dict[str, str]:
    attrs = dict(chunk.attrs)
    for key, text in attrs.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise _broken(chunk, f"attributes are texts, got {key!r}: {text!r}")
    try:
        length = len(msgpack.packb(attrs))
    except UnicodeEncodeError as error:
        raise _broken(chunk, f"attributes must be valid Unicode: {error}") from error
    if length > ATTRS_BYTES_MAX:
        raise _broken(chunk, f"its attributes take {length:,} bytes, the limit is {ATTRS_BYTES_MAX:,}")
    return attrs


def _unpack(packed: memoryview) -> dict[str, Any]:
    try:
        header = msgpack.unpackb(packed, object_pairs_hook=_unique, max_array_len=_ARRAY_ITEMS_MAX)
    except (ValueError, msgpack.UnpackException) as error:
        raise _refused(f"it is not one MessagePack map: {error}") from error
    if type(header) is not dict:
        raise _refused(f"it is a MessagePack {type(header).__name__}, not a map")
    return header


def _unique(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    # Two readers may disagree on which of two equal keys counts, so no header may have them.
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise _refused("a key stands in a map twice")
    for key in mapping:
        if type(key) is not str:
            raise _refused(f"the key {describe(key)} is not text")
    return mapping


def _fixed_in(header: dict[str, Any], key: str, length: int) -> bytes:
    value = header.get(key)
    if type(value) is not bytes or len(value) != length:
        raise _wrong(header, key, f"{length} bytes")
    return value


def _path_in(header: dict[str, Any], key: str) -> str:
    value = header.get(key)
    if type(value) is str:
        # No character takes more than 4 bytes of UTF-8: only longer texts need counting.
        if value and (len(value) <= PATH_BYTES_MAX // 4 or len(value.encode()) <= PATH_BYTES_MAX):
            return value
    elif type(value) is bytes and 0 < len(value) <= PATH_BYTES_MAX:
        return from_wire_bytes(value)
    raise _wrong(header, key, f"text, or bytes that are not UTF-8, of 1 to {PATH_BYTES_MAX:,} bytes")


def _attrs_in(header: dict[str, Any], header_bytes: int) -> dict[str, str]:
    attrs = header["attrs"]
    if type(attrs) is not dict or not all(type(text) is str for text in attrs.values()):
        raise _wrong(header, "attrs", "a map of texts")
    if header_bytes > ATTRS_BYTES_MAX and (length := len(msgpack.packb(attrs))) > ATTRS_BYTES_MAX:
        raise _refused(f"'attrs' takes {length:,} bytes, the limit is {ATTRS_BYTES_MAX:,}")
    return attrs


def _broken(chunk: Chunk, why: str) -> ConfigError:
    return ConfigError(f"chunk {chunk.index} of {chunk.path[:80]!r} cannot be sent: {why}")


def _wrong(header: dict[str, Any], key: str, expected: str) -> ProtocolError:
    if key not in header:
        return _refused(f"the key {key!r} is missing")
    return _refused(f"{key!r} is {describe(header[key])}, expected {expected}")


def _refused(why: str) -> ProtocolError:
    return ProtocolError(f"v2 header refused: {why}", hint=_WRITER)
