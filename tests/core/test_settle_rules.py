"""Promises of what can be chosen about settling: times, temporary names, markers."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from openmsistream.core.settle_rules import DEFAULT_TEMPORARY, SettleMode, SettleRule
from openmsistream.errors import ConfigError


def test_the_defaults_are_those_that_are_documented():
    """3 s, 1 s when closed, at most an hour."""
    rule = SettleRule()

    assert (rule.mode, rule.quiet_seconds, rule.short_seconds, rule.max_wait_seconds) == (
        SettleMode.AUTO,
        3.0,
        1.0,
        3600.0,
    )
    assert rule.check_writers
    assert [mode.value for mode in SettleMode] == ["auto", "close", "quiet", "marker"]


def test_good_evidence_never_makes_a_file_wait_longer_than_none():
    """Who asks for no quiet time gets none."""
    assert SettleRule(quiet_seconds=0.0).short_seconds == 0.0


@pytest.mark.parametrize(
    "name",
    ["a.tmp", "run/SCAN.TMP", "a.dat.part", "b.crdownload", "~$report.docx", "a.dat~", ".a.dat.Xy12Zq", "x/.a.swp"],
)
def test_names_that_files_have_only_while_they_are_written_are_known(name: str):
    """Those of common programs, in capitals too."""
    assert SettleRule().is_temporary(name)


def test_the_temporary_names_are_those_that_are_documented():
    """The page names each; hidden names it explains in words."""
    page = (Path(__file__).parents[2] / "docs" / "complete.md").read_text(encoding="utf-8")
    paragraph = page.partition("Temporary names are ")[2].partition(" and hidden names")[0]

    assert set(re.findall("`(.+?)`", paragraph)) | {".*", ".~*"} == set(DEFAULT_TEMPORARY)


@pytest.mark.parametrize("name", ["a.dat", "tmp", "a.tmp/b.dat", "~x/b.dat", "partial.h5", "a.tmpl", "a~b"])
def test_other_names_are_final(name: str):
    """Only the last part of a path counts, and all of it."""
    assert not SettleRule().is_temporary(name)


def test_patterns_of_temporary_names_can_be_any_shell_pattern():
    """And there can be none."""
    rule = SettleRule(temporary=("New*", "*_[0-9]", "a?c", "exact.*.dat"))

    assert all(map(rule.is_temporary, ("new file", "scan_7", "ABC", "exact.1.dat")))
    assert not any(map(rule.is_temporary, ("renew", "scan_x", "ac", "exact.dat", "a.tmp")))
    assert not SettleRule(temporary=()).is_temporary("a.tmp")


@pytest.mark.parametrize(
    ("marker", "path", "expected"),
    [
        ("{name}.done", "run/scan.dat", "run/scan.dat.done"),
        ("{stem}.done", "run/scan.dat", "run/scan.done"),
        ("{stem}.done", "scan.tar.gz", "scan.tar.done"),
        ("{stem}.done", ".hidden", ".hidden.done"),
        ("{stem}.done", "no_extension", "no_extension.done"),
        ("done-{name}", "a/b/{stem}", "a/b/done-{stem}"),
        ("READY", "run/scan.dat", "run/READY"),
        ("READY", "scan.dat", "READY"),
    ],
)
def test_a_marker_stands_beside_its_file(marker: str, path: str, expected: str):
    """Named after it, or one for all files of the folder; the file's own name is never taken for a placeholder."""
    rule = SettleRule(SettleMode.MARKER, marker=marker)

    assert rule.marker_of(path) == expected
    assert rule.is_marker(expected)
    assert not rule.is_marker(path)


@pytest.mark.parametrize(
    ("marker", "reason"),
    [
        ("done/{name}", "a name and not a path"),
        ("done\\{name}", "a name and not a path"),
        ("{name}\0", "a name and not a path"),
        ("{folder}.done", "only {name} and {stem}"),
        ("{name.done", "only {name} and {stem}"),
        ("{name}", "every file, or none"),
        ("{stem}{stem}", "every file, or none"),
        ("", "every file, or none"),
        ("..", "every file, or none"),
    ],
)
def test_a_marker_that_could_not_work_is_refused(marker: str, reason: str):
    """The error says why and shows what works."""
    with pytest.raises(ConfigError) as caught:
        SettleRule(marker=marker)

    assert repr(marker) in caught.value.message
    assert reason in caught.value.message
    assert "{name}.done" in caught.value.hint


@pytest.mark.parametrize(
    "wrong",
    [
        {"quiet_seconds": -1.0},
        {"quiet_seconds": math.inf},
        {"closed_seconds": math.nan},
        {"max_wait_seconds": 0.0},
        {"max_wait_seconds": math.nan},
    ],
)
def test_times_that_make_no_sense_are_refused(wrong: dict[str, float]):
    """The error names the value."""
    with pytest.raises(ConfigError, match=str(next(iter(wrong.values())))):
        SettleRule(**wrong)
