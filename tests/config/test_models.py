"""Which file is taken, and which parts of it are asked for."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from openmsistream.config.models import KafkaCryptoConfig, default_search, load
from openmsistream.config.options_download import DownloadOptions
from openmsistream.errors import ConfigError

from .conftest import Write

BROKER = "[broker]\nbootstrap.servers = localhost:9092\n"


def folder_with(tmp_path: Path, *names: str) -> Path:
    for name in names:
        (tmp_path / name).write_text(BROKER)
    return tmp_path


@pytest.mark.parametrize("name", ["xrd", "xrd.config"])
def test_a_name_is_found_in_the_config_folders(tmp_path: Path, name: str):
    """The first folder that has it counts; a name without a dot gets ".config"."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    folder_with(second, "xrd.config")

    assert load(name, env={}, search=[first, second]).path == second / "xrd.config"


def test_a_path_wins_over_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file in the current folder is meant before one of the same name elsewhere."""
    other = tmp_path / "other"
    other.mkdir()
    folder_with(other, "xrd.config")
    monkeypatch.chdir(folder_with(tmp_path, "xrd.config"))

    assert load("xrd", env={}, search=[other]).path == Path("xrd.config")
    assert load("./xrd", env={}, search=[]).path == Path("xrd.config")


def test_a_missing_file_lists_where_it_was_looked_for(tmp_path: Path):
    """And suggests the file that may have been meant."""
    folder_with(tmp_path, "xrd-lab.config")

    with pytest.raises(ConfigError) as caught:
        load("xrd_lab", env={}, search=[tmp_path, Path("/nowhere")])

    assert "config file xrd_lab: not found; looked for xrd_lab.config, " in caught.value.message
    assert str(tmp_path / "xrd_lab.config") in caught.value.message
    assert "did you mean xrd-lab?" in caught.value.hint


def test_a_folder_is_no_config_file(tmp_path: Path):
    """The error says what it is."""
    with pytest.raises(ConfigError, match="is a folder"):
        load(tmp_path, env={}, search=[])


def test_the_folder_in_the_environment_comes_first(tmp_path: Path):
    """OPENMSISTREAM_CONFIG_FILE_DIR, then the user's own folder, then ours."""
    named = default_search({"OPENMSISTREAM_CONFIG_FILE_DIR": str(tmp_path)})

    assert named[0] == tmp_path
    assert named[1:] == default_search({})
    assert named[1].name == "openmsistream"


def test_the_default_config_is_there():
    """``--config test`` works without any file of one's own, given the broker's address."""
    env = {"LOCAL_KAFKA_BROKER_BOOTSTRAP_SERVERS": "localhost:9092"}
    read = load("test", env=env, search=default_search({})[-1:])

    assert read.producer.settings["bootstrap.servers"] == "localhost:9092"
    assert read.consumer.auto_offset_reset == "earliest"


def test_an_upload_needs_no_variable_of_another_section(config: Write):
    """Each part is read when it is asked for; asking for all of them finds every mistake."""
    read = config(BROKER + "[consumer]\ngroup.id = $GROUP\n[s3]\nsecret_key_id = $S3_KEY\n")

    assert read.producer.settings["acks"] == "all"
    assert read.warnings == ()
    with pytest.raises(ConfigError, match=r"\[consumer\] group.id \(line 4\): environment variable GROUP"):
        _ = read.consumer
    with pytest.raises(ConfigError, match=r"\[s3\] secret_key_id \(line 6\)"):
        _ = read.s3
    with pytest.raises(ConfigError, match="GROUP"):
        read.check()


def test_a_config_cannot_be_changed(config: Write):
    """Models are values."""
    read = config(BROKER)

    with pytest.raises(FrozenInstanceError):
        read.path = Path()  # type: ignore[misc]
    with pytest.raises(TypeError):
        read.broker["x"] = "y"  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("[kafkacrypto]\nnode_id = xrd", KafkaCryptoConfig("xrd", None)),
        ("[kafkacrypto]\nconfig_file = file#files/xrd.config", KafkaCryptoConfig(None, "files/xrd.config")),
        ("[kafkacrypto]\nconfig_file = lab/xrd.config", KafkaCryptoConfig(None, "lab/xrd.config")),
    ],
)
def test_kafkacrypto_is_on_when_its_section_is_there(config: Write, text: str, expected: KafkaCryptoConfig | None):
    """With a node's name or a file; "file#" before the path is dropped, and no letter more."""
    assert config(BROKER + text).kafkacrypto == expected


def test_kafkacrypto_without_a_node_is_refused(config: Write):
    """Encryption is not switched off by a mistake."""
    with pytest.raises(ConfigError, match=r"\[kafkacrypto\]: neither node_id nor config_file"):
        _ = config(BROKER + "[kafkacrypto]\n").kafkacrypto


def test_the_other_sections_are_kept_as_written(config: Write):
    """Programs that need them read them; [osn] is the name that 0.9 had for [s3]."""
    read = config(
        "[osn]\nregion = us\n[heartbeat]\nbootstrap.servers = hb:1\nnode_id = 1\n"
        "[log]\nmax.logs.per.message = 9\n[upload]\nchunk_size = 7\n[download]\nn_threads = 3\n"
    )

    sections = (read.s3, read.heartbeat, read.log, read.upload, read.download)
    assert [dict(section) for section in sections] == [
        {"region": "us"},
        {"bootstrap.servers": "hb:1"},
        {"max.logs.per.message": "9"},
        {"chunk_size": "7"},
        {"n_threads": "3"},
    ]


def test_what_default_says_is_no_option(config: Write):
    """[DEFAULT] is for references; an option has to stand in its section."""
    read = config("[DEFAULT]\nbase = xrd\n[download]\ntopic_name = %(base)s-raw\n")

    assert read.option_defaults(DownloadOptions) == {"topic_name": "xrd-raw"}
