"""Assembly: any order and repetition rebuilds every file once; hostile chunks change nothing."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmsistream.core.assembly import MAX_AHEAD_BYTES, Assembly, OpenVersion, Step, Verb
from openmsistream.core.chunk import Chunk
from openmsistream.core.versions import VersionKey, key_of
from openmsistream.core.watermark import watermark
from tests.pipeline.material import v1_chunks, v2_chunks, v2_key

DATA = b"0123456789"


def state(assembly: Assembly) -> list[OpenVersion]:
    return copy.deepcopy(list(assembly.versions()))


def take(assembly: Assembly, chunk: Chunk, offset: int = 0, partition: int = 0) -> Step:
    return assembly.step(chunk, partition=partition, offset=offset, timestamp_ms=offset)


@st.composite
def traffic(draw: st.DrawFn) -> tuple[dict[VersionKey, bytes], list[tuple[int, Chunk]]]:
    """Several versions of several paths, v1 and v2, their chunks repeated and in any order over two partitions."""
    contents, chunks = {}, []
    for number in range(draw(st.integers(1, 4))):
        data = bytes([65 + number]) * draw(st.integers(0, 30))
        path, size = draw(st.sampled_from(["a", "b"])), draw(st.integers(1, 7))
        if draw(st.booleans()):
            made = v2_chunks(path, data, number + 1, chunk_bytes=size)
        else:
            made = v1_chunks(path, data + bytes([number]), mtime_ns=number, chunk_bytes=size)
            data += bytes([number])
        contents[key_of(made[0])] = data
        chunks += made
    extra = draw(st.lists(st.sampled_from(chunks), max_size=10))
    order = draw(st.permutations([*chunks, *extra]))
    return contents, [(draw(st.integers(0, 1)), chunk) for chunk in order]


@settings(max_examples=150, deadline=None)
@given(sent=traffic())
def test_any_order_repetition_and_interleaving_rebuilds_every_version_once(
    sent: tuple[dict[VersionKey, bytes], list[tuple[int, Chunk]]],
):
    """Held against the contents; and the watermark never passes the first record of a version that is open."""
    contents, records = sent
    assembly = Assembly()
    built: dict[VersionKey, bytearray] = {}
    done: set[VersionKey] = set()
    firsts: dict[tuple[VersionKey, int], int] = {}
    next_offset = [0, 0]
    for partition, chunk in records:
        key, offset = key_of(chunk), next_offset[partition]
        next_offset[partition] += 1
        if key in done:  # the pipeline's ledger knows what is finished
            continue
        firsts.setdefault((key, partition), offset)
        step = take(assembly, chunk, offset, partition)
        assert step.verb in {Verb.WRITE, Verb.NOTHING}
        if step.verb is Verb.WRITE:
            content = built.setdefault(key, bytearray())
            content.extend(bytes(max(0, chunk.offset - len(content))))
            content[chunk.offset : chunk.offset + len(chunk.payload)] = chunk.payload
        if step.complete:
            assembly.close(key)
            done.add(key)
        for number, position in enumerate(next_offset):
            mark = watermark(position, assembly.first_offsets(number))
            assert mark <= min([o for (k, p), o in firsts.items() if p == number and k not in done] + [position])

    assert built == contents
    assert len(assembly) == 0
    assert assembly.of_path("a") == assembly.of_path("b") == []


def last_of(chunks: Sequence[Chunk], **changes: object) -> Chunk:
    return dataclasses.replace(chunks[-1], **changes)  # type: ignore[arg-type]


V2 = v2_chunks("a", DATA, 1)
V1 = v1_chunks("a", DATA, mtime_ns=1)


@pytest.mark.parametrize(
    ("before", "hostile", "reason"),
    [
        ([], dataclasses.replace(V2[0], offset=MAX_AHEAD_BYTES + 1, size=None), "beyond what was received"),
        (V2[:1], dataclasses.replace(V2[1], size=7), "beyond the file's size"),
        (V2[:1], dataclasses.replace(V2[1], size=11), "an earlier chunk said 10"),
        (V2[:2], dataclasses.replace(V2[0], size=4, payload=b"0123"), "8 were received"),
        (V2[-1:], last_of(V2, digest=b"E" * 32), "digest differs"),
        (V1[:1], dataclasses.replace(V1[1], total=9), "said 3"),
        (V1[1:2], dataclasses.replace(V1[0], index=2), "it is the last chunk and ends at 4"),
    ],
)
def test_a_chunk_that_contradicts_its_version_is_refused_and_changes_nothing(
    before: list[Chunk], hostile: Chunk, reason: str
):
    """One hostile or broken record cannot spoil a version that honest records make whole."""
    assembly = Assembly()
    for offset, chunk in enumerate(before):
        take(assembly, chunk, offset)
    was = state(assembly)

    step = take(assembly, hostile, 99, 1)

    assert step.verb is Verb.REFUSE
    assert reason in step.reason
    assert state(assembly) == was


def test_an_abort_closes_the_version_and_says_why():
    """Also for a version that was never seen, so that its late chunks can be known as given up."""
    assembly = Assembly()
    take(assembly, V2[0])

    step = take(assembly, dataclasses.replace(V2[0], payload=b"", abort="it changed"), 1)

    assert (step.verb, step.reason, step.complete) == (Verb.DISCARD, "it changed", False)
    assert step.version is not None
    assert len(assembly) == 0
    assert take(assembly, dataclasses.replace(V2[0], payload=b"", abort="again"), 2).version is None


def test_a_keep_alive_holds_the_watermark_and_writes_nothing():
    """It says that a version will go on; its first record counts."""
    assembly = Assembly()

    step = take(assembly, dataclasses.replace(V2[0], payload=b"", alive=True), 7)

    assert (step.verb, step.complete) == (Verb.NOTHING, False)
    assert list(assembly.first_offsets(0)) == [7]
    assert list(assembly.first_offsets(1)) == []


def test_a_restored_version_goes_on_where_it_was():
    """What the ledger remembers needs no chunk again."""
    before, after = Assembly(), Assembly()
    for offset, chunk in enumerate(V2[:-1]):
        take(before, chunk, offset)
    for version in state(before):
        after.restore(version)

    step = take(after, V2[-1], 9)

    assert (step.verb, step.complete) == (Verb.WRITE, True)
    assert step.version is not None
    assert (step.version.key, step.version.first_offsets) == (v2_key("a", 1), {0: 0})
    assert step.version.order.gen == 1


def test_an_empty_file_is_complete_with_its_only_chunk():
    """In both formats."""
    for chunk in (*v2_chunks("a", b"", 1), *v1_chunks("b", b"", mtime_ns=None)):
        assert take(Assembly(), chunk).complete
