"""Waiting for a destination that refuses to be written: pause reading, stay in the group, try again.

Knows the consumer's port only to pause it and to keep its membership alive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from openmsistream.core.events import StorageBack, StoragePaused
from openmsistream.errors import BusyError, BytesLostError, StorageError
from openmsistream.pipeline.runner import Control
from openmsistream.ports import Consumer, Events, Record

RETRY_SECONDS = 1.0
BUSY_SECONDS = 0.1
BUSY_TIMES_UNTOLD = 20
"""A destination that is busy waits for some seconds before it says so: it is told after about a minute."""

Result = TypeVar("Result")


class TakenAwayError(Exception):
    """The partition of the record being handled is not ours any more: who has it now reads the record again."""


class UntilStored:
    """
    Does what writes to the destination, until it worked.

    Attributes:
        read_meanwhile: Records that were handed out while it waited; they are to be handled next.
        taken_away: Says whether the work has no sense any more; None while no record is being handled.
    """

    def __init__(self, consumer: Consumer, control: Control, events: Events) -> None:
        self._consumer, self._control, self._events = consumer, control, events
        self.read_meanwhile: list[Record] = []
        self.taken_away: Callable[[], bool] | None = None

    def __call__(self, action: Callable[[], Result]) -> Result:
        """
        The result of ``action``, which must be harmless to repeat.

        Raises:
            StorageError: The program was asked to stop meanwhile.
            BytesLostError: What is to be written is gone, and is to be read again.
            TakenAwayError: The partition of the record being handled went away meanwhile.
        """
        paused = told = False
        busy = 0
        while True:
            try:
                result = action()
            except BytesLostError:
                raise  # waiting brings nothing
            except StorageError as error:
                if self._control.stopping:
                    raise
                paused = True
                self._consumer.pause()  # also where the try was made beside the loop, which resumes it
                is_busy = isinstance(error, BusyError)
                busy = busy + 1 if is_busy else BUSY_TIMES_UNTOLD
                if not told and busy >= BUSY_TIMES_UNTOLD:
                    told = True
                    self._events(StoragePaused(error.message, error.hint))
                record = self._consumer.poll(BUSY_SECONDS if is_busy else RETRY_SECONDS)
                if record is not None:
                    self.read_meanwhile.append(record)
                if self.taken_away is not None and self.taken_away():
                    self._consumer.resume()
                    raise TakenAwayError from error
            else:
                if paused:
                    self._consumer.resume()
                if told:
                    self._events(StorageBack())
                return result
