"""Work that may take long, without losing the membership of the consumer group over it.

A group takes its partitions away from a member that does not poll for ``max.poll.interval.ms``; syncing or hashing
many gigabytes on a slow disk takes longer than that. Knows the consumer's port only to pause and to poll it.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import TypeVar

from openmsistream.ports import Consumer, Record

ALONE_SECONDS = 1.0
POLL_SECONDS = 0.2

Result = TypeVar("Result")


class Beside:
    """
    Does something on another thread, and polls meanwhile once it takes longer than a second.

    Args:
        consumer: Paused while it is polled for nothing but its membership.
        take: Called with records that were handed out all the same.
    """

    def __init__(self, consumer: Consumer, take: Callable[[Record], None]) -> None:
        self._consumer, self._take = consumer, take
        self._worker: Thread | None = None

    def __call__(self, action: Callable[[], Result]) -> Result:
        """The result of ``action``, or what it raised. Nothing else of the flow's runs until it is there."""
        results: list[Result] = []
        problems: list[BaseException] = []

        def work() -> None:
            try:
                results.append(action())
            except BaseException as problem:
                problems.append(problem)

        self._worker = Thread(target=work, name="beside", daemon=True)
        self._worker.start()
        try:
            self._worker.join(ALONE_SECONDS)
            if self._worker.is_alive():
                self._keep_membership(self._worker)
        finally:
            self.wait()
            self._worker = None
        for problem in problems:
            raise problem
        return results[0]

    def wait(self) -> None:
        """Return when nothing is being done; who is called from ``poll`` does this first."""
        if self._worker is not None:
            self._worker.join()

    def _keep_membership(self, worker: Thread) -> None:
        self._consumer.pause()
        try:
            while worker.is_alive():
                record = self._consumer.poll(POLL_SECONDS)
                if record is not None:
                    self._take(record)
        finally:
            self._consumer.resume()
