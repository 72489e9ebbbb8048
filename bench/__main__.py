"""``python -m bench``: run the comparison on this computer and print what came out.

Owns the command line, the order of the trials and the cleaning up. Contestants take turns in every round, in
an order that moves on by one, so that what else the machine does meets all of them alike.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from confluent_kafka.admin import AdminClient
from rich.console import Console

from bench import downloader, report, targets, to_s3, uploader
from bench.alone import Finding
from bench.contestants import BARE, FLOOR_1, FLOOR_2, OURS, PEER, SCENARIOS, Bench, Task, Trial, timed
from bench.material import Material, make
from openmsistream.errors import ConfigError, OpenMSIStreamError
from openmsistream.local.broker import LocalBroker
from openmsistream.local.topics import create_topic
from tests.compat import peer

_CHOICES = (*SCENARIOS, *uploader.SCENARIOS, *downloader.SCENARIOS, *to_s3.SCENARIOS, "start")
_LONG = uploader.LONG_SCENARIOS | downloader.LONG_SCENARIOS | to_s3.LONG_SCENARIOS
_RESULTS = Path(__file__).with_name("results")
_SENDERS = (BARE, OURS, PEER)
_RECEIVERS = (FLOOR_1, FLOOR_2, OURS, PEER)
_MIB = 1024 * 1024
_START_RUNS = 10
_WIDTH = 140
# Topics, outputs and sources of one round, with room to spare.
_ROOM = 8
# Source, topic and output stand in the page cache during a trial.
_TOUCHED = 3


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is moved. The peer gets fewer small files: it does some 20 a second."""

    large_bytes: int = 1024 * _MIB
    small_count: int = 10_000
    small_count_peer: int = 200
    small_bytes: int = 10_000


FULL = Sizes()
QUICK = Sizes(large_bytes=32 * _MIB, small_count=300, small_count_peer=40)


@dataclass
class Rounds:
    """The trials of one run, as they come."""

    bench: Bench
    admin: AdminClient
    wanted: frozenset[str]
    console: Console
    trials: list[Trial] = field(default_factory=list)
    _topics: int = 0

    def play(self, kind: str, number: int, sources: dict[str, Material]) -> None:
        """
        One round of ``kind`` (``large`` or ``small``), up and then down.

        Args:
            kind: The first part of the scenario's name.
            number: The round, from 1. Round 0 warms everything up and is not noted.
            sources: What each sender sends.
        """
        up, down = f"{kind}-up", f"{kind}-down"
        if not self.wanted & {up, down}:
            return
        topics: dict[str, tuple[str, int]] = {}
        for sender in _turned(_SENDERS, number):
            # For the downloads, the topics are filled by the programs themselves.
            if up not in self.wanted and sender == BARE:
                continue
            topic = self._fresh_topic(up)
            self._settle(sources[sender])
            trial, records = self.bench.up(Task(up, sender, number, sources[sender], topic))
            if up in self.wanted:
                self._note(trial)
            topics[sender] = topic, records
        if down in self.wanted:
            for receiver in _turned(_RECEIVERS, number):
                sender = PEER if receiver == PEER else OURS
                topic, records = topics[sender]
                self._settle(sources[sender])
                task = Task(down, receiver, number, sources[sender], topic, records)
                self._note(self.bench.down(task))
        for future in self.admin.delete_topics([topic for topic, _ in topics.values()]).values():
            future.result()

    @staticmethod
    def _settle(material: Material) -> None:
        """
        Begin every trial with nothing left to write to the disk, and with memory that is really there.

        A virtual machine gives free memory back to its host and gets it page by page when it is touched again:
        seconds for each GB, which whoever comes first would pay (measured: 2.3 s of system time to write 1 GiB to
        the page cache, 0.3 s once its memory had been touched).
        """
        os.sync()
        size = min(_TOUCHED * material.total_bytes, psutil.virtual_memory().available // 3)
        with mmap.mmap(-1, max(size, mmap.PAGESIZE)) as memory:
            for at in range(0, len(memory), mmap.PAGESIZE):
                memory[at] = 1

    def _fresh_topic(self, scenario: str) -> str:
        self._topics += 1
        name = f"{scenario}-{self._topics}"
        # Deleted topics shall free the disk before the next round, not a minute later.
        create_topic(self.bench.bootstrap, name, config={"file.delete.delay.ms": "1000"})
        return name

    def _note(self, trial: Trial) -> None:
        if trial.round == 0:
            return
        self.trials.append(trial)
        speed = report.speed(trial)
        shown = f"{speed / 1e6:.0f} MB/s" if trial.files == 1 else f"{speed:.0f} files/s"
        self.console.print(f"round {trial.round}  {trial.scenario:10}  {trial.contestant:20}  {shown}")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    try:
        _run(options, console)
    except OpenMSIStreamError as error:
        print(f"Error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"Try:   {error.hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _run(options: argparse.Namespace, console: Console) -> None:
    wanted: frozenset[str] = frozenset(options.only or _CHOICES)
    if not (options.only or options.long):
        wanted -= _LONG
    sizes = QUICK if options.quick else FULL
    facts = report.machine() | {"rounds": _rounds(options), "quick": options.quick, "began": time.time()}
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="openmsistream-bench-", dir=options.folder))
    try:
        _require_room(work, sizes)
        starts = _starts(work) if "start" in wanted else {}
        trials, findings = _moved(work, wanted, options, console) if wanted != {"start"} else ([], [])
    finally:
        shutil.rmtree(work, ignore_errors=True)
    report.show(console, trials, starts, facts, findings)
    if options.quick:
        console.print("Quick: small sizes; the targets are meant for the full run.")
    path = options.json or _RESULTS / time.strftime("bench-%Y%m%d-%H%M%S.json", time.gmtime())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report.as_json(trials, starts, facts, findings), indent=1) + "\n", encoding="utf-8")
    console.print(f"All numbers: {path}")


def _moved(
    work: Path, wanted: frozenset[str], options: argparse.Namespace, console: Console
) -> tuple[list[Trial], list[Finding]]:
    """Everything that needs a broker: the trials of all contestants, and what our programs do alone."""
    compared = bool(wanted.intersection(SCENARIOS))
    them = peer.install() if compared else None
    broker = LocalBroker.start(work / "broker")
    try:
        trials: list[Trial] = []
        if them is not None:
            sizes, rounds = QUICK if options.quick else FULL, _rounds(options)
            trials = _trials(Bench(broker.bootstrap, work, them), wanted, sizes, rounds, console)
        findings: list[Finding] = []
        # Each says its own spread or needs minutes, so they are repeated only when asked for.
        for _ in range(options.rounds or 1):
            amount = uploader.QUICK if options.quick else uploader.FULL
            findings += uploader.measure(broker.bootstrap, work, wanted, amount, console.print)
            much = downloader.QUICK if options.quick else downloader.FULL
            findings += downloader.measure(broker.bootstrap, work, wanted, much, console.print)
        # Its rounds are its own, since what is compared takes turns.
        amounts = to_s3.QUICK if options.quick else to_s3.FULL
        findings += to_s3.measure(broker.bootstrap, work, wanted, amounts, console.print)
        return trials, findings
    finally:
        broker.stop()


def _rounds(options: argparse.Namespace) -> int:
    return int(options.rounds or (1 if options.quick else 5))


def _trials(bench: Bench, wanted: frozenset[str], sizes: Sizes, rounds: int, console: Console) -> list[Trial]:
    work = bench.work
    admin = AdminClient({"bootstrap.servers": bench.bootstrap, "log_level": 0})
    played = Rounds(bench, admin, wanted, console)
    # A new broker makes its inner topics when the first of each kind of client comes: seconds that
    # would be put down to whoever comes first.
    warm = make(work / "warm", 1, _MIB)
    Rounds(bench, admin, frozenset({"large-up", "large-down"}), console).play("large", 0, dict.fromkeys(_SENDERS, warm))
    large = _sources(work / "large", wanted, "large", 1, sizes.large_bytes)
    small = _sources(work / "small", wanted, "small", sizes.small_count, sizes.small_bytes)
    few = _sources(work / "few", wanted, "small", sizes.small_count_peer, sizes.small_bytes)
    for number in range(1, rounds + 1):
        played.play("large", number, dict.fromkeys(_SENDERS, large))
        played.play("small", number, {BARE: small, OURS: small, PEER: few})
    return played.trials


def _sources(root: Path, wanted: frozenset[str], kind: str, count: int, file_bytes: int) -> Material:
    needed = not wanted.isdisjoint({f"{kind}-up", f"{kind}-down"})
    return make(root, count if needed else 0, file_bytes)


def _starts(work: Path) -> dict[str, list[float]]:
    script = shutil.which("openmsistream", path=str(Path(sys.executable).parent))
    program = [script] if script else [sys.executable, "-m", "openmsistream"]
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        targets.IMPORT.name: [sys.executable, "-c", "import openmsistream"],
        targets.HELP.name: [*program, "--help"],
    }
    # Once before, so that all of them find their files in the page cache.
    for command in commands.values():
        timed(command, work, 1)
    return {name: timed(command, work, _START_RUNS) for name, command in commands.items()}


def _require_room(work: Path, sizes: Sizes) -> None:
    free, needed = shutil.disk_usage(work).free, _ROOM * sizes.large_bytes
    if free < needed:
        raise ConfigError(
            f"{work.parent}: {free / 1e9:.1f} GB free, the benchmark needs {needed / 1e9:.1f} GB",
            hint="give another --folder, or --quick",
        )


def _turned(names: Sequence[str], number: int) -> list[str]:
    first = number % len(names)
    return [*names[first:], *names[:first]]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Compare speed and thrift with a bare Kafka client and with OpenMSIStream 1.8.8.",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds; 5, or 1 with --quick")
    parser.add_argument(
        "--long", action="store_true", help=f"also what takes minutes to prepare: {', '.join(sorted(_LONG))}"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument(
        "--only", action="append", choices=_CHOICES, metavar="NAME", help=f"one of {', '.join(_CHOICES)}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where all numbers go; bench/results/...")
    parser.add_argument("--folder", type=Path, metavar="FOLDER", help="where to work; the temporary folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
