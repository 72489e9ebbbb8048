"""One measured program: started through ``launch.py``, its lines stamped as they come, ended, accounted for.

Knows processes, pipes and clocks; not what the programs do. All times are wall-clock seconds since 1970, so
that they can be put beside file times of the kernel.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from openmsistream.errors import UnavailableError

_LAUNCHER = Path(__file__).with_name("launch.py")
_POLL_SECONDS = 0.002


@dataclass(frozen=True, slots=True)
class Usage:
    """
    What a program used over its whole life, start and end included.

    Attributes:
        began: When it was started, s since 1970.
        ended: When it had ended, s since 1970.
        code: Its exit code.
        cpu_seconds: User and system time of its own process.
        rss_bytes: Its peak resident memory.
    """

    began: float
    ended: float
    code: int
    cpu_seconds: float
    rss_bytes: int


class Running:
    """
    A program that runs and is measured. As a context manager it is surely gone at the end.

    Args:
        command: The program and its arguments.
        work: A folder for what is noted about it.
        environment: Its environment variables; None: ours.
        count: The text that marks the lines to count, e.g. ``"file_sent"``; empty: none.
    """

    def __init__(
        self, command: Sequence[str], work: Path, environment: dict[str, str] | None = None, count: str = ""
    ) -> None:
        self._report = work / "usage.json"
        self._report.unlink(missing_ok=True)
        self._errors = work / "stderr.txt"
        self._mark = count.encode()
        self._lines: list[tuple[float, bytes]] = []
        self.counted = 0
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_LAUNCHER), str(self._report), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        # Its own session: this reaches the launcher and the program, and nothing else.
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                _open(stream).close()

    def wait_until(self, condition: Callable[[], bool], seconds: float) -> float:
        """
        Return the time at which ``condition`` was first seen to be true.

        Raises:
            UnavailableError: It was not within ``seconds``, or the program ended before it was.
        """
        deadline = time.time() + seconds
        while True:
            over = self._process.poll() is not None
            if condition():
                return time.time()
            if over or time.time() > deadline:
                raise self._failure("ended early" if over else f"was not done after {seconds:g} s")
            time.sleep(_POLL_SECONDS)

    def quit(self) -> None:
        """Ask it to end, as a user does: ``q`` on its standard input."""
        with contextlib.suppress(BrokenPipeError):
            stdin = _open(self._process.stdin)
            stdin.write(b"q\n")
            stdin.flush()

    def finish(self, seconds: float) -> Usage:
        """
        Return what it used, when it has ended by itself with exit code 0.

        Raises:
            UnavailableError: It did not end within ``seconds``, or with another exit code.
        """
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise self._failure(f"did not end within {seconds:g} s") from error
        self._reader.join()
        if code != 0:
            raise self._failure(f"ended with exit code {code}")
        return Usage(**json.loads(self._report.read_text("ascii")))

    def times_of(self, event: str) -> list[float]:
        """
        When each line that reports this event came, or the time it says (``at``), s since 1970.

        Ask after ``finish``.
        """
        return [float(values.get("at", when)) for when, values in self.reports_of(event)]

    def reports_of(self, event: str) -> list[tuple[float, dict[str, Any]]]:
        """The lines so far that report this event: when each came, s since 1970, and what it says."""
        mark = event.encode()
        found = ((when, _parsed(line)) for when, line in list(self._lines) if mark in line)
        return [(when, values) for when, values in found if values.get("event") == event]

    def cpu_seconds(self) -> float:
        """
        User and system time that the program has used so far.

        Raises:
            UnavailableError: It has ended.
        """
        try:
            # The launcher has no other child.
            (program,) = psutil.Process(self._process.pid).children()
            times = program.cpu_times()
        except (psutil.NoSuchProcess, ValueError) as error:
            raise self._failure("ended early") from error
        return float(times.user + times.system)

    def last_words(self) -> str:
        """The last lines of its output and of its errors."""
        out = [line.decode("utf-8", "replace") for _, line in self._lines[-8:]]
        err = self._errors.read_text("utf-8", "replace").splitlines()[-8:]
        return "\n".join([*out, *err])

    def _read(self) -> None:
        stream = _open(self._process.stdout).fileno()
        rest = b""
        while block := os.read(stream, 262_144):
            # One stamp a block: taking the lines apart in time would take CPU from what is measured.
            when = time.time()
            *lines, rest = (rest + block).split(b"\n")
            self._lines += [(when, line) for line in lines]
            if self._mark:
                self.counted += sum(self._mark in line for line in lines)

    def _failure(self, what: str) -> UnavailableError:
        return UnavailableError(f"a measured program {what}: {self._process.args!r}\n{self.last_words()}")


def _open(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _parsed(line: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        values = json.loads(line)
        if isinstance(values, dict):
            return values
    return {}
