"""Promises of wire format v1: what 1.x wrote is read, and what we write is what 1.x would have written."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
from collections import defaultdict
from pathlib import Path, PurePosixPath

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmsistream.core.chunk import Chunk, HashName
from openmsistream.core.wire import v1
from openmsistream.errors import ConfigError, ProtocolError, SourceError

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
RECORDS = [
    (fields, base64.b64decode(record["key_b64"]).decode(), base64.b64decode(record["value_b64"]))
    for fields, name in ((10, "chunks_10_fields_v1.8.8.jsonl"), (9, "chunks_9_fields_v1.8.5.jsonl"))
    for record in map(json.loads, (GOLDEN / name).read_text(encoding="utf-8").splitlines())
]
GOLDEN_PATHS = {
    10: {
        "no_suffix",
        "root_level.dat",
        "run 01/one_byte.x",
        "run 01/scan;0001 (\u03b1).csv",
        "run 01/détecteur/exact_multiple.bin",
    },
    9: {"root_level.dat", "scan;0001 (\u03b1).csv", "exact_multiple.bin"},
}

DATA = b"some bytes"
DIGEST = hashlib.sha512(b"the whole file").digest()
CHUNK = Chunk(
    version=DIGEST,
    path="run 1/scan.csv",
    offset=1024,
    index=1,
    payload=DATA,
    mtime_ns=1_795_251_641_500_000_000,
    digest=DIGEST,
    hash_name=HashName.SHA512,
    total=3,
)
#      filename    file  chunk                           offset i  n  subdir   append data  mtime
ARRAY = ["scan.csv", DIGEST, hashlib.sha512(DATA).digest(), 1024, 2, 3, "run 1", "", DATA, 1_795_251_641.5]


def changed(position: int, value: object) -> bytes:
    """The record of ``ARRAY`` with one field replaced."""
    return msgpack.packb([*ARRAY[:position], value, *ARRAY[position + 1 :]])


def test_the_golden_data_is_all_there():
    """11 records with 10 fields and 9 with 9: the tests below are not vacuous."""
    assert [fields for fields, _, _ in RECORDS].count(10) == 11
    assert [fields for fields, _, _ in RECORDS].count(9) == 9


@pytest.mark.parametrize(("fields", "key", "value"), RECORDS, ids=[f"{f}-{k}" for f, k, _ in RECORDS])
def test_golden_records_are_reproduced_byte_for_byte(fields, key, value):
    """Value and key, for both lengths of the array: a 1.x consumer cannot tell our records from its own."""
    chunk = v1.decode(value)

    assert v1.encode(chunk, fields=fields) == value
    assert v1.record_key(chunk.path, chunk.index, chunk.total) == key
    assert (chunk.mtime_ns is None) == (fields == 9)


@pytest.mark.parametrize("fields", [9, 10])
def test_golden_records_rebuild_the_files_they_were_made_from(fields):
    """Every byte of every file, at its offset, under its path, with its digest."""
    files: dict[str, dict[int, Chunk]] = defaultdict(dict)
    for count, _, value in RECORDS:
        if count == fields:
            chunk = v1.decode(value)
            files[chunk.path][chunk.offset] = chunk

    assert set(files) == GOLDEN_PATHS[fields]
    on_disk = {path.name: path.read_bytes() for path in (GOLDEN / "tree").rglob("*") if path.is_file()}
    for path, chunks in files.items():
        content = on_disk[PurePosixPath(path).name]
        assert b"".join(bytes(chunks[offset].payload) for offset in sorted(chunks)) == content
        assert sorted(chunks) == list(range(0, len(content), 1024))
        assert {chunk.digest for chunk in chunks.values()} == {hashlib.sha512(content).digest()}
        assert {chunk.total for chunk in chunks.values()} == {len(chunks)}
        assert [chunks[offset].index for offset in sorted(chunks)] == list(range(len(chunks)))


def test_a_record_is_the_array_of_the_compatibility_page():
    """All fields in their places, counting chunks from 1."""
    assert msgpack.unpackb(v1.encode(CHUNK)) == ARRAY
    assert msgpack.unpackb(v1.encode(CHUNK, fields=9)) == ARRAY[:9]
    assert v1.decode(msgpack.packb(ARRAY)) == CHUNK


utf8 = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@st.composite
def chunks(draw: st.DrawFn) -> Chunk:
    """Any chunk that v1 can carry."""
    total = draw(st.integers(1, 2**63 - 1))
    digest = draw(st.binary(min_size=64, max_size=64))
    return Chunk(
        version=digest,
        path="/".join(draw(st.lists(utf8.filter(lambda part: part and "/" not in part), min_size=1, max_size=4))),
        offset=draw(st.integers(0, 2**63 - 100)),
        index=draw(st.integers(0, total - 1)),
        payload=draw(st.binary(max_size=64)),
        digest=digest,
        hash_name=HashName.SHA512,
        total=total,
        append=draw(utf8),
    )


@given(chunk=chunks(), fields=st.sampled_from([9, 10]))
def test_every_chunk_comes_back_as_it_was(chunk, fields):
    """Round trip with any Unicode path; also when the payload is handed over as a view."""
    assert v1.decode(v1.encode(chunk, fields=fields)) == chunk
    viewed = dataclasses.replace(chunk, payload=memoryview(bytes(chunk.payload)))
    assert v1.encode(viewed, fields=fields) == v1.encode(chunk, fields=fields)


# Earlier than 2**24 seconds (July 1970) a float64 tells less than a nanosecond apart.
@given(seconds=st.floats(2**24, 2**33))
def test_a_modification_time_survives_to_its_last_bit(seconds):
    """A float64 of 1.x, kept by us in ns and sent on, is the same float64."""
    value = changed(9, seconds)
    assert v1.encode(v1.decode(value)) == value


@pytest.mark.parametrize("mtime_ns", [1_795_251_641_108_264_213, 1_700_000_000_999_999_999, 1_234_567_890_000_000_001])
def test_the_modification_time_is_the_float_that_the_system_reports(tmp_path, mtime_ns):
    """What ``os.stat`` calls st_mtime for a file is what travels."""
    file = tmp_path / "x"
    file.touch()
    os.utime(file, ns=(mtime_ns, mtime_ns))
    stat = file.stat()

    value = v1.encode(dataclasses.replace(CHUNK, mtime_ns=stat.st_mtime_ns))

    assert msgpack.unpackb(value)[9] == stat.st_mtime


@pytest.mark.parametrize("seconds", [0.0, -1.5, 0, -3, float("-inf")])
def test_a_modification_time_of_zero_or_less_means_none(seconds):
    """As in 1.x."""
    assert v1.decode(changed(9, seconds)).mtime_ns is None


def test_an_unknown_modification_time_is_sent_as_zero():
    """As in 1.x."""
    assert msgpack.unpackb(v1.encode(dataclasses.replace(CHUNK, mtime_ns=None)))[9] == 0.0


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("a b/c/x y.dat", "a b_c_x y.dat_chunk_2_of_3"),
        ("top.dat", "_top.dat_chunk_2_of_3"),
        ("a_b/f", "a_b_f_chunk_2_of_3"),
    ],
)
def test_keys_are_those_of_1x(path, key):
    """Folder with underscores, name, number from 1: seen from 1.8.8."""
    assert v1.record_key(path, 1, 3) == key


@pytest.mark.parametrize(
    ("path", "append", "expected"),
    [
        ("run/scan.csv", "_a", "run/scan_a.csv"),
        ("scan.tar.gz", "_a", "scan.tar_a.gz"),
        ("no_suffix", "_a", "no_suffix_a"),
        ("a.b/no_suffix", "_a", "a.b/no_suffix_a"),
        (".hidden", "_a", ".hidden_a"),
        (".hidden.csv", "_a", ".hidden_a.csv"),
        ("dot.", "_a", "dot._a"),
        ("run/scan.csv", "", "run/scan.csv"),
    ],
)
def test_the_text_to_insert_goes_between_stem_and_suffix(path, append, expected):
    """A file that 1.x would deliver as ``scan_a.csv`` gets that name here too."""
    assert v1.delivered_name(path, append) == expected


@given(
    name=st.from_regex(r"[a-c][a-c.]{0,6}[a-c]", fullmatch=True),
    append=st.from_regex(r"[x_]{1,3}", fullmatch=True),
)
def test_stem_and_suffix_are_those_of_pathlib(name, append):
    """The rule of 1.x is the one of ``pathlib``, whatever dots a name has."""
    path = PurePosixPath("d.d") / name
    assert v1.delivered_name(str(path), append) == f"d.d/{path.stem}{append}{path.suffix}"


@pytest.mark.parametrize(
    ("position", "value", "text"),
    [
        (0, b"scan.csv", "filename is 8 bytes, expected text"),
        (0, None, "filename is None"),
        (1, b"short", "file_hash is 5 bytes, expected 64"),
        (1, "x" * 64, "file_hash is a text of 64 characters"),
        (2, bytes(64), "do not have the SHA-512"),
        (2, None, "chunk_hash is None"),
        (3, -1, "chunk_offset_write is -1"),
        (3, 2**63, "chunk_offset_write is 9223372036854775808"),
        (3, True, "chunk_offset_write is True"),
        (4, 0, "chunk_i is 0, expected an integer from 1 to 3"),
        (4, 4, "chunk_i is 4"),
        (4, 2.0, "chunk_i is 2.0"),
        (5, 0, "n_total_chunks is 0"),
        (5, 2**63, "n_total_chunks is 9223372036854775808"),
        (5, True, "n_total_chunks is True"),
        (6, 7, "subdir_str is 7"),
        (7, None, "filename_append is None"),
        (8, "text", "data is 'text', expected bytes"),
        (8, b"other bytes", "do not have the SHA-512"),
        (9, "now", "file_mtime is 'now'"),
        (9, True, "file_mtime is True"),
        (9, float("nan"), "file_mtime is nan"),
        (9, float("inf"), "file_mtime is inf"),
        (9, 1e12, "file_mtime is 1000000000000.0"),
    ],
)
def test_a_field_that_breaks_a_rule_is_refused_by_name(position, value, text):
    """Each field is checked; 1.x checked few of them."""
    with pytest.raises(ProtocolError) as caught:
        v1.decode(changed(position, value))
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x9a",
        msgpack.packb(ARRAY[:8]),
        msgpack.packb([*ARRAY, 1]),
        msgpack.packb(ARRAY)[:-1],
        msgpack.packb(ARRAY) + b"\xc0",
        msgpack.packb([b"\xff\xfe", *ARRAY[1:]], use_bin_type=False),
        changed(0, {}),
        changed(0, msgpack.Timestamp(1, 2)),
        changed(0, [1] * 11),
    ],
)
def test_anything_but_one_whole_array_of_9_or_10_is_refused(value):
    """Lengths, trailing bytes, truncation, text that is not UTF-8, types that no field has."""
    with pytest.raises(ProtocolError, match="v1 record refused"):
        v1.decode(value)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"hash_name": HashName.BLAKE3}, "SHA-512 digest of the whole file"),
        ({"digest": None}, "SHA-512 digest of the whole file"),
        ({"digest": bytes(32)}, "SHA-512 digest of the whole file"),
        ({"version": bytes(64)}, "is the digest of its file"),
        ({"total": None}, "number of chunks is None"),
        ({"total": 1}, "number of chunks is 1"),
        ({"index": -1}, "number of chunks is 3"),
        ({"offset": -1}, "offset is -1"),
        ({"abort": "gone"}, "no records that abort"),
        ({"alive": True}, "no records that abort"),
    ],
)
def test_a_chunk_that_breaks_a_rule_is_not_sent(change, text):
    """Our own mistakes end here and not at the consumers."""
    with pytest.raises(ConfigError, match=text):
        v1.encode(dataclasses.replace(CHUNK, **change))


@pytest.mark.parametrize("fields", [8, 11, 0])
def test_only_9_or_10_fields_can_be_asked_for(fields):
    """Nobody ever read another length."""
    with pytest.raises(ConfigError, match=f"9 or 10 fields, got {fields}"):
        v1.encode(CHUNK, fields=fields)


def test_a_name_that_is_not_unicode_cannot_be_sent_and_the_error_says_what_can():
    """v1 has text only; v2 carries any name."""
    with pytest.raises(SourceError, match="not valid Unicode") as caught:
        v1.encode(dataclasses.replace(CHUNK, path="a/\udcff.raw"))
    assert "DataFileChunkV2Serializer" in caught.value.hint


@pytest.mark.parametrize("path", ["", "a" * 4097])
def test_a_path_beyond_the_limit_is_an_error_of_the_source(path):
    """The same limit as in v2, so that a file can be sent in both formats or in none."""
    with pytest.raises(SourceError, match="allowed are 1 to 4,096"):
        v1.encode(dataclasses.replace(CHUNK, path=path))
