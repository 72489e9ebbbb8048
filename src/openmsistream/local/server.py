"""What a local broker and a local store have in common: one process on one folder, from its start to its end.

Owns the process and its guard. Which program it is, which files it needs and when it answers, its subclasses know.
"""

from __future__ import annotations

import contextlib
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from openmsistream.errors import StorageError, UnavailableError
from openmsistream.local import process
from openmsistream.local.process import ProcessId
from openmsistream.local.state import BrokerState
from openmsistream.local.store_state import StoreState

END_SECONDS = 30.0

State = TypeVar("State", BrokerState, StoreState)


class LocalServer(ABC, Generic[State]):
    """
    A server on 127.0.0.1, with its own process and folder.

    Attributes:
        NAME: What it is called in messages.
        HOW: The command that starts one.
        GUARD_SECONDS: How long it may take to end by itself when the program that started it is no more.
        folder: Everything it writes is below it.
    """

    NAME: ClassVar[str]
    HOW: ClassVar[str]
    GUARD_SECONDS: ClassVar[float]

    def __init__(self, folder: Path, state: State) -> None:
        self.folder = folder
        self._state: State = state
        self._outlive = True
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """
        The id of its process.

        Raises:
            UnavailableError: It does not run.
        """
        return self._running().pid

    @property
    @abstractmethod
    def log_file(self) -> Path:
        """Its own log since its last start; the one before is beside it, with ``.1``."""

    def is_alive(self) -> bool:
        """True while its process exists (also when frozen)."""
        return self._state.process is not None and self._state.process.is_alive()

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL) and return when its process is gone."""
        running = self._running()
        running.kill()
        running.wait(END_SECONDS)

    def freeze(self) -> None:
        """Stop its process where it is (SIGSTOP): connections stay open and nothing answers."""
        self._running().freeze()

    def thaw(self) -> None:
        """Let it go on when it is frozen (SIGCONT)."""
        self._running().thaw()

    @abstractmethod
    def _read_state(self) -> State | None:
        """What the folder says now."""

    @abstractmethod
    def _write_state(self) -> None:
        """Put what is known into the folder; StorageError when that cannot be."""

    def _running(self) -> ProcessId:
        if self._state.process is None or not self._state.process.is_alive():
            raise UnavailableError(f"the {self.NAME} on {self.folder} does not run", hint=f"start it with `{self.HOW}`")
        return self._state.process

    def _keep_log(self) -> None:
        """The log of the last start goes aside."""
        if self.log_file.exists():
            self.log_file.replace(self.log_file.with_name(self.log_file.name + ".1"))

    def _leftovers(self) -> Sequence[Path]:
        """Files that its process leaves behind when it is killed."""
        return ()

    def _take_charge(self, started: ProcessId, wait_until_ready: Callable[[], None]) -> None:
        """Note a process that was started, have it end with us unless it is to stay, and wait until it answers."""
        self._state = replace(self._state, process=started)
        try:
            self._write_state()
            self._dismiss_guard()  # that of a process which was killed
            if not self._outlive:
                self._guard = process.guard(started, seconds=self.GUARD_SECONDS, leftovers=self._leftovers())
            wait_until_ready()
        except BaseException:
            # Also on Ctrl-C: one that nobody was told about must not stay.
            started.kill()
            started.wait(END_SECONDS)
            self._forget_process()
            raise

    def _forget_process(self) -> None:
        ended, self._state = self._state.process, replace(self._state, process=None)
        # The folder may be gone already (a temporary one, at the end of the program), or another program
        # may have started one on it after ours had ended.
        last = self._read_state()
        if last is not None and last.process == ended:
            # On a full disk the file goes on naming a process that is no more, which everyone checks.
            with contextlib.suppress(StorageError):
                self._write_state()
        self._dismiss_guard()

    def _dismiss_guard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None and guard.stdin is not None:
            guard.stdin.close()
            guard.wait()
