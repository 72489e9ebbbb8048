"""Option models: what is allowed, and what a config file may set."""

from __future__ import annotations

from pathlib import Path

import pytest

from openmsistream.config.options import (
    UploadOptions,
    WatchOptions,
    options_of,
)
from openmsistream.config.options_download import DownloadOptions
from openmsistream.config.sections import from_file
from openmsistream.errors import ConfigError

from .conftest import Write

MODELS = [UploadOptions, WatchOptions, DownloadOptions]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("chunk_size", 0, "chunk_size: '0' is not a whole number from 1 to "),
        ("chunk_size", 1.5, "chunk_size: '1.5' is not a whole number"),
        ("chunk_size", True, "chunk_size: 'True' is not a whole number"),
        ("chunk_size", None, "chunk_size: 'None' is not a whole number"),
        ("n_threads", 0, "n_threads: '0' is not a whole number from 1 to 64"),
        ("watchdog_lag_time", -1, "watchdog_lag_time: '-1' is not a number from 0 to 604800"),
        ("scan_seconds", float("nan"), "scan_seconds: 'nan' is not a number from 0.1 to 86400"),
        ("upload_regex", "(", r"upload_regex: '\(' is not a regular expression: missing \)"),
        ("topic_name", "röntgen", "topic_name: 'röntgen' is not a topic name"),
        ("progress", "loud", "progress: 'loud' is not one of auto, bar, plain, none"),
        ("logger_file_level", "loud", "logger_file_level: 'loud' is not a level: notset, debug"),
        ("once", "perhaps", "once: 'perhaps' is not true or false"),
        ("consumer_group_id", " ", "consumer_group_id: ' ' is not a text"),
        ("upload_dir", "/no/such/place", "upload_dir: '/no/such/place' is not an existing folder"),
        ("state_dir", Path(__file__), "is a file, not a folder"),
        ("settle", "soon", "settle: 'soon' is not one of auto, close, quiet, marker"),
        ("max_wait", "10 weeks", "max_wait: '10 weeks' is not a time such as 30s, 10m or 2h .up to 7d., or none"),
        ("marker", "{nam}.done", "marker: '{nam}.done' is not the name of a marker file"),
        ("include", "raw//a", "include: 'raw//a' is not a list of patterns: pattern 'raw//a': one of its parts"),
        ("temporary_names", "tmp/*", "temporary_names: 'tmp/.' is not a list of names"),
        ("max_rate", "fast", "max_rate: 'fast' is not a rate of at least 1 kB/s"),
        ("share", "3/2", "share: '3/2' is not a part of a whole"),
        ("symlinks", "all", "symlinks: 'all' is not one of skip, follow"),
        ("ledger_lost", "forget", "ledger_lost: 'forget' is not one of resend, ask"),
    ],
)
def test_a_wrong_value_is_refused_by_name(tmp_path: Path, name: str, value: object, message: str):
    """The error names option, value and what is allowed, also for programs started from Python."""
    with pytest.raises(ConfigError, match=message):
        WatchOptions(**{"upload_dir": tmp_path, name: value})  # type: ignore[arg-type]


def test_values_arrive_in_their_final_type(tmp_path: Path):
    """Python callers may write what users write."""
    made = WatchOptions(upload_dir=str(tmp_path), logger_stream_level="debug", watchdog_lag_time=2)  # type: ignore[arg-type]

    assert made.upload_dir == tmp_path
    assert made.logger_stream_level == 10
    assert isinstance(made.watchdog_lag_time, float)


def test_new_options_take_what_people_write(tmp_path: Path):
    """Rates, times, parts and lists of patterns."""
    made = WatchOptions(
        upload_dir=tmp_path,
        max_rate="20 MB/s",  # type: ignore[arg-type]
        max_wait="10m",  # type: ignore[arg-type]
        share="2/3",  # type: ignore[arg-type]
        include="*.h5, raw/**\n!test*",  # type: ignore[arg-type]
        temporary_names=["*.writing"],  # type: ignore[arg-type]
    )

    assert (made.max_rate, made.max_wait, made.share) == (20e6, 600, (2, 3))
    assert made.include == ("*.h5", "raw/**", "!test*")
    assert made.temporary_names == ("*.writing",)


def test_a_chunk_size_need_not_be_a_power_of_two(tmp_path: Path):
    """1.x asked for one; nothing needs it."""
    assert WatchOptions(upload_dir=tmp_path, chunk_size=300_001).chunk_size == 300_001


def test_the_topic_is_the_sides_own_or_the_common_one(tmp_path: Path):
    """The names for one side count unless they are left at their default."""
    assert WatchOptions(upload_dir=tmp_path, topic_name="a").topic == "a"
    assert WatchOptions(upload_dir=tmp_path, topic_name="a", producer_topic_name="b").topic == "b"
    assert WatchOptions(upload_dir=tmp_path, topic_name="a", consumer_topic_name="b").topic == "a"
    assert DownloadOptions(output_dir=tmp_path, topic_name="a", consumer_topic_name="b").topic == "b"


@pytest.mark.parametrize(
    ("options", "configured", "expected"),
    [
        ({}, None, "create_new"),
        ({}, "archive", "archive"),
        ({"consumer_group_id": "mine"}, "archive", "mine"),
        ({"given": frozenset({"consumer_group_id"})}, "archive", "create_new"),
    ],
)
def test_the_group_is_the_option_then_the_files(
    tmp_path: Path, options: dict[str, object], configured: str | None, expected: str
):
    """A group in the config file counts unless an option was given."""
    made = DownloadOptions(output_dir=tmp_path, **options)  # type: ignore[arg-type]

    assert made.group_id(configured) == expected


def test_a_section_sets_defaults_of_its_programs(config: Write):
    """In both spellings; what only the other program of the section has is left out."""
    read = config("[upload]\nchunk-size = 1024\nupload_existing = yes\nlogger_stream_level = Error\nupload_regex =\n")

    common = {"chunk_size": 1024, "logger_stream_level": 40}
    assert read.option_defaults(UploadOptions) == common
    assert read.option_defaults(WatchOptions) == common | {"upload_existing": True, "upload_regex": None}
    assert read.option_defaults(DownloadOptions) == {}


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("chunksize = 5", "chunksize (line 2): there is no option of this name (value '5')", "chunk_size?"),
        ("qqqq = 5", "qqqq (line 2): there is no option", "allowed are "),
        ("quiet_second = 5", "quiet_second (line 2): there is no option", "quiet_seconds?"),
        ("until_idle = 5", "until_idle (line 2): there is no option of this name", ""),
        ("chunk_size = big", "chunk_size (line 2): 'big' is not a whole number from 1 to ", ""),
        ("chunk_size =", "chunk_size (line 2): '' is not a whole number", ""),
        (
            "config = other",
            "config (line 2): config = 'other' can only be given on the command line",
            "remove",
        ),
        ("upload_dir = .", "can only be given on the command line", "remove"),
        ("n_threads = 1\nn-threads = 2", "n-threads (line 3): the option is already given", "one"),
        ("quiet_seconds = 1\nwatchdog_lag_time = 2", "watchdog_lag_time (line 3): the option is already", "one"),
    ],
)
def test_a_wrong_line_is_named(config: Write, line: str, message: str, hint: str):
    """File, section, key, value and what is allowed, with the name that was probably meant."""
    read = config(f"[upload]\n{line}\n")

    with pytest.raises(ConfigError) as caught:
        read.option_defaults(WatchOptions)

    assert caught.value.message.startswith(f"{read.path} [upload] ")
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_plain_mapping_is_a_section_too():
    """Programs started from Python can hand one over."""
    assert from_file(DownloadOptions, {"n_threads": "4"}) == {"n_threads": 4}
    with pytest.raises(ConfigError, match=r"^\[download\] n_threads: 'x' is not"):
        from_file(DownloadOptions, {"n_threads": "x"})


@pytest.mark.parametrize("model", MODELS)
def test_every_default_is_allowed(model: type):
    """An option's own rule accepts its default, and every option has a help text."""
    for name, (item, option) in options_of(model).items():
        assert option.text, name
        if not option.positional and item.default is not None:
            assert option.kind.accept(item.default) == item.default, name
            assert option.kind.accept(option.kind.show(item.default)) == item.default, name
        if item.default is None:
            assert option.unset, name
