"""``openmsistream demo``: its options, and how it is started.

Owns the options' names, defaults and help texts. What the demo does is in ``openmsistream.demo``, which is
imported only when it runs, so that ``openmsistream --help`` stays fast.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # argparse has no public name for what add_subparsers returns.
    from argparse import _SubParsersAction

_DESCRIPTION = """\
Show on this computer what OpenMSIStream does: measurement files are written into one folder, sent through a
real Kafka broker by the real programs, received into another folder, and compared byte for byte.
Nothing stays behind. It takes below a minute; the first time, 45 MB of Kafka are fetched."""

_EXAMPLES = """\
examples:
  1. Just see it:
       openmsistream demo
  2. With a smaller large file, and keep the files to look at them:
       openmsistream demo --size-mb 20 --keep demo-files
  3. On a broker that exists already, as a config file describes it:
       openmsistream demo --config lab.config --topic-name demo"""


def register(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``demo`` with its options; ``run`` of its namespace is the function to call."""
    parser = subparsers.add_parser(
        "demo",
        help="see everything work on this computer, in a minute",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--size-mb",
        "--size_mb",
        type=int,
        default=300,
        metavar="MB",
        help="size of the large file in MB, 1 to 100000 (default: 300)",
    )
    parser.add_argument(
        "--config",
        metavar="NAME",
        help="use the broker of this config file (default: start one for the demo)",
    )
    parser.add_argument(
        "--topic-name",
        "--topic_name",
        metavar="TOPIC",
        help="topic to use; made when it does not exist (default: lab-data; needed with --config)",
    )
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="FOLDER",
        help="keep all files in this new folder (default: a temporary folder, removed at the end)",
    )
    parser.set_defaults(run=run)


def run(namespace: argparse.Namespace) -> int:
    """
    Run the demo.

    Returns:
        The exit code: 0 when all is verified, 1 when not, 130 after Ctrl-C.

    Raises:
        OpenMSIStreamError: An option is wrong or there is no room; nothing was started.
    """
    from rich.console import Console  # noqa: PLC0415 - see the module's docstring

    from openmsistream.demo.run import DemoOptions, run_demo  # noqa: PLC0415

    options = DemoOptions(
        size_mb=namespace.size_mb, config=namespace.config, topic=namespace.topic_name, keep=namespace.keep
    )
    # A file or a pipe has no width: give it one that the table fits in.
    out = Console() if sys.stdout.isatty() else Console(width=110)
    return run_demo(options, out, Console(stderr=True))
