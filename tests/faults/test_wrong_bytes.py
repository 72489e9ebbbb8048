"""Bytes of a partial file that come back from the disk as others than were written: a disk that lies, or its sender."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from openmsistream.core.chunk import Chunk
from openmsistream.core.wire import v2
from tests.faults.records import produce
from tests.faults.support import Place, Program
from tests.pipeline.material import v2_chunks

DATA = bytes(range(256)) * 1024
CHUNKS = v2_chunks("scan.dat", DATA, 1, chunk_bytes=65536)


def send(place: Place, *chunks: Chunk) -> None:
    produce(place.bootstrap, place.topic, ((b"scan.dat", v2.encode(chunk)) for chunk in chunks))


def told(receiver: Program) -> list[str]:
    return [note["text"] for note in receiver.of("note") if "does not have its hash" in note["text"]]


def partial(place: Place) -> Path:
    (found,) = (place.output / ".openmsistream" / "partial").rglob("*.part")
    return found


def test_what_the_disk_lost_between_two_runs_is_read_again(place: Place) -> None:
    """It said that the bytes were safe, and has zeros instead; the sender did nothing wrong."""
    send(place, *CHUNKS[:2])
    with place.download("--until-idle", 1) as first:
        assert first.wait() == 3
    kept = partial(place)
    kept.write_bytes(bytes(kept.stat().st_size))
    send(place, *CHUNKS[2:])

    again = place.fetch()

    assert (place.output / "scan.dat").read_bytes() == DATA
    assert len(told(again)) == 1
    assert again.of("quarantined") == []
    assert place.fetch().paths("file_delivered") == []


def test_a_sender_that_is_wrong_is_found_out_the_second_time(place: Place) -> None:
    """Chunks out of order have to be read back, too: the file is read once more, and no more, and set aside."""
    *most, last = CHUNKS
    send(place, *reversed(most), replace(last, digest=b"D" * 32))

    with place.download("--until-idle", 1) as receiver:
        assert receiver.wait() == 1

    assert len(told(receiver)) == 1
    assert receiver.paths("quarantined") == ["scan.dat"]
    assert not (place.output / "scan.dat").exists()
    assert place.fetch().events[-1]["files"] == 0


def test_control_without_the_second_reading_the_disk_costs_a_file(place: Place) -> None:
    """It would stand in quarantine, as one whose sender is wrong."""
    send(place, *CHUNKS[:2])
    with place.download("--until-idle", 1) as first:
        assert first.wait() == 3
    kept = partial(place)
    kept.write_bytes(bytes(kept.stat().st_size))
    send(place, *CHUNKS[2:])

    with place.download("--until-idle", 1, changes="refuse_at_once") as receiver:
        assert receiver.wait() == 1

    assert receiver.paths("quarantined") == ["scan.dat"]
    assert not (place.output / "scan.dat").exists()
