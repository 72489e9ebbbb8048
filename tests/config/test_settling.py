"""Which settle rule a config file gives to which file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from openmsistream.config.options import WatchOptions
from openmsistream.core.settle import SettleMode, SettleRule
from openmsistream.errors import ConfigError

from .conftest import Write


@pytest.fixture
def options(tmp_path: Path):
    """Options as a Python caller makes them."""

    def make(**values: Any) -> WatchOptions:
        return WatchOptions(upload_dir=tmp_path, **values)

    return make


Make = Any


def test_without_a_section_every_file_has_the_default_rule(config: Write, options: Make):
    """The defaults of the options are those of the settle engine."""
    rules = config("").settle_rules(options())

    assert rules("run/scan.dat") == SettleRule()
    assert rules.all == (SettleRule(),)


def test_the_section_sets_the_base(config: Write, options: Make):
    """With its own names for the two quiet times, or those of the options."""
    rules = config(
        "[watch]\nsettle = quiet\nquiet_seconds = 10\nclosed_lag_time = 0.5\nmax_wait = 10m\n"
        "marker = {stem}.ok\ntemporary_names = *.writing\n    ~*\ncheck-writers = no\n"
    ).settle_rules(options())

    assert rules.base == SettleRule(
        SettleMode.QUIET, 10, 0.5, 600, "{stem}.ok", ("*.writing", "~*"), check_writers=False
    )


def test_options_that_are_given_override_the_base_and_not_the_patterns(config: Write, options: Make):
    """What somebody typed for this start is meant for the usual files; a pattern has its reasons."""
    read = config("[watch]\nquiet_seconds = 10\nmax_wait = 2h\n[watch *.raw]\nquiet_seconds = 60\n")
    rules = read.settle_rules(options(watchdog_lag_time=1, check_writers=False))

    assert rules("a.csv") == SettleRule(quiet_seconds=1, max_wait_seconds=7200, check_writers=False)
    assert rules("a.raw") == SettleRule(quiet_seconds=60, max_wait_seconds=7200, check_writers=False)


def test_an_option_typed_as_its_default_counts(config: Write, options: Make):
    """``--watchdog-lag-time 3`` is not the same as nothing."""
    read = config("[watch]\nquiet_seconds = 10\n")

    assert read.settle_rules(options(given=frozenset({"watchdog_lag_time"}))).base.quiet_seconds == 3
    assert read.settle_rules(options()).base.quiet_seconds == 10


def test_the_first_section_that_matches_a_file_decides(config: Write, options: Make):
    """In the file's order, whatever is more special; what it does not say comes from [watch]."""
    rules = config(
        "[watch scope/**]\nsettle = close\n[watch]\nquiet_seconds = 7\n"
        "[watch *.raw, *.h5, !keep*]\nquiet_seconds = 60\n"
    ).settle_rules(options())

    assert rules("scope/run/a.raw") == SettleRule(SettleMode.CLOSE, quiet_seconds=7)
    assert rules("run/a.raw") == rules("a.h5") == SettleRule(quiet_seconds=60)
    assert rules("keep.raw") == rules("a.csv") == SettleRule(quiet_seconds=7)
    assert [rule.quiet_seconds for rule in rules.all] == [7, 7, 60]


@pytest.mark.parametrize(
    ("text", "base", "raw"),
    [
        ("[watch *.raw]\nsettle = marker", 3600, None),
        ("[watch *.raw]\nsettle = marker\nmax_wait = 2h", 3600, 7200),
        ("[watch]\nsettle = marker\n[watch *.raw]\nsettle = auto", None, 3600),
        ("[watch]\nsettle = marker\nmax_wait = 30\n[watch *.raw]\nquiet_seconds = 1", 30, 30),
        ("[watch]\nmax_wait = none\n[watch *.raw]\nmax_wait = 1d", None, 86_400),
        ("[watch]\nmax_wait = 0", None, None),
    ],
)
def test_a_file_that_needs_its_marker_waits_for_ever_unless_told_otherwise(
    config: Write, options: Make, text: str, base: float | None, raw: float | None
):
    """Otherwise half a file would go after an hour although its instrument had not finished it."""
    rules = config(text).settle_rules(options())

    assert (rules("a.csv").max_wait_seconds, rules("a.raw").max_wait_seconds) == (base, raw)


def test_a_key_that_is_set_to_nothing_is_not_set(config: Write, options: Make):
    """``marker =`` means the usual marker."""
    rules = config("[watch]\nmarker =\ntemporary_names =\n").settle_rules(options())

    assert rules.base == SettleRule()


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[watch]\nquite_seconds = 5", "[watch] quite_seconds (line 2): there is no option of this name", "quiet_sec"),
        ("[watch]\nqqqq = 5", "(value '5')", "allowed are settle, quiet_seconds, watchdog_lag_time, closed_seconds"),
        ("[watch]\nsettle = soon", "[watch] settle (line 2): 'soon' is not one of auto, close, quiet, marker", ""),
        ("[watch *.raw]\nmax_wait = soon", "[watch *.raw] max_wait (line 2): 'soon' is not a time such as 30s", ""),
        ("[watch]\nmarker = a/b", "[watch] marker (line 2): 'a/b' is not the name of a marker file", ""),
        ("[watch]\ntopic_name = a", "[watch] topic_name (line 2): topic_name = 'a' does not say when", "[upload]"),
        ("[watch]\nconfig = a", "can only be given on the command line", "remove"),
        ("[watch]\nquiet_seconds = 1\nquiet-seconds = 2", "(line 3): the option is already given", "keep one"),
        ("[watch a//b]\n", "[watch a//b] (line 1): 'a//b' is not a list of patterns: pattern 'a//b': one of", ""),
        ("[watch !*.raw]\n", "[watch !*.raw] (line 1): no file matches '!*.raw'", "[watch *, !*.raw]"),
        ("[watch *.a]\n[watch  *.a]\n", "[watch  *.a] (line 2): the section is already given as", "one heading"),
        ("[watch]\nquiet_seconds = $Q", "[watch] quiet_seconds (line 2): environment variable Q is not set", "export"),
    ],
)
def test_a_mistake_is_named_with_its_place(config: Write, options: Make, text: str, message: str, hint: str):
    """File, section, key, line, value and what is allowed; asking for every part of the file finds it, too."""
    read = config(text)

    with pytest.raises(ConfigError) as caught:
        read.settle_rules(options())

    assert caught.value.message.startswith(f"{read.path} [watch")
    assert message in caught.value.message
    assert hint in caught.value.hint
    with pytest.raises(ConfigError, match=r"\[watch"):
        config("[broker]\nbootstrap.servers = a:1\n" + text).check()
