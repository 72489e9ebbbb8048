"""The answer to "why was this file sent, or not": what was seen, decided, and what it waits for.

Puts together what the selection, the file system, the ledger and the running program say of one path. It must not know
how the answer is shown.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from openmsistream.adapters.sqlite.lookup import FileRow, LedgerInfo, UploadLedgerView, open_read_only
from openmsistream.core.selection import Selection
from openmsistream.core.settle import Stat
from openmsistream.errors import ConfigError, OpenMSIStreamError
from openmsistream.ports import Failed
from openmsistream.programs.knowing import (
    EXISTING,
    FAILED,
    INTERRUPTED,
    SENDING,
    SENT,
    SETTLING,
    FileState,
    escaped,
    is_running,
    known_folders,
    on_the_way,
    settling,
)

NOT_SELECTED, GONE, UNREADABLE, UNKNOWN, CHANGED, TOUCHED = (
    "not selected",
    "gone",
    "unreadable",
    "not seen",
    "changed since it was sent",
    "touched since it was sent",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """
    Why a file was sent, or not.

    Attributes:
        info: The ledger it was looked up in.
        path: Relative to the watched folder.
        verdict: One of the states of ``knowing`` or of this module.
        lines: What was found, each with the question it answers, in the order of asking.
        hint: What to do if that is not what was wanted; "" when nothing.
    """

    info: LedgerInfo
    path: str
    verdict: str
    lines: tuple[tuple[str, str], ...]
    hint: str = ""


def why(path: Path, infos: list[LedgerInfo]) -> list[Answer]:
    """
    An answer for each ledger whose watched folder holds the path.

    Args:
        path: A file, which need not be there any more.
        infos: The ledgers that are known.

    Raises:
        ConfigError: It lies in no watched folder; the error names those that are known.
        StorageError: A ledger cannot be read.
    """
    found = [(info, relative) for info in infos if (relative := _below(path, info.root))]
    if not found:
        raise ConfigError(f"{path}: it lies in no folder that a program watches, or has", hint=known_folders(infos))
    return [_Asking(info, relative).answer() for info, relative in found]


def _below(path: Path, root: str) -> str:
    """The relative path of a file below a root, "" when it is not; only the links above the file are followed."""
    if not root:
        return ""
    plain = Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute leaves ".." in
    top = Path(os.path.realpath(root))
    for candidate, base in ((plain, Path(root)), (plain, top), (plain.parent.resolve() / plain.name, top)):
        if candidate != base and candidate.is_relative_to(base):
            return candidate.relative_to(base).as_posix()
    return ""


class _Asking:
    """One path and one ledger."""

    def __init__(self, info: LedgerInfo, path: str) -> None:
        self._info, self._path = info, path
        self._lines: list[tuple[str, str]] = []
        self._options: dict[str, Any] = {}
        self._hint = ""

    def answer(self) -> Answer:
        with open_read_only(self._info.path) as view:
            self._options = _options(view.about())
            live = view.live() or {}
            running = is_running(view, live)
            known = view.known(self._path)
            failed = next(iter(view.failed(self._path)), None)
            under_way = self._under_way(view, live, running=running is not False)
        self._say("watched folder", f"{self._info.root}, sent to topic {self._info.topic}")
        selected = self._selection()
        there, looks = self._file()
        self._program(live, running=running)
        verdict = self._judge(known, failed, under_way, looks, selected=selected, there=there, running=running)
        return Answer(self._info, self._path, verdict, tuple(self._lines), self._hint)

    def _say(self, question: str, answer: str) -> None:
        self._lines.append((question, answer))

    def _selection(self) -> bool:
        try:
            reason = Selection(
                self._options.get("upload_regex"),
                include=self._options.get("include"),
                exclude=self._options.get("exclude"),
                share=tuple(self._options["share"]) if self._options.get("share") else None,
            ).why(self._path)
        except OpenMSIStreamError as error:
            reason = f"the rules in the ledger cannot be used: {error.message}"
        self._say("selected", f"no: {reason}" if reason else "yes")
        return not reason

    def _file(self) -> tuple[str, Stat | None]:
        """Why the file cannot be sent as it is there ("" when it can), and what it looks like."""
        full = os.path.join(os.path.realpath(self._info.root), self._path)  # noqa: PTH118 - bytes that are not Unicode
        try:
            found = os.lstat(full)
        except FileNotFoundError:
            self._say("file", "it is not there (any more)")
            return GONE, None
        except OSError as error:
            self._say("file", f"it cannot be looked at: {error.strerror}")
            return UNREADABLE, None
        if link := self._link(full):
            follows = self._options.get("symlinks") == "follow"
            rule = "is followed while it stays within the folder" if follows else "is left out (--symlinks follow)"
            self._say("link", f"{link} is a symbolic link, which {rule}")
            if not follows:
                return NOT_SELECTED, None
            try:
                found = os.stat(full)  # noqa: PTH116 - bytes that are not Unicode
            except OSError as error:
                self._say("file", f"the link leads nowhere: {error.strerror}")
                return GONE, None
        if not stat.S_ISREG(found.st_mode):
            self._say("file", "it is a folder" if stat.S_ISDIR(found.st_mode) else "it is no regular file")
            return NOT_SELECTED, None
        changed = moment(found.st_mtime_ns)
        self._say("file", f"{found.st_size} bytes, changed {changed}")
        if not os.access(full, os.R_OK):
            self._say("rights", "this account has no right to read it")
        return "", Stat(found.st_size, found.st_mtime_ns)

    def _link(self, full: str) -> str:
        """The first symbolic link among the file and the folders between it and the root; "" when there is none."""
        here, root = full, os.path.realpath(self._info.root)
        links = []
        while len(here) > len(root):
            if os.path.islink(here):  # noqa: PTH114 - bytes that are not Unicode
                links.append(os.path.relpath(here, root))
            here = os.path.dirname(here)  # noqa: PTH120 - bytes that are not Unicode
        return links[-1] if links else ""

    def _program(self, live: dict[str, Any], *, running: bool | None) -> None:
        if running:
            rules = f"; a file is complete by: {live['rules']}" if live.get("rules") else ""
            self._say("program", f"it runs (process {live.get('pid', 'not known')}){rules}")
        elif running is None:
            self._say("program", "whether it runs cannot be found out by this account")
        else:
            self._say("program", "none is running: nothing is sent until openmsistream watch is started again")

    def _under_way(self, view: UploadLedgerView, live: dict[str, Any], *, running: bool) -> FileState | None:
        path = escaped(self._path)
        if running:
            waiting = next((each for each in settling(live) if each.path == path), None)
            if found := on_the_way(live).get(path) or waiting:
                return found
        parked = next((each for each in view.open_versions() if each.path == self._path), None)
        if parked is None:
            return None
        state = SENDING if running else INTERRUPTED
        return FileState(path, state, parked.stat.size, parked.acknowledged, parked.started_ns)

    def _judge(
        self,
        known: FileRow | None,
        failed: Failed | None,
        under_way: FileState | None,
        looks: Stat | None,
        *,
        selected: bool,
        there: str,
        running: bool | None,
    ) -> str:
        before = self._before(known, looks)
        if failed is not None:
            tries = "once" if failed.tries == 1 else f"{failed.tries} times"
            again = "tried again within a minute" if running else "tried again at the next start"
            self._say("failed", f"{failed.reason}; tried {tries}, the last time {moment(failed.at_ns)}; {again}")
        if under_way is not None:
            self._say(under_way.state, _progress(under_way))
            return under_way.state
        if failed is not None:
            return FAILED
        if before in {SENT, EXISTING} and there != NOT_SELECTED:
            return before
        if not selected:
            self._hint = "see --include, --exclude, --upload-regex and --share of openmsistream watch"
            return NOT_SELECTED
        if there:
            return there
        if running:
            seconds = self._options.get("scan_seconds")
            every = f" every {seconds:g} s" if isinstance(seconds, int | float) else ""
            self._say("waits for", f"being noticed, or its turn: the whole folder is looked through{every}")
        return before or UNKNOWN

    def _before(self, known: FileRow | None, looks: Stat | None) -> str:
        """What was done with the path before; "" when nothing."""
        if known is None:
            self._say("sent before", "no")
            return ""
        same = looks is None or looks.same_content(known.stat)
        if not known.sent:
            self._say("sent before", "no: it was there before the first start, and was recorded as not to be sent")
            self._hint = "start openmsistream watch with --upload-existing to send such files"
            return EXISTING if same else CHANGED
        self._say("sent before", f"{moment(known.at_ns)}, {known.stat.size} bytes, digest {known.digest.hex()}")
        if known.evidence:
            self._say("taken as complete", known.evidence)
        if same or looks is None:
            return SENT
        only_time = looks.size == known.stat.size
        self._say("since then", "its time changed: its content is compared" if only_time else "its size changed")
        return TOUCHED if only_time else CHANGED


def _progress(file: FileState) -> str:
    since = f" since {moment(file.at_ns)}" if file.at_ns else ""
    if file.state == SETTLING:
        return f"{file.reason}; it waits{since}"
    if file.size:
        return f"{100 * file.done // file.size} % ({file.done} of {file.size} bytes acknowledged){since}"
    return f"{file.done} bytes acknowledged, {file.reason or 'its size is not known yet'}{since}"


def moment(at_ns: int) -> str:
    """A time as people read it, in this computer's zone."""
    return datetime.fromtimestamp(at_ns / 1e9).astimezone().isoformat(" ", "seconds")


def _options(about: dict[str, str]) -> dict[str, Any]:
    try:
        found = json.loads(about.get("options", "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
