"""``openmsistream why FILE``: what was seen of a file, what was decided, and what it waits for.

Owns the words on the screen. It must not know how the answer is found.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from openmsistream.cli.printable import printable
from openmsistream.cli.status import add_places

if TYPE_CHECKING:
    from openmsistream.programs.explaining import Answer

_EXAMPLES = """\
exit code: 0, or 1 when the file is in no watched folder

examples:
  1. Why was this file not sent yet?
     openmsistream why xrd_data/scan_042.dat
  2. For a script:
     openmsistream why xrd_data/scan_042.dat --json
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``why`` to a program's sub-commands."""
    parser = subparsers.add_parser(
        "why",
        help="why a file was sent, or not, and what it waits for",
        description="Say what was seen of a file, what was decided, and what it waits for. Works while the program "
        "runs and when it is stopped, also for a file that is gone; needs no broker.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a file in a watched folder")
    add_places(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_why)


def _why(namespace: argparse.Namespace) -> int:
    from openmsistream.programs.explaining import why  # noqa: PLC0415
    from openmsistream.programs.knowing import state_dir_of, upload_ledgers  # noqa: PLC0415

    infos = upload_ledgers(state_dir_of(namespace.config, namespace.state_dir), namespace.topic_name)
    answers = why(namespace.file, infos)
    if namespace.json:
        print(json.dumps({"answers": [_as_dict(each) for each in answers]}, indent=2))
        return 0
    for number, answer in enumerate(answers):
        print(("\n" if number else "") + printable(f"{answer.path}: {answer.verdict}"))
        width = max(len(question) for question, _ in answer.lines)
        for question, text in answer.lines:
            print(f"  {question:<{width}}  {printable(text)}")
        if answer.hint:
            print(f"Try: {printable(answer.hint)}")
    return 0


def _as_dict(answer: Answer) -> dict[str, object]:
    return {
        "path": printable(answer.path),
        "folder": printable(answer.info.root),
        "topic": answer.info.topic,
        "verdict": answer.verdict,
        "found": {question: printable(text) for question, text in answer.lines},
        "hint": printable(answer.hint),
    }
