"""Unfinished parts on a work disk that is full for a while, or does not keep what it was given."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmsistream.adapters.filesystem import partials
from openmsistream.adapters.filesystem.partials import PartialFiles
from openmsistream.adapters.s3 import spill
from openmsistream.adapters.s3.spill import Collected, Collecting, PartFile
from openmsistream.core.versions import VersionKey
from openmsistream.errors import BytesLostError, StorageError
from openmsistream.ports import Buffer

FULL = 2**20
Piece = tuple[int, bytes]
PIECES = st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=50)), max_size=30)


@contextmanager
def full_now_and_then(turns: list[bool]) -> Iterator[None]:
    """While it lasts, writes fail where ``turns`` says so, after some of their bytes stand there."""
    original, left = PartialFiles.write, iter(turns)

    def write(self: PartialFiles, key: VersionKey, offset: int, data: Buffer) -> None:
        if next(left, False):
            original(self, key, offset, memoryview(data)[: len(data) // 2])
            raise OSError(28, "No space left on device")
        original(self, key, offset, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PartialFiles, "write", write)
        yield


@contextmanager
def collecting(budget_bytes: int) -> Iterator[tuple[Collecting, list[Collected]]]:
    """Three parts, the last of which is one of a very large file."""
    with tempfile.TemporaryDirectory() as folder:
        parts = Collecting(Path(folder), budget_bytes)
        try:
            yield parts, [parts.begin(VersionKey(f"{n}", b"v"), FULL if n < 2 else 2**30) for n in range(3)]
        finally:
            parts.close()


def test_parts_in_files_are_not_handed_to_the_disk_before_they_are_gone(monkeypatch: pytest.MonkeyPatch):
    """They are sent and removed within seconds; a file that is to stay is handed over (``test_delivery_lost.py``)."""
    monkeypatch.setattr(partials, "begin_to_sync", lambda *_: pytest.fail("written to the disk for nothing"))
    piece = bytes(partials.HAND_OVER_BYTES // 4)
    with collecting(0) as (parts, begun):
        for _ in range(8):
            add(parts, begun[2], piece)
        assert begun[2].size == 8 * len(piece)
        assert begun[2].memory is None


def add(parts: Collecting, part: Collected, data: bytes) -> None:
    """As the flow does: what failed is tried again."""
    while True:
        try:
            parts.add(part, memoryview(data))
        except StorageError:
            continue
        return


def damage(path: Path) -> None:
    """What a disk that failed has kept of a file: its size."""
    path.write_bytes(bytes(path.stat().st_size))


@given(PIECES, st.integers(0, 400), st.lists(st.booleans(), max_size=20), st.integers(0, 300), st.integers(0, 300))
def test_what_was_put_in_comes_out_whatever_was_full_meanwhile(
    pieces: list[Piece], budget: int, turns: list[bool], start: int, more: int
):
    """In memory and in files, whole and in part; and memory stays within the budget."""
    wanted = [b"", b"", b""]
    with collecting(budget) as (parts, three), full_now_and_then(turns):
        for number, data in pieces:
            add(parts, three[number], data)
            wanted[number] += data
            assert parts.in_memory <= budget
        for part, data in zip(three, wanted, strict=True):
            stop = min(start + more, len(data))
            assert part.size == len(data)
            assert b"".join(parts.read(part, start, stop)) == data[start:stop]
            assert bytes(parts.whole(part)) == data
            taken = parts.take(part)
            if isinstance(taken, PartFile):
                taken.path.touch()  # it has none when nothing came
                assert taken.whole() == b"".join(taken.pieces()) == data
                taken.remove()
            else:
                assert taken == data
        assert parts.in_memory == 0


@pytest.mark.parametrize("number", [0, 2], ids=["spilled", "in a file at once"])
def test_bytes_that_the_disk_lost_are_not_taken_for_what_came(number: int):
    """Whether they are read while they are collected, or later; also when the file is gone."""
    with collecting(0) as (parts, three):
        part = three[number]
        add(parts, part, b"first")
        add(parts, part, b"second")
        path = parts._files.path(part.key)
        damage(path)
        with pytest.raises(BytesLostError, match="did not keep"):
            parts.whole(part)
        with pytest.raises(BytesLostError, match="did not keep"):
            list(parts.read(part, 0, 3))
        taken = parts.take(part)
        assert isinstance(taken, PartFile)
        with pytest.raises(BytesLostError, match="did not keep"):
            taken.whole()
        with pytest.raises(BytesLostError, match="did not keep"):
            list(taken.pieces())
        taken.remove()
        taken.remove()
        with pytest.raises(BytesLostError, match="removed by somebody else"):
            taken.whole()


def test_bytes_that_the_disk_does_not_give_back_are_read_again(monkeypatch: pytest.MonkeyPatch):
    """To ask the disk for ever would stop everything behind them."""

    def fails(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    with collecting(0) as (parts, three):
        add(parts, three[0], b"bytes")
        with monkeypatch.context() as patch:
            patch.setattr(PartialFiles, "read", fails)
            with pytest.raises(BytesLostError, match="cannot be read: Input/output error"):
                parts.whole(three[0])
        taken = parts.take(three[0])
        assert isinstance(taken, PartFile)
        taken.path.unlink()
        taken.path.mkdir()  # what cannot be read is a folder here: opening it fails, and is tried again
        with pytest.raises(StorageError) as error:
            taken.whole()
        assert not isinstance(error.value, BytesLostError)
        taken.path.rmdir()


def test_control_without_comparing_they_are(monkeypatch: pytest.MonkeyPatch):
    """The size alone is right."""
    monkeypatch.setattr(spill, "compare", lambda *_: None)
    with collecting(0) as (parts, three):
        add(parts, three[0], b"bytes")
        damage(parts._files.path(three[0].key))
        assert parts.whole(three[0]) == bytes(5)
