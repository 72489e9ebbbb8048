"""Promises of ``core.wire.recognise``: every format is told apart by itself, in a fixed order."""

from __future__ import annotations

import hashlib

import msgpack
import pytest

from openmsistream.core.chunk import Chunk, HashName
from openmsistream.core.wire import v1, v2
from openmsistream.core.wire.recognise import WireFormat, decode_record, recognise
from openmsistream.errors import ProtocolError

DIGEST = hashlib.sha512(b"x").digest()
V1_CHUNK = Chunk(
    version=DIGEST,
    path="a/b.csv",
    offset=0,
    index=0,
    payload=b"x",
    digest=DIGEST,
    hash_name=HashName.SHA512,
    total=1,
)
V2_CHUNK = Chunk(version=bytes(16), path="a/b.csv", offset=0, index=0, payload=b"x", mtime_ns=1, src=bytes(16), gen=1)
CIPHERTEXT = b"\x01" + msgpack.packb([b"key id", b"salt", b"sealed"])


def test_both_formats_are_read_from_one_topic_without_a_setting():
    """v2, and v1 with 9 and with 10 fields, mixed."""
    assert decode_record(v2.encode(V2_CHUNK), None) == V2_CHUNK
    assert decode_record(v1.encode(V1_CHUNK, fields=9), []) == V1_CHUNK
    assert decode_record(v1.encode(V1_CHUNK, fields=10), [("trace", b"1"), ("empty", None)]) == V1_CHUNK


@pytest.mark.parametrize(
    "value", [CIPHERTEXT, b"\x01" + msgpack.packb([b"\xff", [1, b"\xfe"], b"\xfd" * 40], use_bin_type=False)]
)
def test_ciphertext_of_kafkacrypto_is_called_by_its_name(value):
    """A consumer without keys says why it cannot read a record, however its bytes are marked."""
    assert recognise(value) is WireFormat.KAFKACRYPTO
    with pytest.raises(ProtocolError, match="encrypted with KafkaCrypto, and this program has no keys"):
        decode_record(value)


@pytest.mark.parametrize(
    "value",
    [
        b"\x00\x00\x00\x00\x07avro",
        b"\x01" + bytes.fromhex("897917622336418696742999b0a802e2") + b"avro",
        b"\x01" + bytes.fromhex("937917622336418696742999b0a802e2") + b"avro",
        b"\x01",
        b"\x01\x93",
        CIPHERTEXT + b"\xc0",
        b"\x00",
    ],
)
def test_records_of_a_schema_registry_are_called_avro(value):
    """0x00 and a number, or 0x01 and a GUID, also one that begins like an array of 3."""
    assert recognise(value) is WireFormat.AVRO
    with pytest.raises(ProtocolError, match="encoded with Avro, which this version cannot read"):
        decode_record(value)


@pytest.mark.parametrize("value", [v2.encode(V2_CHUNK), v1.encode(V1_CHUNK), CIPHERTEXT, b"", None])
def test_the_schema_header_comes_first(value):
    """With `__value_schema_id` among the headers, the value's own first bytes do not count."""
    headers = [("other", None), ("__value_schema_id", b"\x01" + bytes(16))]
    assert recognise(value, headers) is WireFormat.AVRO


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "a tombstone"),
        (b"", "its value is empty"),
        (b'{"timestamp": "2026-11-21"}', "looks like JSON text, 27 bytes"),
        (b"[1, 2]", "looks like JSON text"),
        (b"hello", "looks like text, 5 bytes that begin 'hello'"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", "its 11 bytes begin ff d8 ff e0 00 10 4a 46"),
        (b"OMS1rest\x00", "its 9 bytes begin 4f 4d"),
    ],
)
def test_what_is_no_chunk_is_described(value, text):
    """Whoever looks into the quarantine learns what the record looks like."""
    assert recognise(value) is WireFormat.UNKNOWN
    with pytest.raises(ProtocolError) as caught:
        decode_record(value, None)
    assert text in str(caught.value)


@pytest.mark.parametrize("value", [b"\x99rest", b"\x9a", b"OMS2", b"OMS2\xff\xff"])
def test_a_broken_chunk_is_refused_by_its_own_format(value):
    """Beginning like one of our formats, the record is judged by that format's rules."""
    with pytest.raises(ProtocolError, match=r"^v[12] "):
        decode_record(value)
