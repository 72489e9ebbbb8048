"""Whether a process is still the one we started, and how to end, stop and resume it.

Owns the differences between operating systems. It knows nothing about Kafka. A process id alone proves
nothing, because ids are used again: a process is its id and the time at which it began.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openmsistream.errors import ConfigError

_POLL_SECONDS = 0.02
# Popen objects of this interpreter's own children: a child that ended stays a zombie until it is waited for.
_children: dict[int, subprocess.Popen[bytes]] = {}
# What a guard runs: it reads from a pipe that closes when the program that holds the other end is no more.
_GUARD = "import sys; from openmsistream.local.process import end_with_pipe; end_with_pipe(*sys.argv[1:])"
GUARD_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class ProcessId:
    """
    One process, told apart from a later one with the same number.

    Attributes:
        pid: The number the operating system gave it.
        began: When it began, as this operating system says it; only equality means something.
    """

    pid: int
    began: str

    def is_alive(self) -> bool:
        """True while this very process runs (a zombie does not)."""
        if began(self.pid) == self.began:
            return True
        child = _children.pop(self.pid, None)
        if child is not None:
            child.wait()  # it has ended: let the operating system forget it
        return False

    def terminate(self) -> None:
        """Ask it to end (POSIX: SIGTERM). Windows has no such request for a process without a window."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)

    def freeze(self) -> None:
        """
        Stop it where it is, until ``thaw``.

        Raises:
            ConfigError: On Windows, which cannot do this.
        """
        if sys.platform == "win32":
            raise ConfigError("a process cannot be frozen on Windows", hint="do this on Linux or macOS")
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        if sys.platform != "win32":
            self._signal(signal.SIGCONT)

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended, at most ``seconds``; True when it has."""
        deadline = time.monotonic() + seconds
        while self.is_alive():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def _signal(self, number: int) -> None:
        if not self.is_alive():
            return
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return  # it ended between the question and the signal


def launch(command: Sequence[str], *, folder: Path, log_file: Path, environment: Mapping[str, str]) -> ProcessId:
    """
    Start a program in the background, in a session of its own: Ctrl-C in this terminal does not reach it.

    Args:
        command: The program and its arguments.
        folder: Its working folder.
        log_file: Where its standard output and error are appended.
        environment: All of its environment variables.
    """
    with log_file.open("ab") as log:
        child = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=sys.platform != "win32",
            creationflags=_background_flags(),
        )
    _children[child.pid] = child
    return ProcessId(child.pid, began(child.pid) or "ended at once")


def guard(
    guarded: ProcessId, *, seconds: float = GUARD_SECONDS, leftovers: Sequence[Path] = ()
) -> subprocess.Popen[bytes]:
    """
    Tie a process to this program: it is ended when this program is no more, also after ``kill -9``.

    Args:
        guarded: The process.
        seconds: How long it may take to end when it is asked to; then it is killed.
        leftovers: Files it leaves behind when it is killed, to be removed afterwards.

    Returns:
        The small program that watches; close its ``stdin`` and wait for it when it is not needed.
    """
    return subprocess.Popen(
        [sys.executable, "-c", _GUARD, str(guarded.pid), guarded.began, str(seconds), *map(str, leftovers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=sys.platform != "win32",
        creationflags=_background_flags(),
    )


def end_with_pipe(pid: str, began_at: str, seconds: str, *leftovers: str) -> None:
    """Wait until standard input closes, then end the process and remove what it left: what a guard does."""
    sys.stdin.buffer.read()
    guarded = ProcessId(int(pid), began_at)
    guarded.terminate()
    guarded.thaw()
    if not guarded.wait(float(seconds)):
        guarded.kill()
        guarded.wait(GUARD_SECONDS)
    for path in leftovers:
        Path(path).unlink(missing_ok=True)


def began(pid: int) -> str | None:
    """Say when the process with this id began; None when there is none, or only a zombie."""
    how = {"linux": _began_linux, "win32": _began_windows}.get(sys.platform, _began_ps)
    return how(pid)


def _background_flags() -> int:
    if sys.platform == "win32":
        return subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
    return 0


def _began_linux(pid: int) -> str | None:
    """Source: proc(5): field 3 is the state, field 22 the start time in ticks since boot."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
    # The name in field 2 stands in brackets and may itself hold spaces and brackets.
    fields = text[text.rfind(")") + 2 :].split()
    return None if fields[0] in ("Z", "X") else f"{boot} {fields[19]}"


def _began_ps(pid: int) -> str | None:
    answer = subprocess.run(
        ["ps", "-o", "state=,lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    state, _, since = answer.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else since.strip()


def _began_windows(pid: int) -> str | None:
    """Source: GetProcessTimes and GetExitCodeProcess in Microsoft's processthreadsapi.h."""
    query_limited_information, still_active = 0x1000, 259
    kernel: Any = getattr(ctypes, "WinDLL")("kernel32", use_last_error=True)  # noqa: B009  only on Windows
    kernel.OpenProcess.restype = ctypes.c_void_p
    handle = kernel.OpenProcess(query_limited_information, False, pid)
    if not handle:
        return None
    try:
        code = ctypes.c_ulong()
        times = [ctypes.c_ulonglong() for _ in range(4)]
        known = kernel.GetExitCodeProcess(ctypes.c_void_p(handle), ctypes.byref(code)) and (
            kernel.GetProcessTimes(ctypes.c_void_p(handle), *(ctypes.byref(one) for one in times))
        )
        return str(times[0].value) if known and code.value == still_active else None
    finally:
        kernel.CloseHandle(ctypes.c_void_p(handle))
