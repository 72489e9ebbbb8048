"""Tell the wire formats apart by looking at a record, and decode the ones that this package reads.

This module owns the order of recognition. It must not know how a format is laid out behind its first
bytes (``v1`` and ``v2`` do), nor what becomes of a record that nobody can read.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import msgpack

from openmsistream.core.chunk import Chunk
from openmsistream.core.wire import v1, v2
from openmsistream.errors import ProtocolError

SCHEMA_HEADER = "__value_schema_id"
"""The record header in which Confluent's serializers put the id of a schema."""

_V1_FIRST = (0x99, 0x9A)
_REGISTRY_ID_FIRST = 0x00
_GUID_OR_CIPHER_FIRST = 0x01
_ARRAY_OF_3 = 0x93


class WireFormat(Enum):
    """What a record value looks like; only V1 and V2 can be decoded here."""

    V1 = "v1"
    V2 = "v2"
    AVRO = "avro"
    KAFKACRYPTO = "kafkacrypto"
    UNKNOWN = "unknown"


def recognise(value: bytes | None, headers: Sequence[tuple[str, bytes | None]] | None = None) -> WireFormat:
    """
    Return the format that a record claims by its headers and first bytes; what follows may still be broken.

    The order: header ``__value_schema_id`` (Avro); ``OMS2`` (v2); 0x99 or 0x9a (v1); 0x00 (Avro with the
    number of a schema); 0x01 and one whole MessagePack array of 3 items (KafkaCrypto), or 0x01 otherwise
    (Avro with the GUID of a schema).

    Source: docs/design.md, section 3; the 0x00 and 0x01 prefixes are those of Confluent's schema registry.
    """
    if headers and any(name == SCHEMA_HEADER for name, _ in headers):
        return WireFormat.AVRO
    if not value:
        return WireFormat.UNKNOWN
    if value.startswith(v2.MAGIC):
        return WireFormat.V2
    first = value[0]
    if first in _V1_FIRST:
        return WireFormat.V1
    if first == _REGISTRY_ID_FIRST:
        return WireFormat.AVRO
    if first == _GUID_OR_CIPHER_FIRST:
        return WireFormat.KAFKACRYPTO if _is_ciphertext(value) else WireFormat.AVRO
    return WireFormat.UNKNOWN


def decode_record(value: bytes | None, headers: Sequence[tuple[str, bytes | None]] | None = None) -> Chunk:
    """
    Return the chunk in a record, whichever of our formats it is in.

    Args:
        value: The record's value; None for a tombstone.
        headers: The record's headers as confluent-kafka gives them, or None.

    Raises:
        ProtocolError: The record is in no format that can be read here, or breaks the rules of its format.
            The text says what it looks like.
    """
    match recognise(value, headers):
        case WireFormat.V2 if value is not None:
            return v2.decode(value)
        case WireFormat.V1 if value is not None:
            return v1.decode(value)
        case WireFormat.KAFKACRYPTO:
            raise ProtocolError(
                "record is encrypted with KafkaCrypto, and this program has no keys",
                hint="give it a config file with a [kafkacrypto] section, or a topic that is not encrypted",
            )
        case WireFormat.AVRO:
            raise ProtocolError(
                "record is encoded with Avro, which this version cannot read",
                hint="use a topic of its own for the records of other programs",
            )
        case _:
            raise ProtocolError(
                f"record is not a file chunk: {_looks_like(value)}",
                hint="use a topic of its own for the records of other programs",
            )


def _is_ciphertext(value: bytes) -> bool:
    # One GUID in 256 begins with 0x93 too, so the rest must also be one array from first to last byte.
    if len(value) < 2 or value[1] != _ARRAY_OF_3:
        return False
    try:
        msgpack.unpackb(memoryview(value)[1:], raw=True, max_array_len=16, max_map_len=16)
    except (ValueError, msgpack.UnpackException):
        return False
    return True


def _looks_like(value: bytes | None) -> str:
    if value is None:
        return "it has no value (a tombstone, which deletes a key from a compacted topic)"
    if not value:
        return "its value is empty"
    start = value[:64]
    if all(byte >= 0x20 or byte in b"\t\r\n" for byte in start) and 0x7F not in start:
        kind = "JSON text" if start.lstrip()[:1] in {b"{", b"["} else "text"
        return f"it looks like {kind}, {len(value):,} bytes that begin {start[:32].decode(errors='replace')!r}"
    return f"its {len(value):,} bytes begin {start[:8].hex(' ')}"
