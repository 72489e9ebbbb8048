"""Promises of wire format v2: layout, round trip, and every rule of its header."""

from __future__ import annotations

import dataclasses
import struct

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmsistream.core.chunk import Chunk, HashName
from openmsistream.core.wire import v2
from openmsistream.errors import ConfigError, ProtocolError, SourceError

PLAIN = Chunk(
    version=bytes(range(16)),
    path="run 01/scan;0001 (\u03b1).csv",
    offset=1024,
    index=1,
    payload=b"payload",
    mtime_ns=1_795_251_641_108_264_200,
    src=b"S" * 16,
    gen=1_795_251_641_000_000_000,
)
LAST = dataclasses.replace(PLAIN, size=1031, last=True, digest=b"D" * 32)
HEADER = {
    "id": PLAIN.version,
    "src": PLAIN.src,
    "gen": PLAIN.gen,
    "path": PLAIN.path,
    "off": 1024,
    "idx": 1,
    "mtime": PLAIN.mtime_ns,
}
LAST_HEADER = {**HEADER, "size": 1031, "last": True, "hash": b"D" * 32}

naturals = st.integers(0, 2**63 - 1)
paths = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200),
    st.binary(min_size=1, max_size=800).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@st.composite
def chunks(draw: st.DrawFn) -> Chunk:
    """Any chunk that v2 can carry: in the middle, last, aborting, or keeping alive."""
    kind = draw(st.sampled_from(["plain", "last", "abort", "alive"]))
    payload = draw(st.binary(max_size=64)) if kind in {"plain", "last"} else b""
    offset = draw(st.integers(0, 2**63 - 1 - 64))
    stop = offset + len(payload)
    size = stop if kind == "last" else draw(st.none() | st.integers(stop, 2**63 - 1))
    return Chunk(
        version=draw(st.binary(min_size=16, max_size=16)),
        path=draw(paths),
        offset=offset,
        index=draw(naturals),
        payload=payload,
        mtime_ns=draw(st.integers(-(2**63), 2**63 - 1)),
        size=size,
        last=kind == "last",
        digest=draw(st.binary(min_size=32, max_size=32)) if kind == "last" else None,
        src=draw(st.binary(min_size=16, max_size=16)),
        gen=draw(naturals),
        name=draw(st.none() | paths) if kind == "last" else None,
        attrs=draw(st.dictionaries(texts, texts, max_size=5)),
        abort=draw(texts) if kind == "abort" else None,
        alive=kind == "alive",
    )


def framed(header: object, payload: bytes = b"payload") -> bytes:
    """A v2 record around any header at all."""
    packed = header if isinstance(header, bytes) else msgpack.packb(header)
    return b"OMS2" + struct.pack(">H", len(packed)) + packed + payload


def test_a_record_is_magic_length_map_and_payload():
    """The layout as docs/design.md states it, read here with nothing but struct and MessagePack."""
    value = v2.encode(LAST)

    assert value[:4] == b"OMS2"
    length = int.from_bytes(value[4:6], "big")
    assert msgpack.unpackb(value[6 : 6 + length]) == LAST_HEADER
    assert value[6 + length :] == b"payload"
    assert v2.encode_header(LAST) + b"payload" == value


def test_an_empty_file_is_one_empty_last_chunk():
    """A file of 0 bytes travels like any other."""
    empty = dataclasses.replace(LAST, offset=0, index=0, payload=b"", size=0)
    assert v2.decode(v2.encode(empty)) == empty


@given(chunk=chunks())
def test_every_chunk_comes_back_as_it_was(chunk):
    """Round trip of every kind of record, with any path, bytes that are not UTF-8 included."""
    assert v2.decode(v2.encode(chunk)) == chunk
    assert v2.decode(memoryview(v2.encode(chunk))) == chunk


@given(value=chunks().map(v2.encode))
def test_a_decoded_chunk_is_written_the_same_again(value):
    """One chunk has one encoding, so a record can be passed on and compared."""
    assert v2.encode(v2.decode(value)) == value


def test_the_payload_is_a_view_of_the_record_and_not_a_copy():
    """Half a megabyte per chunk is not copied to be looked at."""
    value = v2.encode(PLAIN)
    payload = v2.decode(value).payload
    assert isinstance(payload, memoryview)
    assert payload.obj is value


def test_a_name_that_is_not_unicode_travels_as_its_bytes():
    """The key `path` is text where text can say it, else the raw bytes."""
    header = msgpack.unpackb(v2.encode_header(dataclasses.replace(PLAIN, path="a\udcff\udc80.raw"))[6:])
    assert header["path"] == b"a\xff\x80.raw"


def test_unknown_keys_are_ignored():
    """A later version may add keys, with values of any kind, and this one still reads its records."""
    more = {**HEADER, "codec": "zstd", "extra": {"deep": [1, [2.5, None]]}, "when": msgpack.Timestamp(1, 2)}
    assert v2.decode(framed(more)) == PLAIN


def test_false_means_the_same_as_a_missing_key():
    """A writer may state `last` and `alive` always."""
    assert v2.decode(framed({**HEADER, "last": False, "alive": False})) == PLAIN


@pytest.mark.parametrize("key", ["id", "src", "gen", "path", "off", "idx", "mtime"])
def test_a_missing_key_is_named(key):
    """Who writes to the topic learns which key is missing."""
    header = {name: value for name, value in HEADER.items() if name != key}
    with pytest.raises(ProtocolError, match=f"the key '{key}' is missing"):
        v2.decode(framed(header))


def test_a_last_chunk_without_hash_is_refused():
    """Without the digest nobody could verify the file."""
    header = {name: value for name, value in LAST_HEADER.items() if name != "hash"}
    with pytest.raises(ProtocolError, match="the key 'hash' is missing"):
        v2.decode(framed(header))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"id": b"short"}, "'id' is 5 bytes, expected 16"),
        ({"id": "0123456789abcdef"}, "'id' is '0123456789abcdef', expected 16 bytes"),
        ({"src": bytes(17)}, "'src' is 17 bytes"),
        ({"src": None}, "'src' is None"),
        ({"gen": -1}, "'gen' is -1"),
        ({"gen": True}, "'gen' is True"),
        ({"off": 2**63}, "'off' is 9223372036854775808"),
        ({"off": 1.0}, "'off' is 1.0"),
        ({"off": 2**63 - 1}, "with 7 bytes of payload"),
        ({"idx": "1"}, "'idx' is '1'"),
        ({"mtime": None}, "'mtime' is None"),
        ({"mtime": 2**63}, "'mtime' is 9223372036854775808"),
        ({"size": -1}, "'size' is -1"),
        ({"size": True}, "'size' is True"),
        ({"size": 1030}, "'size' is 1030"),
        ({"path": ""}, "'path' is ''"),
        ({"path": 5}, "'path' is 5"),
        ({"path": b""}, "'path' is 0 bytes"),
        ({"path": "a" * 4097}, "'path' is a text of 4,097 characters"),
        ({"path": "é" * 2049}, "'path' is a text of 2,049 characters"),
        ({"path": b"\xff" * 4097}, "'path' is 4,097 bytes"),
        ({"last": 1}, "'last' is 1"),
        ({"alive": "yes"}, "'alive' is 'yes'"),
        ({"last": True, "size": 1032, "hash": bytes(32)}, "ends at byte 1031"),
        ({"last": True, "hash": bytes(32)}, "ends at byte 1031, and 'size' is None"),
        ({"last": True, "size": 1031, "hash": bytes(31)}, "'hash' is 31 bytes"),
        ({"last": True, "size": 1031, "hash": bytes(32), "name": 3}, "'name' is 3"),
        ({"hash": bytes(32)}, "belong to the last chunk"),
        ({"name": "final.csv"}, "belong to the last chunk"),
        ({"abort": "gone"}, "has no payload"),
        ({"abort": b"gone"}, "'abort' is 4 bytes"),
        ({"alive": True}, "has no payload"),
        ({"attrs": ["a"]}, "'attrs' is a list of 1"),
        ({"attrs": {"a": 1}}, "'attrs' is a map of 1"),
        ({"attrs": {"a": "x" * 9000}}, "'attrs' takes 9,006 bytes"),
    ],
)
def test_a_header_that_breaks_a_rule_is_refused_with_key_and_value(change, text):
    """Each rule of the header, seen from the consumer: what is wrong, and which value."""
    with pytest.raises(ProtocolError) as caught:
        v2.decode(framed({**HEADER, **change}))
    assert text in str(caught.value)


@pytest.mark.parametrize("both", [{"abort": "gone", "alive": True}, {**LAST_HEADER, "size": 1024, "abort": "x"}])
def test_a_record_cannot_be_two_things_at_once(both):
    """An abort is no keep-alive, and neither is the last chunk."""
    with pytest.raises(ProtocolError, match="and not both"):
        v2.decode(framed({**HEADER, **both}, payload=b""))


@pytest.mark.parametrize(
    ("packed", "text"),
    [
        (b"", "not one MessagePack map"),
        (b"\xc0", "not a map"),
        (msgpack.packb([1, 2]), "not a map"),
        (msgpack.packb(HEADER) + b"\xc0", "not one MessagePack map"),
        (msgpack.packb(HEADER)[:-1], "not one MessagePack map"),
        (b"\x82\xa2id\x01\xa2id\x02", "twice"),
        (b"\x81\xa5attrs\x82\xa1a\xa1b\xa1a\xa1c", "twice"),
        (b"\x81\xc4\x02id\x01", "the key 2 bytes is not text"),
        (b"\x81\x05\x01", "not one MessagePack map"),
        (b"\x81\xa2\xff\xfe\x01", "not one MessagePack map"),
        (b"\xc1", "not one MessagePack map"),
    ],
)
def test_a_header_that_is_not_one_clean_map_is_refused(packed, text):
    """Trailing bytes, doubled keys, keys that are not text, broken text: nothing is guessed."""
    with pytest.raises(ProtocolError, match=text):
        v2.decode(framed(packed))


@pytest.mark.parametrize("value", [b"", b"OMS", b"OMS2", b"OMS2\x00", b"OMS3\x00\x00", b"\x9a" * 20])
def test_a_record_without_the_frame_is_refused(value):
    """Too short, or not ours."""
    with pytest.raises(ProtocolError, match="does not begin with OMS2"):
        v2.decode(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [(b"OMS2\x00\x05abcd", "claims 5 bytes"), (b"OMS2\x40\x01" + bytes(20_000), "claims 16,385 bytes")],
)
def test_a_header_length_beyond_record_or_limit_is_refused(value, text):
    """The claimed length is checked before anything is read."""
    with pytest.raises(ProtocolError, match=text):
        v2.decode(value)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"version": b"short"}, "the version id of a v2 chunk has 16 bytes, got 5"),
        ({"src": None}, "the source id of a v2 chunk has 16 bytes, got 0"),
        ({"gen": None}, "the generation of a v2 chunk is from 0 to 2**63 - 1, got None"),
        ({"gen": 2**63}, "got 9223372036854775808"),
        ({"offset": -1}, "the offset of a v2 chunk is from 0"),
        ({"offset": 2**63 - 1}, "the end of a v2 chunk"),
        ({"index": -1}, "the chunk index of a v2 chunk is from 0"),
        ({"mtime_ns": None}, "the mtime of a v2 chunk"),
        ({"size": -1}, "the size of a v2 chunk"),
        ({"size": 1030}, "ends at byte 1031, behind the file's size of 1030"),
        ({"last": True}, "it is the last, ends at byte 1031, and the size is None"),
        ({"last": True, "size": 1032}, "it is the last, ends at byte 1031, and the size is 1032"),
        ({"last": True, "size": 1031}, "the digest of a v2 chunk has 32 bytes, got 0"),
        ({"last": True, "size": 1031, "hash_name": HashName.SHA512}, "BLAKE3, not sha512"),
        ({"digest": bytes(32)}, "belong to the last chunk"),
        ({"name": "x"}, "belong to the last chunk"),
        ({"append": "_a"}, "v2 has no field for '_a'"),
        ({"abort": "gone"}, "has no payload"),
        ({"alive": True}, "has no payload"),
        ({"attrs": {"a": 1}}, "attributes are texts"),
        ({"attrs": {"a": "\udcff"}}, "attributes must be valid Unicode"),
        ({"attrs": {"a": "x" * 8192}}, "its attributes take 8,198 bytes, the limit is 8,192"),
        ({"payload": b"", "abort": "\udcff"}, "the reason of an abort must be valid Unicode"),
        ({"payload": b"", "abort": "x" * 17_000}, "the limit is 16,384"),
    ],
)
def test_a_chunk_that_breaks_a_rule_is_not_sent(change, text):
    """Each rule of the header, seen from the producer: it fails here and not at the consumers."""
    with pytest.raises(ConfigError) as caught:
        v2.encode_header(dataclasses.replace(PLAIN, **change))
    assert text in str(caught.value)


@pytest.mark.parametrize("path", ["", "a" * 4097, "é" * 2049, "\udcff" * 4097])
@pytest.mark.parametrize("key", ["path", "name"])
def test_a_path_beyond_the_limit_is_an_error_of_the_source(path, key):
    """The one who can help is the owner of the file, so the error says so."""
    with pytest.raises(SourceError, match=r"allowed are 1 to 4,096") as caught:
        v2.encode_header(dataclasses.replace(LAST, **{key: path}))
    assert "shorter names" in caught.value.hint


@pytest.mark.parametrize("path", ["a" * 4096, "é" * 2048, "\udcff" * 4096])
def test_a_path_at_the_limit_still_travels(path):
    """4,096 bytes is the longest that Linux allows, and it fits."""
    chunk = dataclasses.replace(LAST, path=path, name=path)
    assert v2.decode(v2.encode(chunk)) == chunk


def test_an_abort_may_lie_behind_the_end_of_a_file_that_shrank():
    """The record that says "truncated" is itself never refused."""
    chunk = dataclasses.replace(PLAIN, payload=b"", size=10, abort="the file shrank from 1031 to 10 bytes")
    assert v2.decode(v2.encode(chunk)) == chunk
