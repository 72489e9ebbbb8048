"""What fault and command-line tests share: our programs as processes, folders for them, and trees by hash.

Owns how a program is started, watched by its events, killed and awaited, always with a deadline. It must not know
what is on a topic: that is ``records``.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

from openmsistream.core.paths import WORK_FOLDER

ROOT = Path(__file__).parents[2]
LAUNCHER = Path(__file__).with_name("launcher.py")
PATIENCE_SECONDS = float(os.environ.get("OMS_PATIENCE", "90"))
"""How long anything may take before a test fails: far more than it does, since a computer may be busy."""
SEEDS = range(int(os.environ.get("OMS_SEEDS", "3")))
LONG = os.environ.get("OMS_LONG") == "1"

_FILL_BYTES = 128 * 1024 * 1024

Event = dict[str, Any]
Found = TypeVar("Found")
PROTOCOLS = {
    "classic": "group.protocol = classic\nsession.timeout.ms = 2000\nheartbeat.interval.ms = 300",
    "consumer": "group.protocol = consumer",
}
"""What a member's config says, by group protocol; on ``quick_broker`` who is gone is missed after 2 s with both."""


def eventually(condition: Callable[[], Found], what: str, seconds: float = PATIENCE_SECONDS) -> Found:
    """The first true value of ``condition``; the test fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.05)


class Program:
    """
    One of our programs as a process, usually with ``--json``; killed at the end of the ``with`` block.

    Attributes:
        events: What it reported, as dictionaries, in order.
        lines: What else it wrote to standard output.
    """

    def __init__(self, command: list[str], **more: Any) -> None:
        self.events: list[Event] = []
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._deaf = False
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="surrogateescape",
            **{"env": environment(), **more},
        )
        self._threads = [
            threading.Thread(target=self._read, args=(self._process.stdout, self._take), daemon=True),
            threading.Thread(target=self._read, args=(self._process.stderr, self.errors.append), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        if self.running:
            self._process.kill()
        self.wait()
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """True while it has not ended."""
        return self._process.poll() is None

    @property
    def stderr(self) -> str:
        """What it wrote to standard error so far."""
        return "".join(self.errors)

    @property
    def stdout(self) -> str:
        """What it wrote to standard output that is no event, so far."""
        return "".join(self.lines)

    def of(self, kind: str, **values: object) -> list[Event]:
        """Its events of one kind, with these values."""
        return [e for e in list(self.events) if e["event"] == kind and values.items() <= e.items()]

    def paths(self, kind: str) -> list[str]:
        """The paths of its events of one kind, in order."""
        return [event["path"] for event in self.of(kind)]

    def until(self, condition: Callable[[], Found], what: str, seconds: float = PATIENCE_SECONDS) -> Found:
        """The first true value of ``condition``; fails with what the program said when it ended before, or in time."""
        deadline = time.monotonic() + seconds
        while True:
            running = self.running
            found = condition()
            if found:
                return found
            if not running or time.monotonic() > deadline:
                state = "still runs" if running else f"ended with {self._process.returncode}"
                said = self.events[-5:] or self.lines[-5:]
                raise AssertionError(f"{what}: not so; the program {state}; last: {said}; {self.stderr[-2000:]}")
            time.sleep(0.05)

    def until_event(self, kind: str, *, count: int = 1, seconds: float = PATIENCE_SECONDS, **values: object) -> Event:
        """The ``count``-th event of a kind with these values."""
        return self.until(lambda: self.of(kind, **values)[count - 1 : count], f"{count} x {kind} {values}", seconds)[0]

    def type(self, line: str) -> None:
        """Type a line on its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def end_of_input(self) -> None:
        """Close its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def stop_reading(self) -> None:
        """Close the reading end of its standard output behind its next line, as ``head`` does."""
        self._deaf = True

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it as a power cut would, and return when it is gone."""
        self._process.kill()
        self.wait()

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Its exit code, when it ended by itself and everything it wrote was read."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise AssertionError(
                f"did not end within {seconds:g} s; last: {self.events[-3:] or self.lines[-3:]}; {self.stderr[-2000:]}"
            ) from None
        for thread in self._threads:
            thread.join(10)
        return code

    def quit(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Type ``q``; its exit code."""
        if self.running:
            self.type("q")
        return self.wait(seconds)

    def _take(self, line: str) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            self.lines.append(line)
            return
        if isinstance(event, dict) and "event" in event:
            self.events.append(event)
        else:
            self.lines.append(line)

    def _read(self, stream: IO[str], take: Callable[[str], object]) -> None:
        for line in stream:
            take(line)
            if self._deaf and stream is self._process.stdout:
                break
        stream.close()


def environment(**more: str) -> dict[str, str]:
    """Our environment without what would change how a program finds its config or colours its output."""
    unwanted = ("OPENMSISTREAM_CONFIG_FILE_DIR", "FORCE_COLOR", "NO_COLOR")
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    # Set by conftest.py: no test may touch the ledgers of this computer.
    return {**kept, "OPENMSISTREAM_STATE_DIR": os.environ["OPENMSISTREAM_STATE_DIR"], "PYTHONUTF8": "1", **more}


def program(*words: object, kill: str = "", changes: str = "", **more: Any) -> Program:
    """
    Start ``openmsistream WORDS --json``.

    Args:
        words: Command and options.
        kill: Where the program is to kill itself, see ``launcher.py``.
        changes: What is to be changed in it, such as a protection taken out, see ``launcher.py``.
        more: For ``subprocess.Popen``.
    """
    start = [str(LAUNCHER), kill, changes] if kill or changes else ["-m", "openmsistream"]
    return Program([sys.executable, *start, *map(str, words), "--json"], **more)


def config(folder: Path, bootstrap: str, *, producer: str = "", consumer: str = "", broker: str = "") -> Path:
    """A config file for the programs; the last three are further lines of its sections."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "test.config"
    path.write_text(
        f"[broker]\nbootstrap.servers = {bootstrap}\nreconnect.backoff.max.ms = 500\n{broker}\n"
        f"[producer]\n{producer}\n[consumer]\nauto.offset.reset = earliest\n{consumer}\n",
        encoding="utf-8",
    )
    return path


@dataclass
class Place:
    """The folders and the topic of one test."""

    base: Path
    bootstrap: str
    topic: str
    watched: Path = field(init=False)
    output: Path = field(init=False)
    config: Path = field(init=False)

    def __post_init__(self) -> None:
        self.watched, self.output = self.base / "watched", self.base / "output"
        self.watched.mkdir(parents=True, exist_ok=True)
        self.config = config(self.base, self.bootstrap)

    def configure(self, **sections: str) -> None:
        """Write the config file anew, with further lines of its sections."""
        self.config = config(self.base, self.bootstrap, **sections)

    def watch(self, *options: object, **more: Any) -> Program:
        """Start the uploader on the watched folder; files settle at once unless the options say otherwise."""
        words = ("--watchdog-lag-time", 0, "--scan-seconds", 0.5, "--state-dir", self.base / "state")
        return program("watch", self.watched, *self._common(), *words, *options, **more)

    def send(self, *options: object, **more: Any) -> Program:
        """Run the uploader once, to its end; fails when it does not end well."""
        with self.watch("--once", *options, **more) as sender:
            assert sender.wait() == 0, sender.stderr + str(sender.events[-3:])
        return sender

    def download(self, *options: object, **more: Any) -> Program:
        """Start the downloader to the output folder."""
        return program("download", self.output, *self._common(), *options, **more)

    def fetch(self, *options: object, idle: float = 1.0, **more: Any) -> Program:
        """Run the downloader until nothing comes any more; fails when it does not end well."""
        with self.download("--until-idle", idle, *options, **more) as receiver:
            assert receiver.wait() in {0, 3}, receiver.stderr + str(receiver.events[-3:])
        return receiver

    def _common(self) -> tuple[object, ...]:
        return ("--config", self.config, "--topic-name", self.topic)


def tree(folder: Path) -> dict[bytes, str]:
    """SHA-256 of every file below a folder by relative path, without the downloader's own work folder."""
    found: dict[bytes, str] = {}
    top = os.fsencode(folder)
    for here, folders, names in os.walk(top):
        if here == top and WORK_FOLDER.encode() in folders:
            folders.remove(WORK_FOLDER.encode())
        for name in names:
            full = Path(os.fsdecode(here), os.fsdecode(name))
            with full.open("rb") as file:
                found[os.fsencode(full.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def fill(folder: Path, files: Mapping[str, int], seed: int = 0) -> None:
    """Make files of these sizes with random bytes, each whole at once under its name."""
    source = random.Random(seed)
    beside = folder.with_name(folder.name + ".new")
    for name, size in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            for start in range(0, size, _FILL_BYTES):
                file.write(source.randbytes(min(_FILL_BYTES, size - start)))
        beside.replace(path)


@contextmanager
def ledger(folder: Path, kind: str) -> Iterator[sqlite3.Connection]:
    """The ledger of a program that has ended; ``kind`` is upload or download."""
    (path,) = (found for found in folder.glob(f"{kind}-*.sqlite") if ".backup" not in found.name)
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        yield connection
    finally:
        connection.close()


def killed(code: int) -> bool:
    """True when a program was ended by SIGKILL."""
    return code == -signal.SIGKILL
