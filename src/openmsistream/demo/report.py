"""The demo's last page: the table of files, what was wrong, and how to go on.

Owns these words. Decides nothing and touches nothing: values in, text on the console.
"""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from openmsistream.config.words import command_line
from openmsistream.demo.tally import Tally
from openmsistream.demo.verify import Verdict
from openmsistream.demo.view import say, size_text
from openmsistream.errors import OpenMSIStreamError
from openmsistream.local.place import CONFIG_FILE, default_folder, program_name

_HASH_LETTERS = 8


def show_table(console: Console, tally: Tally, verdicts: list[Verdict]) -> None:
    """Print one row for each file: size, start of its BLAKE3, seconds to the copy, verified or not."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("file", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("BLAKE3", no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    table.add_column("verified", no_wrap=True)
    for verdict in verdicts:
        row = tally.rows[verdict.path]
        name = verdict.path + (" (saved 2x)" if row.saved > 1 else "")
        seconds = tally.seconds(verdict.path)
        table.add_row(
            Text(name),
            size_text(verdict.size),
            verdict.digest[:_HASH_LETTERS],
            "-" if seconds is None else f"{seconds:.1f}",
            Text("NO", style="bold red") if verdict.problem else Text("yes", style="green"),
        )
    console.print(table)
    say(
        console,
        "seconds: from when the file was written until its whole, checked copy stood in the other folder\n"
        "(files that were there before: from the start of the uploader). BLAKE3: the file's fingerprint.",
    )


def show_problems(console: Console, problems: list[OpenMSIStreamError], logs: Path | None) -> None:
    """
    Print one line for each problem, what to try, and where the programs' log files are.

    Args:
        console: Where errors go.
        problems: At least one.
        logs: The folder that was kept; None when no program had been started.
    """
    for problem in problems:
        say(console, f"Error: {problem.message}")
        if problem.hint:
            say(console, f"Try:   {problem.hint}")
    if logs is not None:
        say(console, f"The logs of both programs and of the broker are kept in {logs}")


def show_next_steps(console: Console, config: str | None, topic: str) -> None:
    """
    Print numbered commands for the reader's own files.

    Args:
        console: Where to print.
        config: The config file that was given to the demo; None when it brought its own broker.
        topic: The topic of the demo.
    """
    steps: list[tuple[str, list[str]]] = []
    if config is None:
        config = str(default_folder() / CONFIG_FILE)
        start = command_line(program_name(), "local", "start", "--topic", topic)
        steps.append(("Start a broker on this computer (`local stop` ends it, later):", [start]))
    here = ("--config", config, "--topic-name", topic)
    steps += [
        ("Make two folders, one to watch and one for the copies:", ["mkdir measurements", "mkdir copies"]),
        (
            "In one terminal, send whatever appears in the first folder:",
            [command_line(program_name(), "watch", "measurements", *here)],
        ),
        (
            "In a second terminal, receive it into the other folder:",
            [command_line(program_name(), "download", "copies", *here)],
        ),
        (
            "Save a file in the folder measurements and look into copies. Type q and Enter to end a program.",
            [],
        ),
    ]
    say(console, "\nHow to go on with your own files:")
    for number, (text, commands) in enumerate(steps, 1):
        say(console, f"  {number}. {text}")
        for line in commands:
            say(console, f"         {line}")
