"""``openmsistream quarantine``: what a downloader could not handle, and trying it again or removing it.

Owns options, words and exit codes. What is shown came from a topic: everything is escaped. Must not know how entries
are kept. Imports stand inside the functions, so that ``openmsistream --help`` answers at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from openmsistream.cli import exit_codes
from openmsistream.cli.arguments import Parser
from openmsistream.cli.printable import printable
from openmsistream.cli.progress import ProgressLine, add_progress
from openmsistream.cli.sizes import size

if TYPE_CHECKING:
    from openmsistream.adapters.filesystem.quarantine import Entry, Quarantine
    from openmsistream.core.chunk import Chunk
    from openmsistream.core.events import Event
    from openmsistream.programs.quarantine import Outcome

SHOWN = 50
PREVIEW_BYTES = 256
_ROW_BYTES = 16
_SHOWN_HEADERS = 50
_TEXT_MAX = 300

_EXAMPLES = """\
exit code: 0, or 1 when an entry is not there or retry could not deliver all of them

examples:
  1. What could not be delivered, and why?
     openmsistream quarantine list archive
  2. Everything that is known of one entry:
     openmsistream quarantine show archive xrd-0-1234
  3. Try everything again after an update, with missing parts read from the topic:
     openmsistream quarantine retry archive --all --config lab.config
  4. The same for a bucket, whose program keeps it in a work folder of its state folder:
     openmsistream quarantine retry state/s3-xrd-0a1b2c3d4e5f6071 --all --config lab.config
  5. Remove one entry for good:
     openmsistream quarantine drop archive xrd-0-1234
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``quarantine`` to a program's sub-commands."""
    parser = subparsers.add_parser(
        "quarantine",
        help="what a downloader could not handle: list, show, retry, drop",
        description="Records and files that a downloader could not handle stand in the work folder of its output "
        "folder, those of openmsistream s3 in its state folder. List them, look at one, try them again, remove them. "
        "Works while the downloader runs.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = _action(actions, "list", f"the newest {SHOWN} entries, and how many there are", _list)
    listing.add_argument("--all", action="store_true", help="every entry, in no order")
    show = _action(actions, "show", "all that is known of one entry, and its first bytes", _show)
    show.add_argument("id", metavar="ID", help="from list")
    retry = _action(actions, "retry", "decode, check and put together again; deliver what can be delivered now", _retry)
    _add_ids(retry)
    retry.add_argument(
        "--config", metavar="NAME", help="config file, to read missing parts from the topic, and to reach a bucket"
    )
    retry.add_argument(
        "--topic-name", "--topic_name", default="", metavar="TOPIC", help="the topic of files that do not name theirs"
    )
    retry.add_argument(
        "--accept", action="store_true", help="deliver a file even if its bytes do not have the hash its sender gave"
    )
    retry.add_argument("--as", dest="rename", default="", metavar="PATH", help="deliver one entry under this path")
    add_progress(retry)
    drop = _action(actions, "drop", "remove entries for good", _drop)
    _add_ids(drop)
    drop.add_argument("--yes", action="store_true", help="do not ask")


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, run: object
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="the output folder of a downloader, or a work folder of openmsistream s3",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per entry; times in UTC")
    parser.set_defaults(run=run, fail=parser.error)
    return parser


def _add_ids(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", metavar="ID", help="from list")
    if isinstance(parser, Parser):
        parser.anywhere = "ids"
    parser.add_argument("--all", action="store_true", help="every entry")


def _open(folder: Path) -> Quarantine:
    from openmsistream.adapters.filesystem.quarantine import Quarantine  # noqa: PLC0415

    return Quarantine(folder)


# -- list ---------------------------------------------------------------------------------------------------------


def _list(namespace: argparse.Namespace) -> int:
    quarantine = _open(namespace.folder)
    total = quarantine.total()
    count = total.records + total.files
    shown = quarantine.entries() if namespace.all or namespace.json else iter(quarantine.newest(SHOWN))
    if namespace.json:
        for entry in shown:
            print(json.dumps({"event": "quarantine_entry", **_as_dict(entry)}))
        values = {"records": total.records, "files": total.files, "bytes": total.size}
        print(json.dumps({"event": "quarantine_totals", **values}))
        return exit_codes.OK
    if not count:
        print(f"nothing is in quarantine in {printable(str(namespace.folder))}")
        return exit_codes.OK
    for entry in shown:
        print(_row(entry))
    if not namespace.all and count > SHOWN:
        print(f"... and {count - SHOWN:,} older (--all lists every entry)")
    print(f"{total.records:,} record{_s(total.records)}, {total.files:,} file{_s(total.files)}, {size(total.size)}")
    return exit_codes.OK


def _row(entry: Entry) -> str:
    kept = "gone" if entry.size is None else size(entry.size)
    path = f"{_short(entry.path)}: " if entry.path else ""
    return f"{_local(entry.when_ns)}  {printable(entry.short_id):<24}  {kept:>8}  {path}{_short(entry.reason)}"


def _as_dict(entry: Entry) -> dict[str, object]:
    return {
        "id": printable(entry.id),
        "kind": "file" if entry.is_file else "record",
        "at": _utc(entry.when_ns),
        "topic": printable(entry.topic),
        "partition": entry.partition,
        "offset": entry.offset,
        "path": _valid(entry.path),
        "size": entry.size,
        "reason": printable(entry.reason),
    }


# -- show ---------------------------------------------------------------------------------------------------------


def _show(namespace: argparse.Namespace) -> int:
    from openmsistream.programs.quarantine import judge  # noqa: PLC0415

    quarantine = _open(namespace.folder)
    entry = quarantine.get(namespace.id)
    now, chunk = judge(quarantine, entry)
    head = quarantine.head(entry, PREVIEW_BYTES)
    key, headers = quarantine.key_and_headers(entry) if not entry.is_file else (None, [])
    if namespace.json:
        values = {
            "event": "quarantine_entry",
            **_as_dict(entry),
            "record_at": _utc((entry.timestamp_ms or 0) * 1_000_000),
            "version": entry.version.hex() or None,
            "expected_hash": entry.digest.hex() if entry.digest else None,
            "found_hash": entry.found.hex() if entry.found else None,
            "hash": entry.hash_name.value if entry.hash_name else None,
            "mtime": _utc(entry.mtime_ns) if entry.mtime_ns is not None else None,
            "key": None if key is None else key.hex(),
            "headers": [[printable(name), None if value is None else value.hex()] for name, value in headers],
            "now": printable(now),
            "chunk": None if chunk is None else dict(_chunk_lines(chunk)),
            "first_bytes": head.hex(),
            "bytes_in": printable(str(quarantine.bytes_path(entry))),
        }
        print(json.dumps(values))
        return exit_codes.OK
    for label, text in _lines(entry):
        print(f"{label:<12} {printable(text)}")
    if key is not None:
        print(f"{'key':<12} {_preview_text(key)}")
    for name, value in list(headers)[:_SHOWN_HEADERS]:
        print(f"{'header':<12} {_short(name)} = {'nothing' if value is None else _preview_text(value)}")
    for label, text in _chunk_lines(chunk) if chunk is not None else ():
        print(f"{label:<12} {_short(text)}")
    print(f"{'now':<12} {printable(now)}")
    print(f"{'bytes in':<12} {printable(str(quarantine.bytes_path(entry)))}")
    if head:
        print(f"\nthe first {len(head)} bytes:")
        print("\n".join(_hex_rows(head)))
    return exit_codes.OK


def _lines(entry: Entry) -> Iterator[tuple[str, str]]:
    yield "id", entry.id
    yield "what", "a file that was put aside" if entry.is_file else "a record"
    yield "since", _local(entry.when_ns)
    yield "reason", entry.reason
    if entry.topic:
        place = f", partition {entry.partition}, offset {entry.offset}" if entry.partition is not None else ""
        yield "topic", entry.topic + place
    if entry.timestamp_ms:
        yield "written", _local(entry.timestamp_ms * 1_000_000)
    if entry.path:
        yield "path", entry.path
    yield "size", "its bytes are gone" if entry.size is None else f"{entry.size:,} bytes"
    if entry.mtime_ns is not None:
        yield "changed", _local(entry.mtime_ns)
    if entry.version:
        yield "version", entry.version.hex()
    if entry.digest is not None and entry.hash_name is not None:
        yield "hash", f"{entry.hash_name.value} {entry.digest.hex()}, its sender says"
    if entry.found is not None:
        yield "found", f"{entry.found.hex()} when it came here"


def _chunk_lines(chunk: Chunk) -> Iterator[tuple[str, str]]:
    whole = "" if chunk.size is None else f" of a file of {chunk.size:,} bytes"
    number = str(chunk.index + 1) + (f" of {chunk.total}" if chunk.total is not None else "")
    yield "file", printable(chunk.path)
    yield "chunk", f"{number}: {len(chunk.payload):,} bytes at {chunk.offset:,}{whole}"
    if chunk.digest is not None:
        yield "file hash", f"{chunk.hash_name.value} {chunk.digest.hex()}"


def _hex_rows(data: bytes) -> Iterator[str]:
    for start in range(0, len(data), _ROW_BYTES):
        row = data[start : start + _ROW_BYTES]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        yield f"{start:08x}  {row.hex(' '):<{3 * _ROW_BYTES - 1}}  {text}"


def _preview_text(raw: bytes) -> str:
    return _short(raw[: 4 * _TEXT_MAX].decode("utf-8", "backslashreplace"))


# -- retry, drop --------------------------------------------------------------------------------------------------


def _retry(namespace: argparse.Namespace) -> int:
    from openmsistream.core.events import Note  # noqa: PLC0415
    from openmsistream.programs.destinations import destination  # noqa: PLC0415
    from openmsistream.programs.quarantine import Result, Retry  # noqa: PLC0415
    from openmsistream.programs.setup import load_config  # noqa: PLC0415

    _need_ids(namespace)
    if namespace.rename and len(namespace.ids) != 1:
        namespace.fail("--as delivers one entry: give one ID")
    quarantine = _open(namespace.folder)
    counts, progress = dict.fromkeys(Result, 0), ProgressLine(namespace.progress)

    def tell(outcome: Outcome) -> None:
        counts[outcome.result] += 1
        progress.clear()
        _print_outcome(outcome, as_json=namespace.json)

    def note(event: Event) -> None:
        progress.clear()
        if isinstance(event, Note):
            print(f"note: {printable(event.text)}", file=sys.stderr)

    config = load_config(namespace.config) if namespace.config else None
    topic, accept, rename = namespace.topic_name, namespace.accept, namespace.rename
    try:
        with destination(quarantine, config, note, progress) as place:
            retry = Retry(quarantine, place, tell, progress, config=config, topic=topic, accept=accept, rename=rename)
            retry.run(_chosen(namespace, quarantine))
    finally:
        progress.clear()
    if namespace.json:
        print(
            json.dumps(
                {"event": "quarantine_retried", **{each.value.replace(" ", "_"): n for each, n in counts.items()}}
            )
        )
    else:
        print(", ".join(f"{count:,} {each.value}" for each, count in counts.items() if count) or "nothing to retry")
    return exit_codes.ERROR if counts[Result.KEPT] else exit_codes.OK


def _print_outcome(outcome: Outcome, *, as_json: bool) -> None:
    if as_json:
        values = {
            "event": "quarantine_outcome",
            "id": printable(outcome.entry.id),
            "result": outcome.result.value,
            "path": _valid(outcome.path),
            "reason": printable(outcome.reason),
            "hint": outcome.hint,
        }
        print(json.dumps(values))
        return
    path = f" {_short(outcome.path)}:" if outcome.path else ""
    print(f"{outcome.result.value}: {printable(outcome.entry.short_id)}:{path} {_short(outcome.reason)}")
    if outcome.hint:
        print(f"  try: {printable(outcome.hint)}")


def _drop(namespace: argparse.Namespace) -> int:
    _need_ids(namespace)
    quarantine = _open(namespace.folder)
    if not namespace.yes:
        total = quarantine.total()
        count = total.records + total.files if namespace.all else len(namespace.ids)
        if not sys.stdin.isatty():
            namespace.fail("nobody can be asked here: give --yes to remove them for good")
        sys.stdout.write(f"remove {count:,} entr{'y' if count == 1 else 'ies'} for good? [y/N] ")
        sys.stdout.flush()
        if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
            print("nothing was removed")
            return exit_codes.ERROR
    dropped = 0
    for name in _chosen(namespace, quarantine):
        entry = quarantine.find(name)
        if entry is None:
            continue  # somebody else was faster
        quarantine.drop(entry)
        dropped += 1
        if namespace.json:
            print(json.dumps({"event": "quarantine_dropped", **_as_dict(entry)}))
    if not namespace.json:
        print(f"{dropped:,} removed")
    return exit_codes.OK


def _need_ids(namespace: argparse.Namespace) -> None:
    if bool(namespace.ids) == namespace.all:
        namespace.fail("give one ID or several, or --all")


def _chosen(namespace: argparse.Namespace, quarantine: Quarantine) -> Iterator[str]:
    """The full ids; those that were typed are all looked up before anything is done."""
    if namespace.all:
        return quarantine.ids()
    return iter([entry.id for entry in map(quarantine.get, namespace.ids)])


# -- words --------------------------------------------------------------------------------------------------------


def _short(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= _TEXT_MAX else f"{shown[: _TEXT_MAX - 3]}..."


def _valid(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _local(at_ns: int) -> str:
    try:
        return datetime.fromtimestamp(at_ns / 1e9).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return "at no possible time"


def _utc(at_ns: int) -> str | None:
    try:
        return datetime.fromtimestamp(at_ns / 1e9, UTC).isoformat(timespec="milliseconds") if at_ns else None
    except (OverflowError, ValueError, OSError):
        return None
