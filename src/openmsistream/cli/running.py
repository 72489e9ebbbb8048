"""Running a program from the command line: options, reporter, signals, the keyboard, and its exit code."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import cast

from openmsistream.adapters.heap import keep_for_reuse
from openmsistream.cli import exit_codes
from openmsistream.cli.arguments import config_name, parse, refuse_without_bucket, refuse_without_folder, typed
from openmsistream.cli.printable import printable
from openmsistream.cli.reporting import Reporter, reporter_for
from openmsistream.config.models import ProgramConfig
from openmsistream.config.options import CommonOptions, UploadOptions, WatchOptions
from openmsistream.config.options_download import DownloadOptions
from openmsistream.config.options_s3 import S3Options
from openmsistream.core.events import Note
from openmsistream.pipeline.runner import Control
from openmsistream.programs.commands import CommandQueue
from openmsistream.programs.downloading import download
from openmsistream.programs.dry_run import dry_run
from openmsistream.programs.many import watch_many
from openmsistream.programs.setup import load_config
from openmsistream.programs.to_s3 import options_from_file, set_abort_rule, to_s3
from openmsistream.programs.uploading import upload, watch


def run_program(model: type[CommonOptions], namespace: argparse.Namespace) -> int:
    """
    Run the program whose options ``model`` holds.

    Returns:
        0 when everything asked for was done, 3 when it was stopped before and goes on at its next start, 1 when
        something failed for good.
    """
    config = load_config(config_name(model, namespace))
    folders = _folders(config, model, namespace)
    options = next(iter(folders.values())) if folders else _options(config, model, namespace)
    if isinstance(options, WatchOptions) and options.dry_run:
        for each in folders.values() if folders else [options]:
            dry_run(each, config, lambda line: print(printable(line)))
        return exit_codes.OK
    if isinstance(options, S3Options) and options.set_abort_rule is not None:
        print(printable(set_abort_rule(options, config, options.set_abort_rule)))
        return exit_codes.OK
    control = Control()
    if model is not S3Options:  # whose growing parts would leave holes between each other
        keep_for_reuse()
    with reporter_for(options, "download" if model in {DownloadOptions, S3Options} else "upload") as report:
        for warning in config.warnings:
            report(Note(warning))
        with _signals(control), _keyboard(control):
            return _run(options, folders, config, report, control)


def _folders(
    config: ProgramConfig, model: type[CommonOptions], namespace: argparse.Namespace
) -> dict[str, WatchOptions]:
    """The folders that only the config file names; none when one was typed, or the program watches none."""
    words = typed(model, namespace)
    if model is not WatchOptions or "upload_dir" in words:
        return {}
    return config.every_folder(words) or refuse_without_folder(namespace, str(config.path))


def _options(config: ProgramConfig, model: type[CommonOptions], namespace: argparse.Namespace) -> CommonOptions:
    if model is WatchOptions:
        return parse(model, namespace, config.folder_defaults(namespace.upload_dir))
    if model is S3Options:
        defaults = options_from_file(config)
        if "bucket_name" not in {**defaults, **typed(model, namespace)}:
            refuse_without_bucket(namespace, str(config.path))
        return parse(model, namespace, defaults)
    return parse(model, namespace, config.option_defaults(model))


def _run(
    options: CommonOptions,
    folders: dict[str, WatchOptions],
    config: ProgramConfig,
    report: Reporter,
    control: Control,
) -> int:
    if isinstance(options, DownloadOptions | S3Options):
        if isinstance(options, S3Options):
            flow = to_s3(options, config, report, control, report.lines)
        else:
            flow = download(options, config, report, control, report.lines)
        if flow.totals.failed:
            return exit_codes.ERROR
        return exit_codes.UNFINISHED if flow.open_versions else exit_codes.OK
    if isinstance(options, UploadOptions):
        upload(options, config, report, control)
        return exit_codes.OK
    if folders:
        totals = watch_many(folders, config, report, control, report.lines)
    else:
        totals = watch(cast("WatchOptions", options), config, report, control, report.lines)
    if totals.failed:
        return exit_codes.ERROR
    return exit_codes.UNFINISHED if report.left_waiting else exit_codes.OK


@contextmanager
def _signals(control: Control) -> Iterator[None]:
    """SIGINT and SIGTERM finish or park what is in flight; a second one ends the program at once."""

    def on_signal(number: int, _: FrameType | None) -> None:
        if control.stopping:
            os._exit(128 + number)  # everything durable is in the ledger; a restart goes on cleanly
        control.stop(f"got {signal.Signals(number).name}")

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _keyboard(control: Control) -> Iterator[None]:
    """``q`` (or ``quit``) and ``c`` (or ``check``) on standard input; its end means nothing."""
    commands = CommandQueue(control)

    def read() -> None:
        line_begins = True
        try:
            # Not through sys.stdin: Python aborts when it ends while a thread waits in there.
            while typed := os.read(0, 1024):
                for letter in typed.decode("ascii", "replace"):
                    if line_begins:
                        commands.put(letter)  # as in 1.x, the first letter of a line is the command
                    line_begins = letter == "\n"
        except OSError:
            return  # no standard input, or it was closed

    if sys.stdin is not None:  # else descriptor 0 may be somebody else's file
        threading.Thread(target=read, name="keyboard", daemon=True).start()
    yield
