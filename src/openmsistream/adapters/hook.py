"""A command of the user's, run for each file that was delivered: beside the program, never in its way.

Owns how it is started, ended, tried again and told of. Which calls are to be made is in a journal, so that memory
does not grow when the command is slower than files come, and a kill costs none: each is made at least once. It must
not know how files are delivered.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO

from openmsistream.adapters.sqlite.calls import Call, CallJournal, Standing
from openmsistream.core.events import Event, FileDelivered, Note
from openmsistream.errors import ConfigError, StorageError
from openmsistream.ports import Events, Publication

SHUTDOWN_SECONDS = 10.0
"""How long commands may go on when the program is asked to stop."""
RETRY_SECONDS = 1.0
"""Before the second try; twice as long before each further one, up to a minute."""
_RETRY_SECONDS_MAX = 60.0
WAITING_MAX = 1000
"""So many calls wait for another try before no further files' are made: a command that always fails must not fill
memory, and one that fails for some files must not keep the others waiting."""
AHEAD = 16
"""Calls handed out per thread, so that none waits for the program's loop."""
_ERROR_BYTES = 4096
_NAMES = ("{path}", "{name}")
_PLACEHOLDER = re.compile(r"\{(path|name|size|digest)\}")


@dataclass(frozen=True, slots=True)
class HookSettings:
    """
    What to run, and within which bounds.

    Attributes:
        words: Program and arguments; ``{path}``, ``{name}``, ``{size}`` and ``{digest}`` stand for the file's.
        topic: For the environment.
        parallel: How many run at once.
        seconds: One that takes longer is ended, with all that it started.
        tries: How often one that fails is tried.
        retry_seconds: See ``RETRY_SECONDS``.
        shutdown_seconds: See ``SHUTDOWN_SECONDS``.
    """

    words: Sequence[str]
    topic: str
    parallel: int = 2
    seconds: float = 60.0
    tries: int = 3
    retry_seconds: float = RETRY_SECONDS
    shutdown_seconds: float = SHUTDOWN_SECONDS


class DeliveredHook:
    """
    Runs a command for each delivered file.

    Args:
        settings: What to run.
        journal: The database file with the calls that are still to be made, or ``":memory:"``.
        tell: Called with what fails, from ``turn`` and ``close`` alone.

    Raises:
        ConfigError: There is no such program.
        StorageError: The journal cannot be used.
    """

    def __init__(self, settings: HookSettings, journal: Path | str, tell: Events) -> None:
        program = settings.words[0]
        found = shutil.which(program)
        if found is None:
            raise ConfigError(
                f"on_delivered: {program!r} is no program that can be run",
                hint="give its full path, and make it executable (chmod +x)",
            )
        if os.name == "nt":
            refuse_batch_file(found, settings.words)
        self._settings, self._tell = settings, tell
        self._journal = CallJournal(journal)
        self._taken: list[FileDelivered] = []
        self._handed = 0
        self._under_way = 0
        self._tries: dict[int, int] = {}
        self._again: list[tuple[float, Call]] = []
        self._broken = ""
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._results: SimpleQueue[tuple[Call, str]] = SimpleQueue()
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._closing = False
        self._threads = [
            threading.Thread(target=self._work, name=f"on-delivered-{number}", daemon=True)
            for number in range(settings.parallel)
        ]
        for thread in self._threads:
            thread.start()

    def announce(self, publications: Sequence[Publication]) -> None:
        """These versions are about to get their names (``FolderSink``); StorageError when that cannot be noted."""
        self._journal.announce(publications)

    def recover(self, standing: Standing) -> None:
        """After a start: make the calls that a kill or a stop left over."""
        left = self._journal.recover(standing)
        if left:
            self._tell(Note(f"--on-delivered: {left} calls of an earlier run are made now"))

    def take(self, event: Event) -> None:
        """A file was delivered; other events are of no interest."""
        if isinstance(event, FileDelivered):
            self._taken.append(event)

    def turn(self) -> None:
        """Hand out what is to be run, and tell what failed; returns at once."""
        try:
            self._settle_results()
            if self._taken:
                self._journal.delivered(self._taken)
                self._taken.clear()
            self._hand_out()
        except StorageError as error:
            # The journal's disk is full: what was taken waits here, and is noted once there is room.
            if error.message != self._broken:
                self._tell(Note(f"--on-delivered waits: {error.message}", error.hint))
            self._broken = error.message
        else:
            self._broken = ""

    def close(self, *, drain: Callable[[], bool]) -> None:
        """
        End.

        Args:
            drain: As long as it is true, the command is run for everything that was delivered; after that the rest
                is left to the next start, and what runs is ended after ``SHUTDOWN_SECONDS``.
        """
        try:
            self.turn()
            while drain() and not self._broken and (self._under_way or self._again):
                self._wait_for_result(0.1)
                self.turn()
            self._closing = True
            deadline = time.monotonic() + self._settings.shutdown_seconds
            while self._under_way and time.monotonic() < deadline and self._running():
                self._wait_for_result(0.05)
        finally:
            self._closing = True
            self._end_all()
            for _ in self._threads:
                self._calls.put(None)
            for thread in self._threads:
                thread.join(SHUTDOWN_SECONDS)
            with suppress(StorageError):  # calls that were made are made once more at the next start
                self._settle_results()
            self._journal.close()

    # -- on the program's thread -----------------------------------------------------------------------------

    def _hand_out(self) -> None:
        if self._closing:
            return
        now = time.monotonic()
        due = [call for at, call in self._again if at <= now]
        self._again = [(at, call) for at, call in self._again if at > now]
        for call in due:
            self._calls.put(call)
        self._under_way += len(due)
        room = min(AHEAD * self._settings.parallel - self._under_way, WAITING_MAX - len(self._again))
        if room > 0:
            for call in self._journal.after(self._handed, room):
                self._handed = call.number
                self._under_way += 1
                self._calls.put(call)

    def _settle_results(self) -> None:
        done: list[Call] = []
        while True:
            try:
                call, problem = self._results.get_nowait()
            except Empty:
                break
            self._under_way -= 1
            if self._ends(call, problem):
                done.append(call)
        if done:
            self._journal.done(done)

    def _ends(self, call: Call, problem: str) -> bool:
        """True when nothing more is to be done for a call."""
        if not problem:
            self._tries.pop(call.number, None)
            return True
        if self._closing:
            return False
        tries = self._tries[call.number] = self._tries.get(call.number, 0) + 1
        ends = tries >= self._settings.tries
        if ends:
            del self._tries[call.number]
        else:
            wait = min(self._settings.retry_seconds * 2 ** (tries - 1), _RETRY_SECONDS_MAX)
            self._again.append((time.monotonic() + wait, call))
        what = "it is not tried again" if ends else f"try {tries} of {self._settings.tries}"
        self._tell(Note(f"{call.path}: the command of --on-delivered {problem} ({what})"))
        return ends

    def _wait_for_result(self, seconds: float) -> None:
        with suppress(Empty):
            self._results.put(self._results.get(timeout=seconds))

    def _running(self) -> bool:
        with self._lock:
            return bool(self._processes)

    def _end_all(self) -> None:
        with self._lock:
            for process in self._processes:
                _kill(process)

    # -- on the threads that run commands ----------------------------------------------------------------------

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if not self._closing:
                self._results.put((call, self._run(call)))

    def _run(self, call: Call) -> str:
        """Why the command failed; empty when it did not, and of a file that was moved away or replaced meanwhile."""
        if not _stands(call):
            return ""
        words = [self._filled(word, call) for word in self._settings.words]
        try:
            with tempfile.TemporaryFile() as said:
                process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    env=self._environment(call),
                    start_new_session=True,  # so that it can be ended with what it started, and Ctrl+C is ours alone
                )
                return self._outcome(process, said)
        except (OSError, ValueError) as error:
            return f"cannot be started: {error}"

    def _outcome(self, process: subprocess.Popen[bytes], said: IO[bytes]) -> str:
        with self._lock:
            self._processes.add(process)
            if self._closing:
                _kill(process)
        try:
            code = process.wait(self._settings.seconds)
        except subprocess.TimeoutExpired:
            _kill(process)
            process.wait()
            return f"took longer than {self._settings.seconds:g} s and was ended"
        finally:
            with self._lock:
                self._processes.discard(process)
        if code == 0:
            return ""
        size = said.seek(0, os.SEEK_END)
        said.seek(max(0, size - _ERROR_BYTES))
        lines = said.read().decode("utf-8", "backslashreplace").strip().splitlines()
        ended = f"ended with exit code {code}" if code > 0 else f"was ended by signal {-code}"
        return f"{ended}: {lines[-1].strip()}" if lines else ended

    @staticmethod
    def _filled(word: str, call: Call) -> str:
        name = Path(call.file).name
        values = {
            "path": call.file,
            "name": f"./{name}" if word == "{name}" and name.startswith("-") else name,  # never an option
            "size": str(call.size),
            "digest": call.digest.hex(),
        }
        return _PLACEHOLDER.sub(lambda match: values[match[1]], word)

    def _environment(self, call: Call) -> Mapping[str, str]:
        return {
            **os.environ,
            "OMS_PATH": call.file,
            "OMS_RELATIVE_PATH": call.path,
            "OMS_SIZE": str(call.size),
            "OMS_DIGEST": call.digest.hex(),
            "OMS_TOPIC": self._settings.topic,
        }


def refuse_batch_file(program: str, words: Sequence[str]) -> None:
    """
    Refuse what would have a file name read by a shell.

    Args:
        program: The full path of what is run.
        words: As in ``HookSettings``.

    Raises:
        ConfigError: Windows runs it with cmd.exe, which takes ``&`` and ``%`` in a name for its own. Source: Python's
            documentation of ``subprocess``, "Security Considerations".
    """
    if program.lower().endswith((".bat", ".cmd")) and any(name in word for word in words for name in _NAMES):
        raise ConfigError(
            f"on_delivered: {program} is a batch file: a name with & in it would be run as a command",
            hint="leave {path} and {name} out, and take OMS_PATH from the environment; or run a program",
        )


def _stands(call: Call) -> bool:
    try:
        return os.stat(call.file).st_size == call.size  # noqa: PTH116 - the name may be any bytes
    except FileNotFoundError:
        return False
    except OSError:
        return True  # the command may be allowed to look


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a command and everything it started that is still in its session."""
    with suppress(ProcessLookupError, PermissionError):
        if os.name == "nt":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
