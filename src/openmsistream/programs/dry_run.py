"""What ``openmsistream watch FOLDER --dry_run`` tells: which files would be sent now, which would not, and why.

Looks at the folder and at the ledger beside a program that may be running, and writes nothing anywhere. It must not
know Kafka, nor how a line is shown.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from openmsistream.adapters.filesystem.scanning import Listing, Place, Tree
from openmsistream.adapters.sqlite.beside import Names
from openmsistream.adapters.sqlite.lookup import FileRow, LedgerInfo, UploadLedgerView, ledgers, open_read_only
from openmsistream.config.models import ProgramConfig
from openmsistream.config.options import WatchOptions
from openmsistream.core.selection import Selection
from openmsistream.core.settle import Stat
from openmsistream.errors import SourceError, StorageError
from openmsistream.programs.ledgers import state_folders
from openmsistream.programs.verdicts import Memory, Verdict, Waiting

Write = Callable[[str], None]


def dry_run(options: WatchOptions, config: ProgramConfig, write: Write) -> int:
    """
    Tell of every file of the watched folder whether it would be sent now, and why.

    Needs no broker. A file that is being written now counts as it is.

    Args:
        options: As for ``watch``; with ``json`` each line is a JSON object.
        config: Says when which file is complete.
        write: Called with each line, without its line break. File names are in it as they are: who shows lines
            on a terminal has to escape what a terminal would obey.

    Returns:
        0: everything was told.

    Raises:
        ConfigError: Something in options or config is wrong.
        SourceError: The folder cannot be listed.
        StorageError: The ledger is there and cannot be read.
    """
    selection = Selection(options.upload_regex, include=options.include, exclude=options.exclude, share=options.share)
    waiting = Waiting(config.settle_rules(options), options.upload_dir)
    report = _Report(write, as_json=options.json)
    with ExitStack() as stack:
        ledger, notes = _ledger_of(options)
        if ledger is not None:
            stack.callback(ledger.close)
        memory = Memory(options, ledger)
        report.begin(options, ledger, [*notes, *memory.notes])
        for folder in _folders(options):
            known = memory.known_in(folder.path)
            for path, stat in folder.files:
                verdict = _verdict(path, stat, known.get(path), selection, waiting, memory)
                report.file(path, stat.size, verdict)
            for path, verdict in folder.others:
                report.file(path, None, verdict)
    report.end()
    return 0


def _verdict(
    path: str, stat: Stat, known: FileRow | None, selection: Selection, waiting: Waiting, memory: Memory
) -> Verdict:
    if waiting.is_marker(path):
        return Verdict(False, "marker", "it is a marker file")
    if reason := selection.why(path):
        return Verdict(False, "left_out", reason)
    verdict = memory.verdict(path, stat, known)
    if not verdict.send:
        return verdict
    if not os.access(waiting.full(path), os.R_OK):
        return Verdict(False, "unreadable", f"this account has no right to read it ({verdict.reason})")
    details = [verdict.reason, memory.failure_of(path), waiting.waits_for(path)]
    return Verdict(True, verdict.code, "; ".join(each for each in details if each))


@dataclass(frozen=True, slots=True)
class _Folder:
    path: str
    files: list[tuple[str, Stat]]
    others: list[tuple[str, Verdict]]


def _folders(options: WatchOptions) -> Iterator[_Folder]:
    """Every folder with its files, as ``watch`` would take them, and with what it would leave aside."""
    follow = options.symlinks == "follow"
    root = os.path.abspath(options.upload_dir)  # noqa: PTH100
    tree = Tree(root, follow_symlinks=follow, tell=lambda _: None)
    try:
        pending = [tree.enter("")]
        while pending:
            here = pending.pop()
            try:
                listing = tree.list(here)
                others = _left_aside(tree, here, listing, follow=follow)
            except OSError as error:
                if not here.path:
                    raise
                reason = f"this folder cannot be listed: {error.strerror or error}"
                yield _Folder(here.path, [], [(here.path, Verdict(False, "unreadable", reason))])
                continue
            pending.extend(sorted(listing.folders, key=lambda place: place.path, reverse=True))
            yield _Folder(here.path, sorted(listing.files), others)
    except OSError as error:
        raise SourceError(
            f"{root}: the watched folder cannot be listed: {error.strerror or error}",
            hint="check that the folder is there, mounted and readable",
        ) from error


def _left_aside(tree: Tree, place: Place, listing: Listing, *, follow: bool) -> list[tuple[str, Verdict]]:
    """Links that are not followed, pipes and the like: told, so that nobody looks for them in vain."""
    prefix = f"{place.path}/" if place.path else ""
    taken = {path for path, _ in listing.files} | {folder.path for folder in listing.folders}
    found = []
    with os.scandir(tree.full(place.path)) as entries:
        for entry in entries:
            path = prefix + entry.name
            if path in taken:
                continue
            if entry.is_symlink() and follow:
                reason = "a symbolic link to nothing, out of the watched folder, or to a folder that it lies in"
                found.append((path, Verdict(False, "symlink", reason)))
            elif entry.is_symlink():
                found.append((path, Verdict(False, "symlink", "a symbolic link; --symlinks follow takes it")))
            elif not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
                found.append((path, Verdict(False, "not_a_file", "not a regular file (a pipe, socket or device)")))
    return sorted(found, key=lambda each: each[0])


def _ledger_of(options: WatchOptions) -> tuple[UploadLedgerView | None, list[str]]:
    """The ledger that ``watch`` would use, and what is to be said of the choice: the cluster is not known here."""
    root, notes = os.path.realpath(options.upload_dir), list[str]()
    found: list[LedgerInfo] = []
    for folder in state_folders(options.state_dir).to_look_in():
        try:
            here = ledgers(folder)
        except StorageError as error:
            notes.append(error.message)
            continue
        for info in here:
            if info.kind == "upload" and info.topic == options.topic and _share_of(info.path) == _part(options.share):
                if info.root == root:
                    found.append(info)
                elif not info.root:
                    notes.append(
                        f"{info.path}: {info.problem or 'it does not say which folder it knows'}; not used here"
                    )
    if not found:
        return None, notes
    view, *others = (_open(info) for info in found)
    for other in others:
        newer, older = (other, view) if other.totals().newest_ns > view.totals().newest_ns else (view, other)
        notes.append(f"{older.path}: an older ledger of this folder and topic; not used here")
        older.close()
        view = newer
    return view, notes


def _open(info: LedgerInfo) -> UploadLedgerView:
    # A ledger that is gone is put back from its backup by the next start.
    return open_read_only(info.path if info.path.exists() else Names(info.path).backup)


def _part(share: tuple[int, int] | None) -> str:
    return f"-{share[0]}of{share[1]}" if share is not None and share[1] > 1 else ""


def _share_of(ledger: Path) -> str:
    found = re.search(r"-\d+of\d+\Z", ledger.stem)
    return found[0] if found else ""


class _Report:
    """The lines, and the totals at the end."""

    def __init__(self, write: Write, *, as_json: bool) -> None:
        self._write, self._as_json = write, as_json
        self._files: Counter[bool] = Counter()
        self._bytes: Counter[bool] = Counter()
        self._codes: Counter[str] = Counter()

    def begin(self, options: WatchOptions, ledger: UploadLedgerView | None, notes: list[str]) -> None:
        """What is looked at."""
        root, path = str(options.upload_dir), None if ledger is None else str(ledger.path)
        if self._as_json:
            self._object("dry_run_started", folder=root, topic=options.topic, ledger=path, notes=notes)
            return
        self._write(f"what would be sent from {root} to topic {options.topic}" + (f" (ledger {path})" if path else ""))
        for note in notes:
            self._write(note)

    def file(self, path: str, size: int | None, verdict: Verdict) -> None:
        """One file, or one thing that is no file (without a size)."""
        self._files[verdict.send] += 1
        self._bytes[verdict.send] += size or 0
        self._codes[verdict.code] += 1
        if self._as_json:
            self._object(
                "dry_run_file", path=path, send=verdict.send, size=size, code=verdict.code, reason=verdict.reason
            )
            return
        words = "would send    " if verdict.send else "would not send"
        self._write(f"{words} {'' if size is None else f'{size:,} B':>17}  {path}: {verdict.reason}")

    def end(self) -> None:
        """The totals."""
        if self._as_json:
            self._object(
                "dry_run_totals",
                send={"files": self._files[True], "bytes": self._bytes[True]},
                not_send={"files": self._files[False], "bytes": self._bytes[False]},
                codes=dict(sorted(self._codes.items())),
            )
            return
        for send, words in ((True, "would send"), (False, "would not send")):
            count = self._files[send]
            self._write(f"{words} {count:,} file{'' if count == 1 else 's'}, {self._bytes[send]:,} B")

    def _object(self, event: str, **values: object) -> None:
        self._write(json.dumps({"event": event, **{name: _valid(value) for name, value in values.items()}}))


def _valid(value: object) -> object:
    """A name that is not valid Unicode is escaped, as in all of our JSON."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else value
