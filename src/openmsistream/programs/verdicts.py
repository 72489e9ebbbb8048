"""Why a file would be sent now, or would not: by what is known of it from before, and by its name.

The reasons that ``dry_run`` shows. It must not know how a folder is listed, where a ledger stands, or how a reason is
shown; it only reads.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from openmsistream.adapters.filesystem.registry_1x import Registry1x, already_uploaded
from openmsistream.adapters.sqlite.lookup import FileRow, UploadLedgerView
from openmsistream.config.options import WatchOptions
from openmsistream.core.settle import Settler, SettleRule, Stat
from openmsistream.core.settle_rules import SettleMode
from openmsistream.ports import Failed, Parked


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a file would be sent; ``code`` says why in one word for programs, ``reason`` for people."""

    send: bool
    code: str
    reason: str


class Memory:
    """What is known of files from before: by the ledger, or at the first start by the registries of 1.x."""

    def __init__(self, options: WatchOptions, ledger: UploadLedgerView | None) -> None:
        self._ledger = ledger
        self._existing_too = options.upload_existing or options.once
        self._open: dict[str, Parked] = {}
        self._failed: dict[str, Failed] = {}
        self._running = False
        self._registry = Registry1x()
        if ledger is None:
            self._registry = already_uploaded(options.upload_dir, options.topic, options.logger_file_path)
        else:
            self._open = {each.path: each for each in ledger.open_versions()}
            self._failed = {each.path: each for each in ledger.failed()}
            self._running = bool(ledger.running())

    @property
    def notes(self) -> list[str]:
        """What a user should know before the first file."""
        if self._ledger is not None:
            return ["the program is running now"] if self._running else []
        registry = self._registry
        notes = ["there is no ledger yet, so this would be the first start for this folder and topic"]
        if registry.files:
            notes.append(
                f"{len(registry.completed):,} files were sent by OpenMSIStream 1.x ({registry.files[0].parent})"
            )
        if registry.skipped:
            notes.append(f"{registry.skipped:,} lines of its registries cannot be understood: taken as not sent")
        return [*notes, *registry.problems]

    def known_in(self, folder: str) -> dict[str, FileRow]:
        """What the ledger knows of the files directly in a folder."""
        return {} if self._ledger is None else {row.path: row for row in self._ledger.known_in(folder)}

    def failure_of(self, path: str) -> str:
        """Why the file could not be sent before; "" when that is not so."""
        failed = self._failed.get(path)
        return "" if failed is None else f"it could not be sent before ({failed.tries} tries): {failed.reason}"

    def verdict(self, path: str, stat: Stat, known: FileRow | None) -> Verdict:
        """Whether the file as it is now is to be sent, as far as memory goes."""
        if known is not None and known.stat.same_content(stat):
            return self._unchanged(known)
        if self._ledger is None:
            return self._at_first_start(path, stat)
        if (parked := self._open.get(path)) is not None:
            return self._under_way(parked, stat)
        if known is None:
            return Verdict(True, "new", "new: it is not in the ledger")
        if not known.sent:
            return Verdict(True, "changed", "changed since the first start")
        if known.stat.size == stat.size:
            return Verdict(True, "touched", f"touched since it was {_sent_at(known)}: sent if its content differs")
        return Verdict(True, "changed", f"changed since it was {_sent_at(known)} with {known.stat.size:,} bytes")

    def _unchanged(self, known: FileRow) -> Verdict:
        if known.sent and "1.x" in known.evidence:
            return Verdict(False, "sent_by_1x", "OpenMSIStream 1.x sent it")
        if known.sent:
            return Verdict(False, "sent", f"it was {_sent_at(known)} and has not changed since")
        if self._existing_too:
            return Verdict(True, "never_sent", "never sent: it was there at the first start")
        return Verdict(
            False, "existing", "it was there at the first start and has not changed since; --upload_existing sends it"
        )

    def _at_first_start(self, path: str, stat: Stat) -> Verdict:
        registry = self._registry
        if path in registry.in_progress:
            return Verdict(True, "interrupted_1x", "OpenMSIStream 1.x began to send it and did not finish")
        if registry.sent(path, stat.mtime_ns):
            return Verdict(False, "sent_by_1x", "OpenMSIStream 1.x sent it, and it has not changed since")
        if path in registry.completed:
            return Verdict(True, "changed", "changed since OpenMSIStream 1.x sent it")
        if self._existing_too:
            return Verdict(True, "new", "new: it is there at the first start")
        return Verdict(
            False, "existing", "it is there at the first start, which only records it; --upload_existing sends it"
        )

    def _under_way(self, parked: Parked, stat: Stat) -> Verdict:
        done = parked.acknowledged
        how_far = f"at {100 * done // stat.size} %" if 0 < done <= stat.size else f"after {done:,} bytes"
        if self._running:
            return Verdict(True, "under_way", f"it is being sent now ({how_far.removeprefix('at ')})")
        return Verdict(True, "interrupted", f"interrupted {how_far}: goes on there if what was sent is unchanged")


class Waiting:
    """What a file would still have to wait for."""

    def __init__(self, rule_for: Callable[[str], SettleRule], root: Path) -> None:
        self._rule_for = rule_for
        self._settler = Settler(rule_for)
        self._root = os.path.abspath(root)  # noqa: PTH100 - once, and joined as text for each file

    def full(self, path: str) -> str:
        """The absolute path of a relative one."""
        return f"{self._root}/{path}"

    def is_marker(self, path: str) -> bool:
        """True when the file only tells that others are complete."""
        return self._settler.is_marker(path)

    def waits_for(self, path: str) -> str:
        """What is missing before the file counts as complete, as far as names tell; "" when nothing is."""
        rule = self._rule_for(path)
        at_most = "" if rule.max_wait_seconds is None else f", or {rule.max_wait_seconds / 60:g} min without a change"
        if rule.mode is SettleMode.MARKER:
            marker = rule.marker_of(path)
            return "" if os.path.isfile(self.full(marker)) else f"waits for its marker {marker}{at_most}"  # noqa: PTH113
        if rule.mode is SettleMode.AUTO and rule.is_temporary(path):
            return f"it has a temporary name: waits for its final one{at_most}"
        return ""


def _sent_at(known: FileRow) -> str:
    if not known.at_ns:
        return "sent"
    when = datetime.fromtimestamp(known.at_ns // 1_000_000_000, tz=UTC).astimezone()
    return f"sent on {when:%Y-%m-%d at %H:%M:%S}"
