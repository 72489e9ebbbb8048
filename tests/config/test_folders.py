"""Several folders in one config file."""

from __future__ import annotations

from pathlib import Path

import pytest

from openmsistream.config.models import load
from openmsistream.config.options import WatchOptions
from openmsistream.core.settle import SettleMode
from openmsistream.errors import ConfigError

from .conftest import Write

ROOT = Path(__file__).parents[2]


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """Two instruments' folders beside the config file, and one within the other."""
    (tmp_path / "xrd").mkdir()
    (tmp_path / "sem" / "raw").mkdir(parents=True)
    return tmp_path


def test_every_folder_has_its_section_over_the_common_one_below_what_is_typed(lab: Path, config: Write):
    """Names are kept in the file's order; a relative path begins where the config file is."""
    read = config(
        "[upload]\nchunk_size = 1000\nn_threads = 5\ntopic_name = lab\n"
        f"[folder xrd]\npath = xrd\ntopic-name = xrd\nn_threads = 3\nexclude = *.log\n    *.bak\n"
        f"[folder SEM 2]\npath = {lab / 'sem'}\n"
    )
    options = read.every_folder({"n_threads": 1})

    assert list(options) == list(read.folders) == ["xrd", "SEM 2"]
    assert (options["xrd"].upload_dir, options["SEM 2"].upload_dir) == (lab / "xrd", lab / "sem")
    assert (options["xrd"].topic, options["SEM 2"].topic) == ("xrd", "lab")
    assert options["xrd"].exclude == ("*.log", "*.bak")
    assert {(each.chunk_size, each.n_threads) for each in options.values()} == {(1000, 1)}
    assert read.folder_options("xrd", {}).n_threads == 3
    assert "exclude" in options["xrd"].given


def test_a_relative_path_does_not_depend_on_where_the_program_was_started(
    lab: Path, config: Write, monkeypatch: pytest.MonkeyPatch
):
    """A service is started from anywhere."""
    config("[folder a]\npath = xrd\n")
    (lab / "elsewhere").mkdir()
    monkeypatch.chdir(lab / "elsewhere")

    read = load("../xrd.config", env={}, search=[])
    assert read.folder_options("a", {}).upload_dir.samefile(lab / "xrd")


def test_a_folders_own_topic_wins_over_a_common_producer_topic(lab: Path, config: Write):
    """Else every folder would go to the common one."""
    read = config(
        "[upload]\nproducer_topic_name = common\n[folder a]\npath = xrd\ntopic_name = a\n[folder b]\npath = sem\n"
    )

    assert {name: each.topic for name, each in read.every_folder({}).items()} == {"a": "a", "b": "common"}
    assert {each.topic for each in read.every_folder({"topic_name": "t"}).values()} == {"t"}


def test_a_folder_has_settle_rules_of_its_own_and_shares_the_patterns(lab: Path, config: Write):
    """Its keys stand over [watch] and [upload]; [watch PATTERN] holds in every folder."""
    read = config(
        "[watch]\nquiet_seconds = 5\nmax_wait = 1m\n[watch *.raw]\nclosed_seconds = 9\n[upload]\nclosed_seconds = 2\n"
        "[folder a]\npath = xrd\nsettle = quiet\nquiet_seconds = 20\n[folder b]\npath = sem\ntopic_name = b\n"
    )
    a, b = (read.settle_rules(each) for each in read.every_folder({}).values())

    assert (a.base.mode, a.base.quiet_seconds, a.base.closed_seconds) == (SettleMode.QUIET, 20, 2)
    assert (b.base.mode, b.base.quiet_seconds, b.base.max_wait_seconds) == (SettleMode.AUTO, 5, 60)
    assert a("x.raw").closed_seconds == b("x.raw").closed_seconds == 9
    assert a("x.raw").mode is SettleMode.QUIET


def test_one_folder_that_is_typed_gets_the_options_of_its_section(lab: Path, config: Write):
    """However its path is written; another folder gets what [upload] says."""
    read = config("[upload]\nn_threads = 5\n[folder a]\npath = xrd\ntopic_name = a\n")

    assert read.folder_defaults(lab / "sem" / ".." / "xrd") == {"n_threads": 5, "topic_name": "a"}
    assert read.folder_defaults(lab / "sem") == {"n_threads": 5}
    assert read.option_defaults(WatchOptions) == {"n_threads": 5}


def test_a_typed_folder_of_two_sections_is_refused(lab: Path, config: Write):
    """It cannot be told which of them is meant."""
    read = config("[folder a]\npath = xrd\n[folder b]\npath = xrd\ntopic_name = b\n")

    assert len(read.every_folder({})) == 2
    with pytest.raises(ConfigError, match=r"is the path of .* \[folder a\] \(line 1\) and of \[folder b\]"):
        read.folder_defaults(lab / "xrd")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[folder a]\ntopic_name = a", "[folder a] (line 1): it is not said which folder to watch", "path = "),
        ("[folder a]\npath = nowhere", "[folder a] path (line 2): '{lab}/nowhere' is not an existing folder", "drive"),
        ("[folder a]\npath = xrd.config", "xrd.config' is a file, not a folder", ""),
        ("[folder]\npath = xrd", "[folder] (line 1): the section has no name", "[folder NAME]"),
        ("[folder a]\npath = xrd\n[folder A]\npath = sem", "[folder A] (line 3): the name is already taken by", "own"),
        ("[folder a]\npath = xrd\n[folder  a]\npath = sem", "(line 3): the section is already given as", "heading"),
        ("[folder a]\npath = xrd\ntopicname = a", "[folder a] topicname (line 3): there is no option", "topic_name?"),
        ("[folder a]\npath = xrd\nquiet_secs = 1", "quiet_secs (line 3): there is no option", "quiet_seconds?"),
        ("[folder a]\npath = xrd\nmax_rate = 2", "[folder a] max_rate (line 3): '2' is not a rate", ""),
        ("[folder a]\npath = xrd\njson = yes", "json = 'yes' holds for all folders of the program", "[upload]"),
        ("[folder a]\npath = xrd\nonce = yes", "once = 'yes' holds for all folders of the program", "[upload]"),
        ("[folder a]\npath = xrd\nconfig = b", "config = 'b' can only be given on the command line", "remove"),
        ("[folder a]\nupload_dir = xrd\npath = xrd", "upload_dir = 'xrd' is called path here", "path = FOLDER"),
        (
            "[folder a]\npath = xrd\n[folder b]\npath = sem/../xrd",
            "[folder b] (line 3): {lab}/sem/../xrd is sent to topic test by [folder a] already",
            "remove one of the two sections",
        ),
        (
            "[folder a]\npath = sem\n[folder b]\npath = sem/raw",
            "[folder b] (line 3): {lab}/sem/raw lies in the folder of [folder a], and both send to topic test",
            "keep [folder a] alone",
        ),
        (
            "[folder a]\npath = sem/raw\n[folder b]\npath = sem",
            "[folder a] (line 1): {lab}/sem/raw lies in the folder of [folder b], and both send to topic test",
            "keep [folder b] alone",
        ),
    ],
)
def test_a_mistake_in_a_folders_section_is_named_with_its_place(
    lab: Path, config: Write, text: str, message: str, hint: str
):
    """Before anything is watched."""
    with pytest.raises(ConfigError) as caught:
        config(text).every_folder({})

    assert message.format(lab=lab) in caught.value.message
    assert hint in caught.value.hint


def test_a_folder_in_another_may_go_to_another_topic(lab: Path, config: Write):
    """Then no topic gets a file twice; folders whose names only begin alike are no matter."""
    (lab / "semi").mkdir()
    read = config("[folder a]\npath = sem\n[folder b]\npath = sem/raw\ntopic_name = raw\n[folder c]\npath = semi\n")

    assert len(read.every_folder({})) == 3
    with pytest.raises(ConfigError, match="both send to topic one"):
        read.every_folder({"topic_name": "one"})


@pytest.mark.parametrize(
    ("name", "meant"), [("folders xrd", "folder xrd"), ("Watch", "watch"), ("wach *.raw", "watch *.raw")]
)
def test_a_section_whose_name_is_nearly_right_is_told(config: Write, name: str, meant: str):
    """Else a whole instrument would not be watched, and nobody would know."""
    read = config(f"[broker]\nbootstrap.servers = a:1\n[{name}]\npath = x\n[sample data]\nx = 1\n")

    assert read.warnings == (f"{read.path} [{name}] is not read: the section is called [{meant}]",)


def test_sections_are_checked_with_the_rest_of_the_file(config: Write):
    """Also on a computer that does not have the folders."""
    broker = "[broker]\nbootstrap.servers = a:1\n"

    config(broker + "[folder a]\npath = /no/such/place\n").check()
    with pytest.raises(ConfigError, match="is not a rate"):
        config(broker + "[folder a]\npath = /no/such/place\nmax_rate = 1\n").check()


def test_every_example_in_the_documentation_is_right(tmp_path: Path):
    """Each of its config files is read without a complaint."""
    blocks = (ROOT / "docs" / "config.md").read_text(encoding="utf-8").split("```ini\n")[1:]
    env = {"KAFKA_USER": "me", "KAFKA_PASSWORD": "x"}
    assert len(blocks) >= 3
    for number, block in enumerate(blocks):
        text = block.partition("```")[0]
        path = tmp_path / f"example{number}.config"
        path.write_text(text if "[broker]" in text else f"[broker]\nbootstrap.servers = a:1\n{text}", encoding="utf-8")
        read = load(path, env=env, search=[])
        read.check()
        assert read.warnings == ()
