"""Which of two versions is the newer one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from openmsistream.core.chunk import Chunk, HashName
from openmsistream.core.versions import VersionKey, VersionOrder, is_conflict, is_newer, key_of

numbers = st.integers(0, 4)
v1_orders = st.builds(VersionOrder, st.none(), st.none(), st.none() | numbers, numbers)
v2_orders = st.builds(VersionOrder, st.sampled_from([b"A" * 16, b"B" * 16]), numbers, numbers, numbers)
orders = v1_orders | v2_orders


@given(a=orders, b=orders)
def test_of_two_versions_at_most_one_is_newer_unless_they_tie(a: VersionOrder, b: VersionOrder):
    """Both only "replace" each other when nothing but equal broker timestamps could decide."""
    if is_newer(a, b) and is_newer(b, a):
        assert a.timestamp_ms == b.timestamp_ms
        assert a.src is None or a.src != b.src


@given(a=v2_orders, b=v2_orders)
def test_within_one_uploader_the_generation_alone_decides(a: VersionOrder, b: VersionOrder):
    """Neither mtime nor timestamp counts, and a version never replaces itself."""
    if a.src == b.src:
        assert is_newer(a, b) == (a.gen > b.gen)  # type: ignore[operator]


@given(orders=st.lists(v2_orders.filter(lambda order: order.src == b"A" * 16), min_size=1), shuffle=st.randoms())
def test_the_newest_of_an_uploader_wins_in_any_order(orders: list[VersionOrder], shuffle):
    """Keeping the newer of what is there and what comes ends with the greatest generation."""
    shuffle.shuffle(orders)
    current = orders[0]
    for candidate in orders[1:]:
        current = candidate if is_newer(candidate, current) else current

    assert current.gen == max(order.gen for order in orders)  # type: ignore[type-var]


def test_mtime_orders_the_versions_of_1x_and_the_timestamp_where_it_cannot():
    """An mtime that is missing or equal leaves it to the broker's time."""
    old, new = VersionOrder(None, None, 1, 9), VersionOrder(None, None, 2, 5)
    assert is_newer(new, old)
    assert not is_newer(old, new)
    assert is_newer(VersionOrder(None, None, None, 10), old)
    assert not is_newer(VersionOrder(None, None, 1, 8), old)
    assert is_newer(VersionOrder(None, None, 1, 9), old)


def test_two_uploaders_on_one_path_are_a_conflict_and_the_later_timestamp_wins():
    """Worth telling the user; 1.x has no source and cannot conflict."""
    a, b = VersionOrder(b"A" * 16, 9, 1, 5), VersionOrder(b"B" * 16, 1, 1, 6)

    assert is_conflict(a, b)
    assert not is_conflict(a, a)
    assert not is_conflict(a, VersionOrder(None, None, 1, 5))
    assert is_newer(b, a)
    assert not is_newer(a, b)


def test_a_version_of_1x_is_known_by_its_digest_whatever_its_mtime():
    """A restarted 1.x uploader sends the missing chunks with the mtime it finds then."""
    digest = b"D" * 64
    chunks = [
        Chunk(digest, "a", 0, 0, b"x", mtime_ns=mtime, digest=digest, hash_name=HashName.SHA512, total=1)
        for mtime in (1, 2)
    ]

    assert key_of(chunks[0]) == key_of(chunks[1]) == VersionKey("a", digest)
