"""What is known of watched folders and their files, from the ledgers of uploaders that run or are stopped.

Owns which ledger a question belongs to, and what ledger, live snapshot and file system say together. It must not know
how answers are shown, nor Kafka's client: the answers come quickly, and need no broker.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from openmsistream.adapters.sqlite.lookup import LedgerInfo, LedgerTotals, UploadLedgerView, ledgers, open_read_only
from openmsistream.config.models import default_search, load
from openmsistream.config.options import WatchOptions
from openmsistream.errors import ConfigError, StorageError
from openmsistream.programs.ledgers import state_folders

SETTLING, SENDING, INTERRUPTED, FAILED, SENT, EXISTING = (
    "settling",
    "sending",
    "interrupted",
    "failed",
    "sent",
    "existing",
)
"""The states of a file. interrupted: a stopped program had begun it, and goes on. existing: recorded, not sent."""

_NOTHING = LedgerTotals(0, 0, 0, 0)
_BYTES = re.compile(r"(\d+) bytes\b")


@dataclass(frozen=True, slots=True)
class FileState:
    """
    What is known of one file.

    Attributes:
        path: Relative to the watched folder; bytes that are not valid Unicode are escaped.
        state: One of the states above.
        size: In bytes; None when not known.
        done: Bytes acknowledged by the broker.
        at_ns: When that was last known: sent, failed, waiting since; ns since 1970, 0 when not known.
        digest: Of what was sent, hexadecimal; "" when it was not.
        reason: Why: the evidence, the error, what it waits for.
    """

    path: str
    state: str
    size: int | None = None
    done: int = 0
    at_ns: int = 0
    digest: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class LedgerStatus:
    """
    What is known of one watched folder and topic.

    Attributes:
        info: The ledger.
        running: A program watches it now; None when that cannot be found out.
        live: The last snapshot of the program; empty when there is none.
        totals: How much was sent.
        under_way: Files that are settling, on their way, interrupted or failed.
        failed: How many files failed.
    """

    info: LedgerInfo
    running: bool | None = None
    live: dict[str, Any] = field(default_factory=dict)
    totals: LedgerTotals = _NOTHING
    under_way: tuple[FileState, ...] = ()
    failed: int = 0

    def number(self, key: str) -> int:
        """A number of the running program's snapshot; 0 when it is stopped or does not say."""
        value = self.live.get(key) if self.running else None
        return int(value) if isinstance(value, int | float) else 0

    @property
    def last_heard_ns(self) -> int:
        """When a stopped program ended, or was last heard of when it was killed; 0 when that is not known."""
        for key in ("stopped_ns", "at_ns"):
            if isinstance(value := self.live.get(key), int):
                return value
        return self.totals.newest_ns


def state_dir_of(config: str | None, given: Path | None) -> Path | None:
    """
    The state folder that was asked for: given, or named by a config file.

    Raises:
        ConfigError: There is no such config file, or it is wrong.
    """
    if given is not None or config is None:
        return given
    env = dict(os.environ)
    named = load(config, env=env, search=default_search(env)).option_defaults(WatchOptions).get("state_dir")
    return named if isinstance(named, Path) else None


def upload_ledgers(state: Path | None, topic: str | None = None) -> list[LedgerInfo]:
    """
    The ledgers of uploaders on this computer.

    Args:
        state: The state folder; None: wherever this account's programs keep them.
        topic: Only those of this topic.

    Raises:
        ConfigError: There are none.
        StorageError: A folder that was named cannot be read.
    """
    folders = state_folders(state).to_look_in()
    found = [info for folder in folders for info in _in_folder(folder, alone=len(folders) == 1)]
    uploads = [info for info in found if info.kind == "upload"]
    chosen = [info for info in uploads if topic is None or info.topic == topic]
    if chosen:
        return chosen
    where = " or ".join(map(str, folders))
    if uploads:
        raise ConfigError(
            f"no program has sent to the topic {topic} by the ledgers in {where}",
            hint="known topics are " + ", ".join(sorted({info.topic for info in uploads})),
        )
    raise ConfigError(
        f"no watched folder is known: there is no ledger in {where}",
        hint="start openmsistream watch FOLDER, or name the place with --state-dir as it does",
    )


def of_folder(infos: list[LedgerInfo], folder: Path) -> list[LedgerInfo]:
    """
    Those of these ledgers that belong to a watched folder.

    Raises:
        ConfigError: None does; the error names the folders that are known.
    """
    here = os.path.realpath(folder)
    found = [info for info in infos if info.root and os.path.realpath(info.root) == here]
    if not found:
        raise ConfigError(f"{folder}: no program watches this folder, or has", hint=known_folders(infos))
    return found


def known_folders(infos: list[LedgerInfo]) -> str:
    """The watched folders that are known, as a hint."""
    roots = sorted({info.root for info in infos if info.root})
    return "known folders are " + ", ".join(roots) if roots else "the ledgers do not say which folders they know"


def status_of(info: LedgerInfo) -> LedgerStatus:
    """What is known of one watched folder and topic; a ledger that cannot be read says so in ``info.problem``."""
    if info.problem:
        return LedgerStatus(info)
    try:
        with open_read_only(info.path) as view:
            live = view.live() or {}
            running = is_running(view, live)
            under_way = tuple(_under_way(view, live, running=running is not False))
            failed = sum(each.state == FAILED for each in under_way)
            return LedgerStatus(info, running, live, view.totals(), under_way, failed)
    except StorageError as error:
        return LedgerStatus(
            LedgerInfo(info.path, info.kind, info.root, info.topic, info.cluster_id, error.message), None
        )


def every_file(status: LedgerStatus) -> Iterator[FileState]:
    """
    Each file once: first those under way, then the others folder by folder, read as they are asked for.

    Raises:
        StorageError: The ledger cannot be read.
    """
    yield from status.under_way
    if status.info.problem:
        return
    told = {each.path for each in status.under_way}
    with open_read_only(status.info.path) as view:
        for row in view.files():
            path = escaped(row.path)
            if path not in told:
                state = SENT if row.sent else EXISTING
                done = row.stat.size if row.sent else 0
                yield FileState(path, state, row.stat.size, done, row.at_ns, row.digest.hex(), row.evidence)


def is_running(view: UploadLedgerView, live: dict[str, Any]) -> bool | None:
    """Whether a program uses the ledger now: its lock says so, else the process of the last snapshot."""
    held = view.running()
    if held is not None:
        return held
    if live.get("stopped_ns") or not isinstance(pid := live.get("pid"), int):
        return None
    return bool(psutil.pid_exists(pid))


def escaped(path: str) -> str:
    """A path as it stands in the live snapshot: bytes that are not valid Unicode are escaped."""
    return path.encode("utf-8", "backslashreplace").decode("utf-8")


def _in_folder(folder: Path, *, alone: bool) -> list[LedgerInfo]:
    try:
        return ledgers(folder)
    except StorageError:
        if alone:
            raise
        return []  # the machine-wide folder may be closed to this account, whose own ledgers are asked for


def _under_way(view: UploadLedgerView, live: dict[str, Any], *, running: bool) -> Iterator[FileState]:
    told: set[str] = set()
    for failed in view.failed():
        reason = f"{failed.reason} ({failed.tries} {'try' if failed.tries == 1 else 'tries'})"
        told.add(escaped(failed.path))
        yield FileState(escaped(failed.path), FAILED, at_ns=failed.at_ns, reason=reason)
    moving = on_the_way(live) if running else {}
    for parked in view.open_versions():
        path = escaped(parked.path)
        if path not in moving and path not in told:
            state = SENDING if running else INTERRUPTED
            told.add(path)
            yield FileState(path, state, parked.stat.size, parked.acknowledged, parked.started_ns)
    for path, each in moving.items():
        if path not in told:
            told.add(path)
            yield each
    if running:
        yield from (each for each in settling(live) if each.path not in told)


def on_the_way(live: dict[str, Any]) -> dict[str, FileState]:
    """The files of a snapshot of which chunks are on their way, by path."""
    found = {}
    for path, done, size in _lists(live, "active", 3):
        found[path] = FileState(path, SENDING, size, done)
    for path, done in _lists(live, "sending_growing", 2):
        found[path] = FileState(path, SENDING, None, done, reason="while it is still being written")
    return found


def settling(live: dict[str, Any]) -> Iterator[FileState]:
    """The files of a snapshot that wait to be complete."""
    for path, since_ns, seen, waiting_for in _lists(live, "settling", 4):
        words = [str(each) for each in seen] if isinstance(seen, list) else []
        size = next((int(found[1]) for each in words if (found := _BYTES.match(each))), None)
        reason = f"waits for {waiting_for}" + (f" ({'; '.join(words)})" if words else "")
        yield FileState(str(path), SETTLING, size, 0, since_ns, reason=reason)


def _lists(live: dict[str, Any], key: str, length: int) -> Iterator[list[Any]]:
    """The entries of a list in a snapshot; a later version's snapshot may hold other things."""
    found = live.get(key)
    for each in found if isinstance(found, list) else ():
        if isinstance(each, list) and len(each) >= length:
            yield each[:length]
