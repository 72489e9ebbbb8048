"""Promise of the wire formats: any record at all gives a chunk or a ProtocolError, soon and cheaply."""

from __future__ import annotations

import hashlib
import struct
import time
import tracemalloc

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmsistream.core.chunk import Chunk, HashName
from openmsistream.core.wire import v1, v2
from openmsistream.core.wire.recognise import decode_record
from openmsistream.errors import ProtocolError

MIB = 1 << 20
DIGEST = hashlib.sha512(b"abc" * 30).digest()
SEEDS = [
    v1.encode(
        Chunk(
            version=DIGEST,
            path="run 1/détecteur/scan.csv",
            offset=7,
            index=1,
            payload=b"abc" * 30,
            mtime_ns=1_700_000_000_000_000_000,
            digest=DIGEST,
            hash_name=HashName.SHA512,
            total=3,
        ),
        fields=fields,
    )
    for fields in (9, 10)
] + [
    v2.encode(
        Chunk(
            version=bytes(range(16)),
            path=path,
            offset=7,
            index=1,
            payload=b"abc" * 30,
            mtime_ns=1,
            size=97,
            last=True,
            digest=bytes(32),
            src=bytes(16),
            gen=2**40,
            attrs={"instrument": "XRD", "operator": "é"},
        )
    )
    for path in ("run 1/détecteur/scan.csv", "a\udcff.raw")
]

# Headers of MessagePack objects that claim 4 GiB, 64 KiB or 15 items and bring nothing.
CLAIMS = [b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9"]
BOMB_HEADS = [head + b"\xff\xff\xff\xff" for head in CLAIMS] + [
    b"\xdc\xff\xff",
    b"\xde\xff\xff",
    b"\x9a",
    b"\x93",
    b"\x8f",
    b"\x81\xa1a",
    b"\x81\xa2id",
    b"\x91",
]


def framed(header: bytes) -> bytes:
    """A v2 record around the bytes of a header."""
    header = header[: v2.HEADER_BYTES_MAX]
    return b"OMS2" + struct.pack(">H", len(header)) + header


def bombs() -> list[bytes]:
    """Records that claim far more than they bring: alone, and nested as deep as they fit."""
    found = []
    for head in [*BOMB_HEADS, b"\xdd\x00\x00\x01\x00", b"\xdc\x01\x00", b"\xdd\x00\x00\x10\x00"]:
        for body in (head, head * (4096 // len(head)), head * (16_000 // len(head))):
            found += [body, b"\x9a" + body, b"\x99" + body, b"\x01\x93" + body, framed(body)]
            found.append(framed(b"\x82\xa3off" + body))
            found.append(framed(b"\x81\xa5attrs" + body))
    # Whole objects nested deeper than repr() can follow, where a number or a text is expected.
    for depth in (500, 1000, 1015, 5000):
        nested = b"\x91" * depth + b"\xc0"
        found += [b"\x9a" + nested * 10, framed(b"\x81\xa3off" + nested), framed(b"\x81\xa2id" + nested)]
        found.append(b"\x9a\xa1a" + (b"\xc4\x40" + bytes(64)) * 2 + b"\x01" + nested + b"\x01\xa0\xa0\xc4\x00\xc0")
    return found


def outcome(value: bytes) -> Chunk | ProtocolError:
    """What decoding gives; every exception but a ProtocolError passes through and fails the test."""
    try:
        return decode_record(value, None)
    except ProtocolError as error:
        return error


def peak_bytes(decode, value: bytes) -> int:
    """The most memory that decoding took at once, whatever came of it."""
    tracemalloc.start()
    try:
        decode(value)
    except (ValueError, ProtocolError):
        return tracemalloc.get_traced_memory()[1]
    else:
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A real record with bits flipped, bytes replaced, parts cut out or put in, or its end cut off."""
    value = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(value)))
        match draw(st.sampled_from(["flip", "claim", "insert", "cut", "end"])):
            case "flip" if place < len(value):
                value[place] ^= 1 << draw(st.integers(0, 7))
            case "claim":
                value[place : place + 1] = draw(st.sampled_from(BOMB_HEADS))
            case "insert":
                value[place:place] = draw(st.binary(min_size=1, max_size=8))
            case "cut":
                del value[place : place + draw(st.integers(1, 20))]
            case _:
                del value[place:]
    return bytes(value)


@given(value=st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_cleanly(value):
    """Noise on a topic never raises anything but a ProtocolError."""
    assert isinstance(outcome(value), (Chunk, ProtocolError))


@given(
    start=st.sampled_from([b"\x99", b"\x9a", b"\x01\x93", b"OMS2", b"OMS2\x00\x10", b"\x00"]),
    rest=st.binary(max_size=200),
)
def test_noise_behind_the_right_first_bytes_is_refused_cleanly(start, rest):
    """Each format's own decoder stands against noise, not only the recognition in front of it."""
    assert isinstance(outcome(start + rest), (Chunk, ProtocolError))


@given(
    header=st.dictionaries(
        st.sampled_from(
            [
                "id",
                "src",
                "gen",
                "path",
                "off",
                "idx",
                "mtime",
                "size",
                "last",
                "hash",
                "name",
                "attrs",
                "abort",
                "alive",
                "?",
            ]
        ),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**63), 2**64 - 1)
            | st.floats()
            | st.binary(max_size=33)
            | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
            max_leaves=5,
        ),
    )
)
def test_headers_of_the_right_shape_with_wrong_values_are_refused_cleanly(header):
    """Any value under any key of v2."""
    assert isinstance(outcome(framed(msgpack.packb(header))), (Chunk, ProtocolError))


@given(value=mutated())
@settings(max_examples=400)
def test_damaged_records_give_a_chunk_or_a_protocol_error(value):
    """Flipped bits, cut ends, inserted bytes and false lengths in real records."""
    assert isinstance(outcome(value), (Chunk, ProtocolError))


@given(value=mutated().filter(lambda value: value[:1] in {b"\x99", b"\x9a"}))
def test_a_damaged_v1_payload_is_never_accepted(value):
    """What is accepted in v1 has the SHA-512 it came with, so it can be written down again."""
    result = outcome(value)
    if isinstance(result, Chunk):
        again = v1.decode(v1.encode(result, fields=9))
        assert (again.payload, again.offset, again.path) == (result.payload, result.offset, result.path)


@pytest.mark.parametrize("seed", range(len(SEEDS)))
def test_a_record_cut_short_anywhere_in_its_header_is_refused(seed):
    """No prefix of a v1 record, and of a v2 record none that ends before its payload, is a chunk."""
    value = SEEDS[seed]
    whole = len(value) if value[0] in {0x99, 0x9A} else len(value) - 90
    for length in range(whole):
        assert isinstance(outcome(value[:length]), ProtocolError)
    assert isinstance(outcome(value), Chunk)


BOMBS = bombs()


@pytest.mark.parametrize("number", range(len(BOMBS)))
def test_a_record_costs_no_more_than_it_weighs_whatever_it_claims(number):
    """4-GiB lengths and nesting to any depth: an error, within 3 MiB and half a second of computing time."""
    value = BOMBS[number]
    begin = time.process_time()
    result = outcome(value)
    spent = time.process_time() - begin

    assert isinstance(result, ProtocolError)
    assert len(str(result)) < 500
    assert spent < 0.5
    assert peak_bytes(decode_record, value) < 3 * MIB + 4 * len(value)


def test_without_the_limits_the_same_records_would_cost_far_more():
    """Control: MessagePack left to itself takes more than our budget for a record of 4 KiB."""
    bomb = b"\xdd\x00\x00\x10\x00" * 900
    assert peak_bytes(msgpack.unpackb, bomb) > 3 * MIB + 4 * len(bomb)
    assert peak_bytes(decode_record, b"\x9a" + bomb) < 64 * 1024


def test_without_the_limits_the_same_records_would_raise_other_errors():
    """Control: the corpus does provoke exceptions that are not ours, of more than one kind."""
    kinds = set()
    for value in [*BOMBS, b"", b"\xc1"]:
        try:
            repr(msgpack.unpackb(value))
        except Exception as error:
            kinds.add(type(error).__name__)
    assert len(kinds) >= 3, kinds


def test_a_large_payload_is_not_copied_to_be_decoded():
    """One chunk of 4 MiB in v2 costs a few kilobytes to look at."""
    value = SEEDS[2][:-90] + b"x" * 90
    header, big = value[:-90], b"x" * (4 * MIB)
    length = int.from_bytes(header[4:6], "big")
    fields = msgpack.unpackb(header[6 : 6 + length])
    packed = msgpack.packb({**fields, "off": 0, "size": len(big)})
    record = b"OMS2" + struct.pack(">H", len(packed)) + packed + big

    assert v2.decode(record).size == 4 * MIB
    assert peak_bytes(v2.decode, record) < 64 * 1024
