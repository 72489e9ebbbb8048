"""The two programs of the demo as child processes: start one, hear its events, end it.

Owns the process, its log files and the reading of its ``--json`` lines. It does not know what the events
mean, and it shows nothing. Every wait here ends: a program that does not stop when asked is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from openmsistream.local.process import ProcessId, began, guard

# A program parks what is in flight and closes its ledger when asked to stop: usually far below a second.
STOP_SECONDS = 20.0
_KILL_SECONDS = 5.0
_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Heard:
    """
    One event of one program.

    Attributes:
        role: Which program said it, e.g. ``uploader``.
        at: When the demo heard it: seconds since 1970.
        event: The JSON object; its kind is under ``event``.
    """

    role: str
    at: float
    event: Mapping[str, object]


class Child:
    """
    One running program whose standard output is one JSON object a line.

    Attributes:
        role: What the demo calls it: ``uploader`` or ``downloader``.
        log_files: Its standard output and its standard error, as they come.
    """

    def __init__(self, role: str, process: subprocess.Popen[bytes], log_files: tuple[Path, Path]) -> None:
        self.role = role
        self.log_files = log_files
        self._process = process
        self._last: deque[str] = deque(maxlen=20)
        self._reader: threading.Thread | None = None
        # Should the demo be killed, it cannot end its programs: then the guard does.
        self._guard = guard(ProcessId(process.pid, began(process.pid) or "ended at once"))

    @classmethod
    def start(cls, role: str, command: Sequence[str], logs: Path, heard: SimpleQueue[Heard]) -> Child:
        """
        Start a program in a session of its own: Ctrl-C reaches the demo, which stops it.

        Args:
            role: Name of the program for the user and for its log files.
            command: The program and its arguments.
            logs: An existing folder for its two log files.
            heard: Where its events are put.
        """
        files = (logs / f"{role}.events.jsonl", logs / f"{role}.log")
        flags = 0
        if sys.platform == "win32":
            flags = subprocess.CREATE_NEW_PROCESS_GROUP
        with files[1].open("wb") as errors:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                # A path with letters outside ASCII must come out as it is, whatever the code page.
                env={**os.environ, "PYTHONUTF8": "1"},
                start_new_session=sys.platform != "win32",
                creationflags=flags,
            )
        child = cls(role, process, files)
        child._reader = threading.Thread(target=child._read, args=(heard.put,), name=f"demo-{role}", daemon=True)
        child._reader.start()
        return child

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """Return its exit code (negative: ended by that signal); None while it runs."""
        return self._process.poll()

    def ask_to_stop(self) -> None:
        """Type ``q`` and Enter for it, as a user would; nothing happens when it has ended."""
        stdin = self._process.stdin
        if stdin is not None and not stdin.closed:
            with contextlib.suppress(OSError):  # it ended meanwhile: then its exit code tells
                stdin.write(b"q\n")
                stdin.flush()

    def wait(self, seconds: float = STOP_SECONDS, *, hurry: Callable[[], bool] = lambda: False) -> int | None:
        """
        Wait until it has ended after ``ask_to_stop``; end it with force after ``seconds``.

        Args:
            seconds: How long it may take.
            hurry: Asked all the time; True ends it with force at once.

        Returns:
            Its exit code, or None when it had to be ended with force.
        """
        deadline = time.monotonic() + seconds
        while self._process.poll() is None and time.monotonic() < deadline and not hurry():
            time.sleep(_POLL_SECONDS)
        code = self._process.poll()
        if code is None:
            self._process.kill()
            self._process.wait(_KILL_SECONDS)
        if self._reader is not None:
            self._reader.join(_KILL_SECONDS)
        for pipe in (self._process.stdin, self._process.stdout, self._guard.stdin):
            if pipe is not None:
                with contextlib.suppress(OSError):  # flushing what it never read
                    pipe.close()
        self._guard.wait(_KILL_SECONDS)
        return code

    def last_lines(self, count: int = 5) -> list[str]:
        """Return the last lines it wrote to standard error, or else to standard output that are no events."""
        try:
            text = self.log_files[1].read_text(encoding="utf-8", errors="replace")
        except OSError:
            text = ""
        lines = [line.rstrip() for line in text.splitlines() if line.strip()]
        return lines[-count:] or list(self._last)[-count:]

    def _read(self, put: Callable[[Heard], None]) -> None:
        stdout = self._process.stdout
        if stdout is None:
            return
        with self.log_files[0].open("wb") as log:
            for line in stdout:
                at = time.time()
                log.write(line)
                log.flush()
                event = _event(line)
                if event is None:
                    self._last.append(line.decode("utf-8", "replace").rstrip())
                else:
                    put(Heard(self.role, at, event))


def _event(line: bytes) -> Mapping[str, object] | None:
    """The event on a line; None for any other line, which is kept as text."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and isinstance(value.get("event"), str) else None
