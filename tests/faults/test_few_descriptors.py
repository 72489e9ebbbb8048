"""A program that may have few files open, as on macOS, delivers files for more folders than that, and deep ones."""

from __future__ import annotations

import sys

import pytest

from tests.faults.support import Place, Program, eventually, fill, tree

if sys.platform != "win32":
    import resource

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")

MACOS_LIMIT = 256
FILES = {f"run/{n}/a.dat": 10 for n in range(600)} | {"deep/" * 300 + "a.dat": 10}


def few_descriptors() -> None:
    """In a new process: so many files may be open, and no more."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (MACOS_LIMIT, MACOS_LIMIT))


def test_files_for_more_folders_than_may_be_open_are_all_delivered(place: Place) -> None:
    """Nothing waits, and nothing is told but the files."""
    fill(place.watched, FILES)
    place.send()

    receiver = place.fetch(preexec_fn=few_descriptors)

    assert receiver.of("storage_paused") == []
    assert len(set(receiver.paths("file_delivered"))) == len(FILES) == receiver.events[-1]["files"]
    assert tree(place.output) == tree(place.watched)


def test_control_with_a_descriptor_for_every_folder_it_waits_for_ever(place: Place) -> None:
    """Each further try opens the folders of the last one again."""
    fill(place.watched, FILES)
    place.send()

    def tells(receiver: Program) -> bool:
        return any("Too many open files" in event["reason"] for event in receiver.of("storage_paused"))

    with place.download("--until-idle", 1, changes="every_folder_stays_open", preexec_fn=few_descriptors) as receiver:
        eventually(lambda: tells(receiver), "it says so")
        with pytest.raises(AssertionError, match="did not end"):
            receiver.wait(5)
    assert len(tree(place.output)) < len(FILES)
