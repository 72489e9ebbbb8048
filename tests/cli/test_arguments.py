"""Options as they are typed."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from openmsistream.cli.arguments import Parser, add_options, config_name, parse, refuse_without_folder
from openmsistream.cli.arguments import typed as given
from openmsistream.cli.main import main
from openmsistream.config.options import CommonOptions, UploadOptions, WatchOptions, options_of
from openmsistream.config.options_download import DownloadOptions

PROGRAMS: dict[type[CommonOptions], str] = {
    UploadOptions: "UploadDataFile",
    WatchOptions: "DataFileUploadDirectory",
    DownloadOptions: "DataFileDownloadDirectory",
}
# Option, a value to type, what it means, the default. Source: "as 1.x behaves", its own -h.
COMMON_1X: list[tuple[str, str | None, Any, Any]] = [
    ("logger_stream_level", "DEBUG", 10, 20),
    ("logger_file_level", "15", 15, 30),
    ("logger_file_path", "run.log", Path("run.log"), None),
    ("config", "prod", "prod", "test"),
    ("topic_name", "xrd", "xrd", "test"),
    ("n_threads", "5", 5, 2),
]
STREAM_1X: list[tuple[str, str | None, Any, Any]] = [
    ("consumer_topic_name", "xrd", "xrd", "test"),
    ("producer_topic_name", "xrd", "xrd", "test"),
    ("consumer_group_id", "g", "g", "create_new"),
    ("treat_undecryptable_as_plaintext", None, True, False),
    ("max_wait_per_decrypt", "1.5", 1.5, 5.0),
    ("max_initial_wait_per_decrypt", "1.5", 1.5, 60.0),
    ("update_seconds", "-1", -1, 300),
    ("heartbeat_topic_name", "hb", "hb", None),
    ("heartbeat_program_id", "pc 7", "pc 7", None),
    ("heartbeat_interval_secs", "9", 9, 900),
    ("log_topic_name", "logs", "logs", None),
    ("log_program_id", "pc 7", "pc 7", None),
    ("log_interval_secs", "9", 9, 60),
]
OWN_1X: dict[type[CommonOptions], list[tuple[str, str | None, Any, Any]]] = {
    UploadOptions: [*COMMON_1X, ("chunk_size", "16384", 16384, 524288)],
    WatchOptions: [
        *COMMON_1X,
        *STREAM_1X,
        ("upload_regex", r".*\.tiff", r".*\.tiff", None),
        ("chunk_size", "16384", 16384, 524288),
        ("queue_max_size", "100", 100, 500),
        ("upload_existing", None, True, False),
        ("watchdog_lag_time", "10", 10, 3),
        ("use_polling_observer", None, True, False),
    ],
    DownloadOptions: [*COMMON_1X, *STREAM_1X, ("download_regex", "a.*", "a.*", None)],
}
ALL_1X = [(model, *row) for model, rows in OWN_1X.items() for row in rows]


def parser_for(model: type[CommonOptions], *, legacy: bool = True) -> Parser:
    parser = Parser(prog=PROGRAMS[model])
    add_options(parser, model, legacy=legacy)
    return parser


def typed(model: type[CommonOptions], *args: str, legacy: bool = True, file: dict[str, Any] | None = None) -> Any:
    return parse(model, parser_for(model, legacy=legacy).parse_args(list(args)), file or {})


@pytest.fixture
def place(tmp_path: Path) -> dict[type[CommonOptions], str]:
    (tmp_path / "scan.csv").write_bytes(b"1")
    return {
        UploadOptions: str(tmp_path / "scan.csv"),
        WatchOptions: str(tmp_path),
        DownloadOptions: str(tmp_path),
    }


@pytest.mark.parametrize(("model", "name", "text", "meaning", "default"), ALL_1X)
@pytest.mark.parametrize("legacy", [True, False])
def test_every_option_of_1x_is_there_in_both_spellings(
    place: dict[type[CommonOptions], str],
    model: type[CommonOptions],
    name: str,
    text: str | None,
    meaning: object,
    default: object,
    legacy: bool,
):
    """With its default, under its name and with hyphens, in the old scripts and the new commands."""
    value = [] if text is None else [text]
    spellings = (f"--{name}", "--" + name.replace("_", "-"))
    old, new = (typed(model, place[model], spelled, *value, legacy=legacy) for spelled in spellings)

    assert getattr(typed(model, place[model], legacy=legacy), name) == default
    assert getattr(old, name) == meaning
    assert old == new
    assert old.given == {name, *(n for n, (_, option) in options_of(model).items() if option.positional)}


def test_the_command_line_wins_over_the_file_over_the_default(place: dict[type[CommonOptions], str]):
    """An option that is typed counts even when it is the default."""
    file = {"chunk_size": 1024, "n_threads": 7, "upload_existing": True}
    made = typed(WatchOptions, place[WatchOptions], "--chunk-size", "524288", file=file)

    assert (made.chunk_size, made.n_threads, made.upload_existing, made.scan_seconds) == (524288, 7, True, 30)


@pytest.mark.parametrize("spelling", ["--no-upload_existing", "--no-upload-existing"])
def test_what_the_file_switched_on_can_be_switched_off(place: dict[type[CommonOptions], str], spelling: str):
    """The opposite of a switch begins with --no-."""
    made = typed(WatchOptions, place[WatchOptions], spelling, file={"upload_existing": True})

    assert made.upload_existing is False


@pytest.mark.parametrize("option", ["--include", "--exclude", "--temporary-names"])
def test_lists_of_patterns_add_up(place: dict[type[CommonOptions], str], option: str):
    """The option is repeated, or has commas; together it wins over the file."""
    name = option.removeprefix("--").replace("-", "_")
    words = (option, "*.h5,*.csv", f"--{name}", "*.dat")
    made = typed(WatchOptions, place[WatchOptions], *words, file={name: ("*.raw",)})

    assert getattr(made, name) == ("*.h5", "*.csv", "*.dat")


def test_a_topic_that_is_typed_wins_over_every_name_for_it_in_the_file(place: dict[type[CommonOptions], str]):
    """Also over producer_topic_name, which usually wins over topic_name."""
    file = {"topic_name": "a", "producer_topic_name": "b"}

    assert typed(WatchOptions, place[WatchOptions], file=file).topic == "b"
    assert typed(WatchOptions, place[WatchOptions], "--topic-name", "c", file=file).topic == "c"


def test_a_folder_can_be_left_out_for_the_config_file_to_name(capsys: pytest.CaptureFixture[str]):
    """Only in the new command; if the file names none either, that is a mistake in one line."""
    namespace = parser_for(WatchOptions, legacy=False).parse_args(["--config", "lab"])

    assert given(WatchOptions, namespace) == {"config": "lab"}
    with pytest.raises(SystemExit) as ended:
        refuse_without_folder(namespace, "lab.config")
    assert ended.value.code == 2
    assert "FOLDER is missing, and no [folder NAME] section of lab.config names one" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parser_for(WatchOptions).parse_args(["--config", "lab"])
    assert "the following arguments are required: FOLDER" in capsys.readouterr().err


def test_the_settle_options_stand_under_a_heading_of_their_own():
    """A switch that is on unless told otherwise names its opposite, in the spelling of the program."""
    for legacy, opposite in ((True, "--no-check_writers"), (False, "--no-check-writers")):
        text = parser_for(WatchOptions, legacy=legacy).format_help()
        settle = text.partition("when a file is complete:")[2].partition("running:")[0]

        assert settle.count("\n  --") == 9
        assert opposite in settle


@pytest.mark.parametrize(
    ("model", "args", "message"),
    [
        (
            WatchOptions,
            ["{}", "--chunk_size", "0"],
            "argument --chunk_size: '0' is not a whole number from 1 to ",
        ),
        (WatchOptions, ["{}", "--progress=loud"], "'loud' is not one of auto, bar, plain, none"),
        (WatchOptions, ["{}", "--upload_regex", "("], "'(' is not a regular expression: missing )"),
        (
            WatchOptions,
            ["{}", "--chunksize", "5"],
            "unrecognized arguments: --chunksize 5; did you mean --chunk_size?",
        ),
        (WatchOptions, ["{}", "--until_idle", "5"], "unrecognized arguments: --until_idle 5"),
        (WatchOptions, ["{}", "--max-rate", "2"], "argument --max-rate: '2' is not a rate of at least 1 kB/s"),
        (WatchOptions, ["{}", "--include", "a\\b"], "write / between folders, also on Windows"),
        (WatchOptions, ["{}/nowhere"], "nowhere' is not an existing folder"),
        (UploadOptions, ["{}/scan.csv/x"], "is not an existing file"),
        (UploadOptions, [], "the following arguments are required: FILE"),
        (
            DownloadOptions,
            ["{}", "--until-idle", "0"],
            "argument --until-idle: '0' is not a number from 0.1 to ",
        ),
    ],
)
def test_a_mistake_ends_with_code_2_and_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    model: type[CommonOptions],
    args: list[str],
    message: str,
):
    """The line names option, value and what is allowed."""
    with pytest.raises(SystemExit) as ended:
        parser_for(model).parse_args([arg.format(tmp_path) for arg in args])

    line = capsys.readouterr().err
    assert ended.value.code == 2
    assert message in line
    assert line.count("\n") == 1


def test_options_work_below_a_command(place: dict[type[CommonOptions], str], capsys: pytest.CaptureFixture[str]):
    """One program can have several models as its commands; the nearest name is still suggested."""
    top = Parser(prog="openmsistream")
    commands = top.add_subparsers(dest="command")
    add_options(commands.add_parser("watch"), WatchOptions, legacy=False)

    namespace = top.parse_args(["watch", place[WatchOptions], "--once"])
    assert parse(WatchOptions, namespace, {}).once
    with pytest.raises(SystemExit):
        top.parse_args(["watch", place[WatchOptions], "--upload-existng"])
    assert "did you mean --upload-existing?" in capsys.readouterr().err


@pytest.mark.parametrize("model", PROGRAMS)
@pytest.mark.parametrize(("legacy", "shown", "hidden"), [(True, "_", "-"), (False, "-", "_")])
def test_help_shows_one_spelling_of_every_option(model: type[CommonOptions], legacy: bool, shown: str, hidden: str):
    """That of 1.x in its scripts, that with hyphens in the new commands; defaults are told."""
    text = parser_for(model, legacy=legacy).format_help()

    for name, (_, option) in options_of(model).items():
        if not option.positional:
            assert f"--{name.replace('_', shown)}" in text
        if "_" in name and not option.positional:
            assert f"--{name.replace('_', hidden)}" not in text
    assert "(default: 524288)" in text or model is DownloadOptions
    assert "(default: info)" in text


@pytest.mark.parametrize("model", PROGRAMS)
@pytest.mark.parametrize("legacy", [True, False])
def test_the_examples_of_a_help_text_can_be_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: type[CommonOptions], legacy: bool
):
    """Each example is accepted by the parser whose help shows it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "xrd_data").mkdir()
    (tmp_path / "scan_001.csv").write_bytes(b"1")
    parser = parser_for(model, legacy=legacy)
    lines = re.findall(rf"^     {parser.prog} (.*)$", parser.format_help(), re.MULTILINE)

    assert len(lines) >= 2
    for line in lines:
        namespace = parser.parse_args(shlex.split(line))
        # An example without a folder leaves it to the config file.
        file = {"upload_dir": tmp_path} if model is WatchOptions and line.startswith("--") else {}
        assert parse(model, namespace, file).given > file.keys()


def test_the_config_file_is_known_before_the_options_are():
    """Its name is typed or the default."""
    assert config_name(WatchOptions, argparse.Namespace()) == "test"
    assert config_name(WatchOptions, argparse.Namespace(config="lab")) == "lab"


def test_help_needs_no_kafka():
    """Asking for help is fast: no library is imported for it."""
    code = (
        "import sys, openmsistream.cli.arguments; "
        "print(*sys.modules.keys() & {'confluent_kafka', 'rich', 'watchdog', 'platformdirs', 'blake3', 'psutil', "
        "'pathspec'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.strip() == ""


def test_what_a_sub_command_does_not_know_is_answered_with_its_own_help(capsys: pytest.CaptureFixture[str]):
    """And not with the list of all commands."""
    with pytest.raises(SystemExit) as ended:
        main(["verify", "my_data", "archive"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("openmsistream verify: error: unrecognized arguments: my_data archive")
    assert said.endswith("(see openmsistream verify --help)\n")
