"""The first start on a folder with a past: what OpenMSIStream 1.x sent is not sent again, and what it did not is.

The registries are those that 1.8.8 left; only the topic in their names is this test's own.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from openmsistream.local.broker import LocalBroker
from tests.conftest import MakeTopic
from tests.faults.support import Place, Program, fill, tree

DATA = Path(__file__).parents[1] / "data" / "registry_1x"
LONG_BEFORE_NS, LONG_AFTER_NS = 1_000_000_000 * 10**9, 2_000_000_000 * 10**9
"""Modification times before and after every time in the registries, whatever the time zone."""
SENT_BEFORE = ("f001.dat", "f013.dat", "f024.dat", "it's.dat", "semi;colon.dat", "µ ü.dat", "nel\x85\u2028.dat")
FILES = dict.fromkeys(SENT_BEFORE, 1000)


@pytest.fixture
def place(tmp_path: Path, broker: LocalBroker, topic: MakeTopic) -> Place:
    """Folders and a topic."""
    return Place(tmp_path, broker.bootstrap, topic())


def lay_down(place: Place, registry: str, of_topic: str) -> Path:
    """Put the registries that 1.8.8 left into ``LOGS`` of the watched folder."""
    logs = place.watched / "LOGS"
    logs.mkdir()
    for path in (DATA / registry).glob("*.csv"):
        shutil.copy(path, logs / path.name.replace(f"_to_{of_topic}", f"_to_{place.topic}"))
    return logs


def with_times(folder: Path, names: tuple[str, ...], time_ns: int) -> None:
    """Give files this modification time."""
    for name in names:
        os.utime(folder / name, ns=(time_ns, time_ns))


def notes(program: Program) -> str:
    """All that it told, as one text."""
    return "\n".join(event["text"] for event in program.of("note"))


@pytest.mark.parametrize("options", [(), ("--upload-existing",)], ids=["as it is", "upload existing"])
def test_what_1x_sent_is_not_sent_again_and_what_changed_since_is(place: Place, options: tuple[str, ...]) -> None:
    """With and without --upload-existing, and it is said; names with quotes, semicolons and line separators count."""
    logs = lay_down(place, "parts", "gold_1.x-y")
    before = tree(logs)
    fill(place.watched, FILES)
    with_times(place.watched, SENT_BEFORE, LONG_BEFORE_NS)
    with_times(place.watched, ("f013.dat",), LONG_AFTER_NS)

    with place.watch(*options) as sender:
        sender.until_event("file_sent", path="f013.dat")
        fill(place.watched, {"later.dat": 10})
        sender.until_event("file_sent", path="later.dat")
        assert sender.quit() == 0

    assert sender.paths("file_sent") == ["f013.dat", "later.dat"]
    assert "OpenMSIStream 1.x sent 33 files before" in notes(sender)
    assert tree(logs) == before
    place.fetch()
    assert tree(place.output).keys() == {b"f013.dat", b"later.dat"}


def test_once_does_not_send_again_what_1x_sent_either(place: Place) -> None:
    """A nightly job that is changed over from 1.x; a file that 1.x never saw is sent."""
    lay_down(place, "merged", "gold_1.x-y")
    fill(place.watched, FILES | {"never seen.dat": 10})
    with_times(place.watched, SENT_BEFORE, LONG_BEFORE_NS)

    sender = place.send()

    assert sender.paths("file_sent") == ["never seen.dat"]


@pytest.mark.parametrize("options", [(), ("--upload-existing",)], ids=["as it is", "upload existing"])
def test_a_file_that_1x_had_begun_is_sent(place: Place, options: tuple[str, ...]) -> None:
    """It was interrupted in the middle: that file is not just one that was there."""
    lay_down(place, "begun", "t")
    fill(place.watched, {"big; x.bin": 2_000_000})
    with_times(place.watched, ("big; x.bin",), LONG_BEFORE_NS)

    with place.watch(*options) as sender:
        sender.until_event("file_sent", path="big; x.bin")
        assert sender.quit() == 0


def test_the_registries_are_read_at_the_first_start_only(place: Place) -> None:
    """They may be deleted then: the ledger knows; and one that appears later says nothing."""
    logs = lay_down(place, "parts", "gold_1.x-y")
    fill(place.watched, FILES)
    with_times(place.watched, SENT_BEFORE, LONG_BEFORE_NS)
    assert place.send().of("file_sent") == []

    shutil.rmtree(logs)
    second = place.send()
    assert second.of("file_sent") == []
    assert "OpenMSIStream 1.x" not in notes(second)

    logs.mkdir()
    line = "'new.dat';'new.dat';1;'Fri Jan 01, 2100 at 00:00:00';'Fri Jan 01, 2100 at 00:00:00'"
    (logs / f"uploaded_to_{place.topic}.csv").write_text(f"filename;rel_filepath;n_chunks;started;completed\n{line}\n")
    fill(place.watched, {"new.dat": 10})
    assert place.send().paths("file_sent") == ["new.dat"]


def test_the_registries_of_another_topic_say_nothing(place: Place) -> None:
    """What went to one topic has not gone to another one."""
    logs = lay_down(place, "parts", "gold_1.x-y")
    for path in logs.iterdir():
        path.rename(path.with_name(path.name.replace(place.topic, "elsewhere")))
    fill(place.watched, FILES)
    with_times(place.watched, SENT_BEFORE, LONG_BEFORE_NS)

    assert sorted(place.send().paths("file_sent")) == sorted(SENT_BEFORE)


def test_without_registries_existing_files_are_recorded_and_sent_when_they_are_asked_for_or_change(
    place: Place,
) -> None:
    """As 1.x does it; what was recorded can still be asked for later."""
    fill(place.watched, {"a.dat": 10, "b.dat": 20})
    with place.watch() as first:
        assert first.until_event("scan_done")["recorded_only"] == 2
        with (place.watched / "a.dat").open("ab") as file:
            file.write(b"more")
        first.until_event("file_sent", path="a.dat")
        assert first.quit() == 0
    assert first.paths("file_sent") == ["a.dat"]
    with place.watch("--upload-existing") as second:
        second.until_event("file_sent", path="b.dat")
        assert second.quit() == 0
    assert second.paths("file_sent") == ["b.dat"]
    place.fetch()
    assert tree(place.output) == tree(place.watched)


def test_what_comes_after_the_program_said_that_it_started_is_sent_also_while_the_first_scan_runs(place: Place) -> None:
    """It is not taken for "there before the first start", however many old files there are."""
    fill(place.watched, {f"old {number}": 10 for number in range(300)})
    new = {f"new {number}": 10 for number in range(20)}

    with place.watch() as sender:
        sender.until_event("program_started")
        fill(place.watched, new)
        sender.until(lambda: len(sender.of("file_sent")) >= len(new), "everything new is sent")

    assert sorted(sender.paths("file_sent")) == sorted(new)
