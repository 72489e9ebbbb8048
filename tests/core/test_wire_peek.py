"""Promises of the glance at a record's path: it sees what decoding sees, needs only the head, and never fails."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from openmsistream.core.chunk import Chunk, HashName
from openmsistream.core.paths import PATH_BYTES_MAX
from openmsistream.core.wire import v1, v2
from openmsistream.core.wire.peek import HEAD_BYTES, path_in

LARGE = bytes(500_000)


def test_the_path_of_both_formats_is_seen_from_the_head_alone():
    """Half a megabyte of payload behind it is not needed; a v2 name that is not Unicode survives."""
    odd = b"caf\xe9.dat".decode("utf-8", "surrogateescape")
    second = v2.encode(Chunk(b"i" * 16, f"run/{odd}", 0, 0, LARGE, mtime_ns=0, src=b"s" * 16, gen=1))
    digest = hashlib.sha512(LARGE).digest()
    first = v1.encode(Chunk(digest, "run 1/a.dat", 0, 0, LARGE, digest=digest, hash_name=HashName.SHA512, total=1))

    assert path_in(second[:HEAD_BYTES]) == f"run/{odd}"
    assert path_in(first[:HEAD_BYTES]) == "run 1/a.dat"


@given(st.binary(max_size=300), st.sampled_from([b"", b"OMS2", b"OMS2\x00\x40", b"\x99", b"\x9a\xa1a"]))
def test_any_bytes_give_a_path_or_none(tail, head):
    """What cannot be handled is most often no record of ours at all."""
    found = path_in(head + tail)
    assert isinstance(found, str)
    assert len(found) <= PATH_BYTES_MAX
