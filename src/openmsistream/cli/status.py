"""``openmsistream status``: what watched folders have sent, have under way, and could not send.

Owns the words, the table and the formats. It must not know how ledgers are found or read. Imports stand inside the
functions, so that ``openmsistream --help`` answers at once.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from openmsistream.cli.printable import printable
from openmsistream.cli.sizes import size

if TYPE_CHECKING:
    from openmsistream.programs.knowing import FileState, LedgerStatus

SHOWN_FILES = 50
"""Rows of a table without --all: what is under way is worth looking at, a million rows are not."""

_EXAMPLES = """\
exit code: 0, or 1 when nothing is known

examples:
  1. See what all watched folders of this computer are doing:
     openmsistream status
  2. One folder, with every file that was sent:
     openmsistream status xrd_data --all
  3. A list of all files for a spreadsheet:
     openmsistream status xrd_data --csv > files.csv
  4. For a script:
     openmsistream status --json
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``status`` to a program's sub-commands."""
    parser = subparsers.add_parser(
        "status",
        help="what watched folders have sent, and what is under way",
        description="Show what watched folders have sent, have under way, and could not send. Works while the programs "
        "run and when they are stopped; needs no broker.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, nargs="?", metavar="FOLDER", help="one watched folder (default: all)")
    add_places(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object; sizes in bytes, times in UTC")
    form.add_argument("--csv", action="store_true", help="print one row for each file that is known")
    parser.add_argument("--all", action="store_true", help="also list the files that were sent, one by one")
    parser.set_defaults(run=_status)


def add_places(parser: argparse.ArgumentParser) -> None:
    """The options that say which ledgers are asked: of ``status`` and ``why``."""
    parser.add_argument("--topic-name", "--topic_name", metavar="TOPIC", help="only what is sent to this topic")
    parser.add_argument(
        "--state-dir",
        "--state_dir",
        type=Path,
        metavar="FOLDER",
        help="where the ledgers are (default: where the programs of this account keep them)",
    )
    parser.add_argument("--config", metavar="NAME", help="config file that may name the folder for ledgers")


def _status(namespace: argparse.Namespace) -> int:
    from openmsistream.programs.knowing import (  # noqa: PLC0415
        every_file,
        of_folder,
        state_dir_of,
        status_of,
        upload_ledgers,
    )

    infos = upload_ledgers(state_dir_of(namespace.config, namespace.state_dir), namespace.topic_name)
    if namespace.folder is not None:
        infos = of_folder(infos, namespace.folder)
    found = [status_of(info) for info in infos]
    if namespace.csv:
        _print_csv(found, itertools.chain.from_iterable(((each, file) for file in every_file(each)) for each in found))
    elif namespace.json:
        _print_json(found, ((each, file) for each in found for file in every_file(each)) if namespace.all else None)
    else:
        for number, each in enumerate(found):
            files = every_file(each) if namespace.all else each.under_way[:SHOWN_FILES]
            _print_people(each, files, first=number == 0)
            if not namespace.all and len(each.under_way) > SHOWN_FILES:
                print(f"  ... and {len(each.under_way) - SHOWN_FILES} more (--all lists every file)")
    return 1 if all(each.info.problem for each in found) else 0


# -- for people ---------------------------------------------------------------------------------------------------


def _print_people(status: LedgerStatus, files: Iterable[FileState], *, first: bool) -> None:
    info = status.info
    print(("" if first else "\n") + printable(f"{info.root or info.path} -> topic {info.topic}"))
    if info.problem:
        print(f"  ledger    {printable(str(info.path))}: {printable(info.problem)}")
        return
    for label, text in _summary(status):
        print(f"  {label:<9} {printable(text)}")
    _print_table(map(_cells, files))


def _summary(status: LedgerStatus) -> Iterator[tuple[str, str]]:
    live, totals = status.live, status.totals
    if status.running:
        started = live.get("started_ns")
        since = f" since {_local(started)}" if isinstance(started, int) else ""
        yield "runs", f"process {live.get('pid', 'not known')}{since}"
    elif status.running is None:
        yield "runs", "not known: this account may not look at the ledger's lock"
    else:
        heard = f"; last heard of {_local(status.last_heard_ns)}" if status.last_heard_ns else ""
        yield "stopped", "openmsistream watch goes on where it was" + heard
    if status.running and live.get("broker") not in {None, "reachable"}:
        yield "broker", str(live["broker"])
    newest = f"; the newest {_local(totals.newest_ns)}" if totals.newest_ns else ""
    yield "sent", f"{_files(totals.sent)}, {size(totals.sent_bytes)}{newest}"
    if totals.recorded_only:
        yield "existing", f"{_files(totals.recorded_only)} there before the first start, not sent"
    if status.running:
        yield "rate", f"{size(status.number('rate_bytes_per_second'))}/s"
        waiting, queued = status.number("waiting"), status.number("queued")
        oldest = f"; the oldest waits for {status.number('oldest_waiting_seconds')} s" if waiting else ""
        yield "backlog", f"{queued:,} complete and queued, {waiting:,} not complete yet{oldest}"
    if status.failed:
        yield "failed", _files(status.failed)


def _files(count: int) -> str:
    return f"{count:,} file{'' if count == 1 else 's'}"


def _cells(file: FileState) -> tuple[str, str, str, str, str]:
    done = ""
    if file.size and file.state in {"sending", "interrupted"}:
        done = f"{100 * file.done // file.size} %"
    when = _local(file.at_ns) if file.at_ns else ""
    length = "" if file.size is None else size(file.size)
    return printable(file.path), file.state + (f" {done}" if done else ""), length, when, printable(file.reason)


def _print_table(rows: Iterator[tuple[str, ...]]) -> None:
    first = next(rows, None)
    if first is None:
        return
    print()
    rows = itertools.chain((first,), rows)
    if not sys.stdout.isatty():
        # As they come: a table of a million rows is made without holding them all, and columns need no alignment.
        for row in rows:
            print("  " + "  ".join(cell for cell in (row[1], *row[2:4], row[0], row[4]) if cell))
        return
    from rich.console import Console  # noqa: PLC0415 - rich takes 0.1 s to import
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(highlight=False)
    while page := list(itertools.islice(rows, 1000)):
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for name in ("file", "state", "size", "since", "why"):
            table.add_column(name, overflow="fold", justify="right" if name == "size" else "left")
        for row in page:
            table.add_row(*(Text(cell) for cell in row))  # Text: names with brackets are no markup
        console.print(table)


# -- for programs -------------------------------------------------------------------------------------------------


def _print_csv(found: list[LedgerStatus], files: Iterable[tuple[LedgerStatus, FileState]]) -> None:
    for status in found:
        if status.info.problem:
            print(f"Error: {printable(f'{status.info.path}: {status.info.problem}')}", file=sys.stderr)
    sys.stdout.reconfigure(newline="", encoding="utf-8")  # type: ignore[union-attr] # csv ends its lines itself
    rows = csv.writer(sys.stdout)
    rows.writerow(("path", "state", "size", "at", "digest", "reason", "folder", "topic"))
    for status, file in files:
        rows.writerow(
            (
                printable(file.path),
                file.state,
                "" if file.size is None else file.size,
                _utc(file.at_ns) or "",
                file.digest,
                printable(file.reason),
                printable(status.info.root),
                status.info.topic,
            )
        )


def _print_json(found: list[LedgerStatus], files: Iterable[tuple[LedgerStatus, FileState]] | None) -> None:
    text = json.dumps({"folders": [_as_dict(each) for each in found]}, indent=2)
    if files is None:
        print(text)
        return
    sys.stdout.write(text[: text.rindex("\n}")] + ',\n  "files": [')
    for number, (status, file) in enumerate(files):
        entry = {"folder": printable(status.info.root), "topic": status.info.topic, **_file_as_dict(file)}
        sys.stdout.write((",\n    " if number else "\n    ") + json.dumps(entry))
    sys.stdout.write("\n  ]\n}\n")


def _as_dict(status: LedgerStatus) -> dict[str, object]:
    info, totals = status.info, status.totals
    running = status.running
    return {
        "folder": printable(info.root),
        "topic": info.topic,
        "cluster_id": info.cluster_id,
        "ledger": printable(str(info.path)),
        "problem": printable(info.problem),
        "running": running,
        "pid": status.live.get("pid") if running else None,
        "last_heard_of": None if running else _utc(status.last_heard_ns),
        "broker": status.live.get("broker") if running else None,
        "sent_files": totals.sent,
        "sent_bytes": totals.sent_bytes,
        "newest_sent_at": _utc(totals.newest_ns),
        "existing_files": totals.recorded_only,
        "failed_files": status.failed,
        "waiting_files": status.number("waiting"),
        "queued_files": status.number("queued"),
        "oldest_waiting_seconds": status.number("oldest_waiting_seconds"),
        "rate_bytes_per_second": status.number("rate_bytes_per_second"),
        "under_way": [_file_as_dict(file) for file in status.under_way],
    }


def _file_as_dict(file: FileState) -> dict[str, object]:
    return {
        "path": printable(file.path),
        "state": file.state,
        "size": file.size,
        "done": file.done,
        "at": _utc(file.at_ns),
        "digest": file.digest,
        "reason": printable(file.reason),
    }


def _utc(at_ns: int) -> str | None:
    return datetime.fromtimestamp(at_ns / 1e9, UTC).isoformat(timespec="milliseconds") if at_ns else None


def _local(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns / 1e9).astimezone().strftime("%Y-%m-%d %H:%M:%S")
