"""``openmsistream verify``: are source folder, topic, destination and bucket the same, and if not, which files differ.

Owns options, words and exit codes. Must not know how places are compared. Imports stand inside the functions, so that
``openmsistream --help`` answers at once.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from openmsistream.cli.printable import printable
from openmsistream.cli.progress import ProgressLine, add_progress
from openmsistream.cli.sizes import size
from openmsistream.errors import OpenMSIStreamError

if TYPE_CHECKING:
    from openmsistream.config.models import ProgramConfig
    from openmsistream.core.comparing import Finding
    from openmsistream.programs.comparing import Summary

EQUAL, DIFFERENT, FAILED = 0, 1, 2
_KEYS = ("upload_regex", "include", "exclude", "symlinks", "names", "bucket", "key_template")

_EXAMPLES = """\
exit code: 0 everything is equal, 1 there are differences, 2 it could not be compared (wrong options, no broker)

examples:
  1. Did everything arrive? Compare what was watched with what was written:
     openmsistream verify --source xrd_data --destination archive
  2. Is everything on the topic, too?
     openmsistream verify --source xrd_data --topic-name xrd --config lab.config --destination archive
  3. Before old files are deleted at the source, whatever else the archive holds:
     openmsistream verify --source xrd_data --destination archive --ignore-extra
  4. Did everything arrive in the bucket, and do the bytes there have the right hash?
     openmsistream verify --topic-name xrd --config lab.config --bucket xrd-archive --verify-read-back
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``verify`` to a program's sub-commands."""
    parser = subparsers.add_parser(
        "verify",
        help="compare source folder, topic, destination folder or bucket: what is missing, different, extra",
        description="Compare two or three of: the folder that files come from, the topic, the folder and the bucket "
        "they are written to. Names, sizes and hashes; every file that is not the same is named. Changes nothing, "
        "commits nothing, and works while the programs run.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.usage = "%(prog)s [options] (two or three of --source, --topic-name, --destination, --bucket)"
    places = parser.add_argument_group("places")
    places.add_argument("--source", type=Path, metavar="FOLDER", help="the folder that is, or was, watched")
    places.add_argument("--topic-name", "--topic_name", metavar="TOPIC", help="the topic; needs --config")
    places.add_argument("--destination", type=Path, metavar="FOLDER", help="the folder that a downloader writes")
    places.add_argument("--bucket", metavar="NAME", help="the bucket that openmsistream s3 writes; [s3] of --config")
    places.add_argument(
        "--config", metavar="NAME", help="config file: its path, or its name in a config folder (with a topic: test)"
    )
    files = parser.add_argument_group("files (default: those that watch sends; what the config file says counts)")
    files.add_argument("--upload-regex", "--upload_regex", metavar="REGEX", help="as given to watch")
    files.add_argument("--include", action="append", metavar="PATTERN", help="as given to watch; may be repeated")
    files.add_argument("--exclude", action="append", metavar="PATTERN", help="as given to watch; may be repeated")
    files.add_argument("--symlinks", choices=("skip", "follow"), help="as given to watch")
    files.add_argument("--names", choices=("auto", "keep", "map", "refuse"), help="as given to download")
    files.add_argument("--key-template", "--key_template", metavar="TEMPLATE", help="as given to s3")
    files.add_argument(
        "--verify-read-back",
        "--verify_read_back",
        action="store_true",
        help="read every object of the bucket, instead of believing the hash that it gives",
    )
    files.add_argument(
        "--sizes-only", action="store_true", help="compare names and sizes, and read no file and no object"
    )
    files.add_argument(
        "--ignore-extra", action="store_true", help="files that the first place does not have are no difference"
    )
    report = parser.add_argument_group("what is reported")
    report.add_argument("--json", action="store_true", help="print one JSON object for each difference, and a summary")
    add_progress(report)
    parser.set_defaults(run=lambda namespace: _run(namespace, parser))


def _run(namespace: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    places = (namespace.source, namespace.topic_name, namespace.destination, namespace.bucket)
    if sum(place is not None for place in places) < 2:
        parser.error("give two or three of --source, --topic-name, --destination and --bucket")
    from openmsistream.cli.main import complain  # noqa: PLC0415 - it imports this module

    try:
        return _verify(namespace)
    except OpenMSIStreamError as error:
        complain(error)
        return FAILED


def _verify(namespace: argparse.Namespace) -> int:
    from openmsistream.programs.verify import VerifyOptions, verify  # noqa: PLC0415

    config = _config(namespace)
    options = VerifyOptions(
        source=namespace.source,
        topic=namespace.topic_name,
        destination=namespace.destination,
        read_back=namespace.verify_read_back,
        contents=not namespace.sizes_only,
        extras=not namespace.ignore_extra,
        **{key: getattr(namespace, key) for key in _KEYS},
    )
    progress = ProgressLine(namespace.progress)

    def tell(finding: Finding) -> None:
        progress.clear()
        _print_finding(finding, as_json=namespace.json)

    began = time.monotonic()
    try:
        summary = verify(options, config, tell, progress)
    finally:
        progress.clear()
    (_print_json if namespace.json else _print_people)(summary, time.monotonic() - began)
    return DIFFERENT if summary.found else EQUAL


def _config(namespace: argparse.Namespace) -> ProgramConfig | None:
    if namespace.config is None and namespace.topic_name is None:
        return None
    from openmsistream.programs.setup import load_config  # noqa: PLC0415

    return load_config(namespace.config or "test")


def _print_finding(finding: Finding, *, as_json: bool) -> None:
    if as_json:
        values = {
            "event": "difference",
            "kind": finding.kind.value,
            "place": finding.place,
            "path": finding.path.encode("utf-8", "backslashreplace").decode("utf-8"),
            "reason": printable(finding.reason),
        }
        print(json.dumps(values))
        return
    where = f"in {finding.place}" if finding.place != "topic" else "on topic"
    print(printable(f"{finding.kind.value:<10} {where:<14}  {finding.path}: {finding.reason}"))


def _print_people(summary: Summary, seconds: float) -> None:
    for place, files in summary.files.items():
        left = summary.left_out[place]
        print(
            f"{place}: {files:,} file{'' if files == 1 else 's'}, {size(summary.total_bytes[place])}"
            + (f"; {left:,} more left out by the rules" if left else "")
        )
    for note in summary.notes:
        print(f"note: {printable(note)}")
    if summary.sizes_only:
        print(f"note: {summary.sizes_only:,} of the equal files were compared by name and size only")
    found = ", ".join(f"{count:,} {kind.value}" for kind, count in sorted(summary.found.items(), key=_by_word))
    print(f"{summary.equal:,} equal" + (f", {found}" if found else "") + f" ({seconds:.1f} s)")


def _print_json(summary: Summary, seconds: float) -> None:
    from openmsistream.core.comparing import Kind  # noqa: PLC0415

    places = {
        place: {"files": files, "bytes": summary.total_bytes[place], "left_out": summary.left_out[place]}
        for place, files in summary.files.items()
    }
    values = {
        "event": "summary",
        "same": not summary.found,
        "names": summary.names,
        "equal": summary.equal,
        **{kind.value: summary.found[kind] for kind in Kind},
        "compared_by_size_only": summary.sizes_only,
        "compared_bytes": summary.compared_bytes,
        "places": places,
        "notes": [printable(note) for note in summary.notes],
        "seconds": round(seconds, 3),
    }
    print(json.dumps(values))


def _by_word(entry: tuple[object, int]) -> str:
    return str(getattr(entry[0], "value", ""))
