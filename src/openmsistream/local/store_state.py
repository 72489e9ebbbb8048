"""What a local object store's folder tells when nobody asks its process: the state file, and the log's last words.

Knows neither clients nor how a store is started. The state file says which ports and keys the folder uses and
which process, if any, runs on it; it is a hint that is checked against the truth.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from openmsistream.errors import OpenMSIStreamError, StorageError, UnavailableError
from openmsistream.local.ports import PortTakenError
from openmsistream.local.process import ProcessId
from openmsistream.local.state import storage_errors
from openmsistream.local.weed import PORT_NAMES, Keys, StorePorts, write_private

STATE_FILE = "store.json"
LOG_FILE = "store.log"

# glog's lines begin with the severity and the date: F1121 14:42:01.873710 master.go:269 what happened
_FATAL = "F"
_LAST_LINES = 3


@dataclass(frozen=True, slots=True)
class StoreState:
    """What ``store.json`` holds. ``process`` is None after a stop; ports and keys stay."""

    ports: StorePorts
    keys: Keys
    process: ProcessId | None = None


def read_store_state(folder: Path) -> StoreState | None:
    """
    Return what the folder's state file says: a hint, to be checked.

    None when there is none, or when it is damaged: the last ports and keys are lost then, no data.
    """
    try:
        values = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        running = values["process"]
        keys = {str(name): str(value) for name, value in values["keys"].items()}
        return StoreState(
            ports=StorePorts(**{name: int(values["ports"][name]) for name in PORT_NAMES}),
            keys=Keys(**keys),
            process=None if running is None else ProcessId(int(running["pid"]), str(running["began"])),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_store_state(folder: Path, state: StoreState) -> None:
    """Replace the folder's state file, whole or not at all; only this user may read it."""
    with storage_errors(folder):
        write_private(folder / STATE_FILE, json.dumps(asdict(state), indent=1) + "\n")


def how_store_ended(folder: Path) -> str:
    """Return in words why no store runs on this folder; call it when ``LocalStore.find`` found none."""
    state = read_store_state(folder)
    if state is None:
        return "it was never started here"
    if state.process is None:
        return "it was stopped"
    return f"its process {state.process.pid} was killed or ended by itself (data is kept)"


def failure_in_store_log(log_file: Path, what: str) -> OpenMSIStreamError:
    """
    Return the error that a store's log tells of: a full disk, a port in use, or its last words.

    Args:
        log_file: Where the store wrote.
        what: How the sentence begins, e.g. ``the object store on /x ended while starting``.
    """
    text = log_file.read_text(encoding="utf-8", errors="replace") if log_file.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    fatal = [line for line in lines if line.startswith(_FATAL) and line[1:5].isdigit()]
    last = " / ".join(fatal[-1:] or lines[-_LAST_LINES:]) or "its log says nothing"
    if "no space left on device" in text or "not enough space on the disk" in text:
        return StorageError(
            f"{what}: no space left on the disk of {log_file.parent}",
            hint="free space there, or use another folder; then start it again",
        )
    if "address already in use" in last or "Only one usage of each socket address" in last:
        return PortTakenError(f"{what}: another program took one of its ports: {last}", hint="start it again")
    return UnavailableError(f"{what}: {last}", hint=f"see {log_file}")
