"""What objects are called, what they say, and how they are cut: arithmetic that every later version must agree with."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmsistream.adapters.s3.naming import Found, metadata_of, object_key
from openmsistream.adapters.s3.parts import PART_BYTES, PARTS_MAX, PartSpan, joined_crc32, part_at
from openmsistream.core.versions import VersionKey, VersionOrder
from openmsistream.errors import DeliveryError, ProtocolError

TIB = 1024**4
MOST_BYTES = 7_303_122_124_800
"""What 10,000 parts hold together: 6.6 TiB."""
KEY = VersionKey("a", bytes.fromhex("0190000000007000800000000000abcd"))


@given(st.binary(max_size=5000), st.binary(max_size=5000))
def test_the_crc_of_two_pieces_is_that_of_both_together(first: bytes, second: bytes):
    """However long they are."""
    assert joined_crc32(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


@given(st.integers(0, MOST_BYTES - 1))
def test_every_byte_is_in_one_part_whose_neighbour_begins_at_its_end(offset: int):
    """Up to the largest object there can be."""
    part = part_at(offset)
    assert part.start <= offset < part.stop
    assert 1 <= part.number <= PARTS_MAX
    assert part_at(part.start) == part_at(part.stop - 1) == part
    if part.stop < MOST_BYTES:
        assert part_at(part.stop).number == part.number + 1
        assert part_at(part.stop).size in (part.size, 2 * part.size)


def test_ten_thousand_parts_hold_a_very_large_object_and_none_is_too_small_or_too_large():
    """5 TiB, as much as most stores take; parts of 5 MiB to 5 GiB."""
    assert part_at(0) == PartSpan(1, 0, PART_BYTES)
    assert part_at(MOST_BYTES - 1).number == PARTS_MAX
    assert MOST_BYTES >= 5 * TIB
    assert 5 * 1024**2 <= part_at(0).size <= part_at(MOST_BYTES - 1).size <= 5 * 1024**3
    assert part_at(15 * 1024**3).size == PART_BYTES
    with pytest.raises(DeliveryError, match="takes files of up to"):
        part_at(MOST_BYTES)


@pytest.mark.parametrize(
    ("template", "path", "key"),
    [
        ("{topic}/{path}", "run/a.csv", "xrd/run/a.csv"),
        ("{topic}/{folder}/{name}", "a.csv", "xrd/a.csv"),
        ("/all//{name}", "run/ü {x}.csv", "all/ü {x}.csv"),
    ],
)
def test_keys_are_made_of_the_template(template: str, path: str, key: str):
    """Without doubled slashes, which some stores take for one."""
    assert object_key(template, "xrd", path) == key


@pytest.mark.parametrize("path", ["../up", "/abs", "a\\b", "\udcff.csv", "/".join(["ü" * 100] * 6)])
def test_paths_that_make_no_key_are_refused(path: str):
    """Also bytes that are not Unicode, and keys of more than 1,024 bytes."""
    with pytest.raises(ProtocolError):
        object_key("{topic}/{path}", "xrd", path)


def found(said: dict[str, str]) -> Found:
    return Found("etag", 1, said)


def test_what_an_object_says_is_what_decides_which_one_is_newer():
    """Within a source the counter, whatever the clocks say; otherwise the broker's time."""
    there = found(metadata_of(KEY, "a", VersionOrder(b"S" * 16, 5, 10**18, 1000)))
    assert there.is_newer_than(VersionOrder(b"S" * 16, 4, 10**18, 9000))
    assert not there.is_newer_than(VersionOrder(b"S" * 16, 6, 10**18, 10))
    assert there.is_newer_than(VersionOrder(b"O" * 16, 9, 10**18, 999))
    assert not there.is_newer_than(VersionOrder(b"O" * 16, 1, 10**18, 1001))
    assert not found({}).is_newer_than(VersionOrder(b"S" * 16, 1, 1, 1))


def test_tags_of_another_version_say_nothing():
    """An object may have been replaced between its end and its tags."""
    said = metadata_of(KEY, "a", None)
    assert found(said).with_tags({"oms-version": KEY.version.hex(), "blake3": "00"}).said["blake3"] == "00"
    assert "blake3" not in found(said).with_tags({"oms-version": "11" * 16, "blake3": "00"}).said


def test_metadata_is_ascii_and_fits_into_two_kilobytes():
    """Whatever a path holds."""
    for path in ("ü;ß \U0001f600.csv", "\udcff", "/".join(["ü" * 100] * 20)):
        order = VersionOrder(b"S" * 16, 2**63, -1_500_000_000, 2**42)
        said = metadata_of(VersionKey(path, b"V" * 64), path, order, b"D" * 64)
        text = "".join(name + value for name, value in said.items())
        assert text.isascii()
        assert len(text) < 2048
        assert said["mtime"] == "-1.500000000"
