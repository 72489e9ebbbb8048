"""The ``openmsistream`` command: its sub-commands, and how errors end it.

Imports what a sub-command needs only when it runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from openmsistream import __version__
from openmsistream.cli import demo, exit_codes, local, quarantine, status, verify, why
from openmsistream.cli.arguments import Parser, add_options
from openmsistream.cli.printable import printable
from openmsistream.config.options import CommonOptions, UploadOptions, WatchOptions
from openmsistream.config.options_download import DownloadOptions
from openmsistream.config.options_s3 import S3Options
from openmsistream.errors import OpenMSIStreamError

if TYPE_CHECKING:
    import argparse

_PROGRAMS: tuple[tuple[str, type[CommonOptions], str, str], ...] = (
    (
        "watch",
        WatchOptions,
        "send every file of a folder, as it comes",
        "Send every file of a folder, as it comes.",
    ),
    ("upload", UploadOptions, "send one file", "Send one file and wait until Kafka has all of it."),
    (
        "download",
        DownloadOptions,
        "write a topic's files to a folder",
        "Write every file of a topic to a folder, each only once it is whole and verified.",
    ),
    (
        "s3",
        S3Options,
        "put a topic's files into a bucket of an S3 object store",
        "Put every file of a topic into a bucket, as an object that appears only once it is whole and verified.",
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code (``exit_codes``)."""
    parser = Parser(
        prog="openmsistream",
        description="Move instrument files through Apache Kafka: whole, verified, once.",
        epilog="First time? Type: openmsistream demo",
    )
    parser.add_argument("--version", action="version", version=f"openmsistream {__version__}")
    commands: argparse._SubParsersAction[argparse.ArgumentParser]
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    for name, model, text, description in _PROGRAMS:
        program = commands.add_parser(name, help=text, description=description)
        add_options(program, model, legacy=False)
        program.set_defaults(run=lambda namespace, model=model: _run_program(model, namespace))
    status.register(commands)
    why.register(commands)
    verify.register(commands)
    quarantine.register(commands)
    local.register(commands)
    demo.register(commands)
    namespace = parser.parse_args(arguments)
    return guarded(namespace.run, namespace)


def run_script(model: type[CommonOptions], name: str, arguments: Sequence[str] | None = None) -> int:
    """Run one program under its 1.x name, with 1.x's spelling in its help text."""
    description = next(text for _, known, _, text in _PROGRAMS if known is model)
    parser = Parser(prog=name, description=description)
    add_options(parser, model, legacy=True)
    return guarded(lambda namespace: _run_program(model, namespace), parser.parse_args(arguments))


def guarded(run: Callable[[argparse.Namespace], int], namespace: argparse.Namespace) -> int:
    """Run it; an error of ours becomes one line and a hint on standard error."""
    for stream in (sys.stdout, sys.stderr):
        # A file name with a letter that this terminal or file cannot take must not end a program.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return run(namespace)
    except OpenMSIStreamError as error:
        complain(error)
        return exit_codes.ERROR
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # who read our output is gone; Python would complain once more at exit
        return exit_codes.ERROR


def complain(error: OpenMSIStreamError) -> None:
    """Print an error as a user meets it."""
    print(f"Error: {printable(error.message)}", file=sys.stderr)
    if error.hint:
        print(f"Try:   {printable(error.hint)}", file=sys.stderr)


def _run_program(model: type[CommonOptions], namespace: argparse.Namespace) -> int:
    from openmsistream.cli.running import run_program  # noqa: PLC0415 - the Kafka client takes 0.1 s to import

    return run_program(model, namespace)
