"""The two hashes of the wire formats, against values made by other programs."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from openmsistream.core.chunk import HashName
from openmsistream.core.hashing import new_hasher


def test_blake3_is_what_b3sum_prints():
    """Known answers: ``printf '' | b3sum`` and ``printf abc | b3sum``."""
    hasher = new_hasher(HashName.BLAKE3)
    assert hasher.digest().hex() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    hasher.update(b"abc")
    assert hasher.digest().hex() == "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"


@given(pieces=st.lists(st.binary(max_size=50)))
def test_hashing_in_pieces_is_hashing_the_whole(pieces: list[bytes]):
    """Whatever the pieces and their type; looking at the digest in between changes nothing."""
    whole = b"".join(pieces)
    for name in HashName:
        in_pieces, at_once = new_hasher(name), new_hasher(name)
        for piece in pieces:
            in_pieces.update(memoryview(piece))
            in_pieces.digest()
        at_once.update(whole)
        assert in_pieces.digest() == at_once.digest()
    assert at_once.digest() == hashlib.sha512(whole).digest()
