"""What a local broker's folder tells when nobody asks its process: the state file, and the log's last words.

Knows neither clients nor how a broker is started. The state file says which port the folder uses and which
process, if any, runs on it; it is a hint that is checked against the truth.
"""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from openmsistream.errors import ConfigError, OpenMSIStreamError, StorageError, UnavailableError
from openmsistream.local.ports import PortTakenError
from openmsistream.local.process import ProcessId

STATE_FILE = "broker.json"
LOG_FILE = "broker.log"
# How long a second `start` in the same folder waits for the first one to finish.
START_LOCK_SECONDS = 90.0
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class BrokerState:
    """What ``broker.json`` holds. ``process`` is None after a clean stop; the ports stay."""

    port: int
    controller_port: int
    settings: Mapping[str, str] = field(default_factory=dict)
    process: ProcessId | None = None


def read_state(folder: Path) -> BrokerState | None:
    """
    Return what the folder's state file says: a hint, to be checked.

    None when there is none, or when it is damaged: only the last port is lost then.
    """
    try:
        values = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        running = values["process"]
        return BrokerState(
            port=int(values["port"]),
            controller_port=int(values["controller_port"]),
            settings={str(key): str(value) for key, value in values["settings"].items()},
            process=None if running is None else ProcessId(int(running["pid"]), str(running["began"])),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_state(folder: Path, state: BrokerState) -> None:
    """Replace the folder's state file, whole or not at all."""
    with storage_errors(folder):
        new = folder / (STATE_FILE + ".new")
        new.write_text(json.dumps(asdict(state), indent=1) + "\n", encoding="utf-8")
        new.replace(folder / STATE_FILE)


def how_it_ended(folder: Path) -> str:
    """Return in words why no broker runs on this folder; call it when ``LocalBroker.find`` found none."""
    state = read_state(folder)
    if state is None:
        return "it was never started here"
    if state.process is None:
        return "it was stopped"
    failure = failure_in_log(folder / LOG_FILE, "its process ended", "")
    if isinstance(failure, StorageError):
        return failure.message
    return f"its process {state.process.pid} was killed or ended by itself (data is kept)"


def failure_in_log(log_file: Path, what: str, bootstrap: str) -> OpenMSIStreamError:
    """
    Return the error that a broker's log tells of: a full disk, a port in use, a bad setting, or its
    last words.

    Args:
        log_file: Where the broker wrote.
        what: How the sentence begins, e.g. ``the broker on /x ended while starting``.
        bootstrap: Its address, for the text.
    """
    text = log_file.read_text(encoding="utf-8", errors="replace") if log_file.exists() else ""
    see = f"see {log_file}"
    if "No space left on device" in text or "There is not enough space on the disk" in text:
        return StorageError(
            f"{what}: no space left on the disk of {log_file.parent}",
            hint="free space there, or use another --folder; then start it again",
        )
    if "Address already in use" in text or "already in use" in text:
        return PortTakenError(
            f"{what}: another program listens at {bootstrap} or took the controller's port",
            hint="start again with another --port, or without it",
        )
    if "Failed to acquire lock on file" in text:
        return ConfigError(
            f"{what}: another process uses the data in {log_file.parent}",
            hint="end that process, or use another --folder",
        )
    if "ConfigException" in text:
        line = next(line for line in text.splitlines() if "ConfigException" in line)
        return ConfigError(f"{what}: {line.rsplit('ConfigException: ', 1)[-1]}", hint=see)
    words = [line for line in text.splitlines() if " ERROR " in line or "Exception" in line or "Error" in line]
    return UnavailableError(f"{what}: {words[-1].strip() if words else 'its log says nothing'}", hint=see)


@contextlib.contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn the operating system's refusals of this folder into ``StorageError``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"{folder}: the disk is full", hint="free space there, or use another --folder"
            ) from error
        raise StorageError(
            f"{folder}: {error.strerror or error}", hint="use a --folder that you may write to"
        ) from error


@contextlib.contextmanager
def start_lock(folder: Path, what: str) -> Iterator[None]:
    """
    Hold the right to start ``what`` (``a broker``) on this folder, which is made when it is missing.

    Raises:
        StorageError: The folder cannot be written.
        UnavailableError: Another program has held the right for 90 s.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "start.lock", timeout=START_LOCK_SECONDS)
        try:
            lock.acquire()
        except Timeout as error:
            raise UnavailableError(
                f"another program has been starting {what} on {folder} for {START_LOCK_SECONDS:.0f} s",
                hint="end that program, or use another --folder",
            ) from error
    try:
        yield
    finally:
        lock.release()


def require_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Raise StorageError when the folder's disk has less room than ``what`` (``the broker``) needs to start."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise StorageError(
            f"{folder}: the disk is full: {free // _MIB} MiB free, {what} needs {needed_bytes // _MIB} MiB",
            hint="free space there, or use another --folder",
        )
