"""Waiting for a destination: what is told, what is waited for, and what is not."""

from __future__ import annotations

import pytest

from openmsistream.adapters.memory import MemoryConsumer, MemoryTopic
from openmsistream.core.events import StorageBack, StoragePaused
from openmsistream.errors import BusyError, BytesLostError, StorageError
from openmsistream.pipeline.patience import BUSY_TIMES_UNTOLD, UntilStored
from openmsistream.pipeline.runner import Control
from tests.pipeline.material import Told


class Failing:
    """Raises these errors, one with each call, and then gives "done"."""

    def __init__(self, *errors: StorageError) -> None:
        self.errors = list(errors)

    def __call__(self) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return "done"


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def until_stored(told: Told) -> UntilStored:
    return UntilStored(MemoryConsumer(MemoryTopic(1)), Control(), told)


def test_a_destination_that_refuses_is_told_once_each_way(until_stored: UntilStored, told: Told):
    """However often it is tried again."""
    assert until_stored(Failing(*[StorageError("full")] * 5)) == "done"
    assert [type(event) for event in told.events] == [StoragePaused, StorageBack]


def test_a_destination_that_is_busy_for_a_moment_is_not_told(until_stored: UntilStored, told: Told):
    """A slow store is no news."""
    assert until_stored(Failing(*[BusyError("slow")] * (BUSY_TIMES_UNTOLD - 1))) == "done"
    assert told.events == []


def test_a_destination_that_stays_busy_is_told(until_stored: UntilStored, told: Told):
    """Once each way, too."""
    assert until_stored(Failing(*[BusyError("slow")] * (BUSY_TIMES_UNTOLD + 3))) == "done"
    assert [type(event) for event in told.events] == [StoragePaused, StorageBack]


def test_bytes_that_are_gone_are_not_waited_for(until_stored: UntilStored, told: Told):
    """Waiting would bring nothing, for ever."""
    with pytest.raises(BytesLostError):
        until_stored(Failing(BytesLostError("gone", [("a", b"V")])))
    assert told.events == []
