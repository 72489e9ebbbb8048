"""Promises of version ids and generations."""

from __future__ import annotations

import uuid
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from openmsistream.core.ids import next_generation, uuid7

times = st.integers(0, (1 << 48) * 1_000_000 - 1)


@given(now_ns=times, random=st.binary(min_size=10, max_size=10))
def test_an_id_is_a_uuid_version_7_of_its_time(now_ns: int, random: bytes):
    """The standard library agrees on version and variant; the first 48 bits are the milliseconds."""
    made = uuid.UUID(bytes=uuid7(now_ns, random))

    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int >> 80 == now_ns // 1_000_000


@given(a=times, b=times, random=st.binary(min_size=20, max_size=20))
def test_ids_made_in_a_later_millisecond_sort_later(a: int, b: int, random: bytes):
    """Whatever the random bytes are."""
    if a // 1_000_000 < b // 1_000_000:
        assert uuid7(a, random[:10]) < uuid7(b, random[10:])


@given(first=st.binary(min_size=10, max_size=10), second=st.binary(min_size=10, max_size=10))
def test_ids_of_one_moment_differ_in_their_74_random_bits(first: bytes, second: bytes):
    """Only the 6 bits of version and variant are not random."""
    fixed = int.from_bytes(bytes([0xF0, 0, 0xC0, 0, 0, 0, 0, 0, 0, 0]), "big")
    same = (int.from_bytes(first, "big") ^ int.from_bytes(second, "big")) & ~fixed == 0

    assert (uuid7(0, first) == uuid7(0, second)) == same


@given(clock=st.lists(st.integers(0, 2**62), min_size=1))
def test_generations_always_grow_whatever_the_clock_does(clock: list[int]):
    """A clock that is set back never makes an old version look new."""
    gens = [0]
    for now_ns in clock:
        gens.append(next_generation(gens[-1], now_ns))

    assert all(a < b for a, b in pairwise(gens))
    assert all(gen >= now_ns for gen, now_ns in zip(gens[1:], clock, strict=True))
