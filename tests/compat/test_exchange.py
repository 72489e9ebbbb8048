"""Files go both ways between us and OpenMSIStream 1.8.8 over a real broker, to the byte.

Both sides are run as their users run them. Empty files are left out: the peer sends nothing for them and
cannot receive them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from openmsistream.local.broker import LocalBroker
from tests.compat import peer
from tests.compat.exchange import (
    NAMES_WITH_LOG,
    SIZES,
    contents,
    make_tree,
    they_download,
    they_upload,
    wait_for_files,
    we_download,
    we_upload,
)
from tests.conftest import MakeTopic

pytestmark = [pytest.mark.compat, pytest.mark.timeout(120)]


@pytest.fixture(scope="session")
def them() -> peer.Peer:
    """The installed peer; the first run on a computer fetches it."""
    return peer.install()


@pytest.fixture
def config(broker: LocalBroker, tmp_path: Path) -> Path:
    """A config file of 1.x, used unchanged by both sides; it makes us write format v1."""
    return peer.write_config(tmp_path / "lab.config", broker.bootstrap)


@pytest.fixture
def v2_config(broker: LocalBroker, tmp_path: Path) -> Path:
    """A config file that names no serializer: we write format v2."""
    path = tmp_path / "lab-v2.config"
    path.write_text(f"[broker]\nbootstrap.servers = {broker.bootstrap}\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("partitions", [1, 4])
def test_what_we_send_in_v1_arrives_whole_at_1_8_8(
    them: peer.Peer, config: Path, topic: MakeTopic, tmp_path: Path, partitions: int
) -> None:
    """1.8.8 rebuilds every file we send with its own config file, also the names it would not send itself."""
    source = make_tree(tmp_path / "source", SIZES | NAMES_WITH_LOG)
    name = topic(partitions)

    we_upload(source, config, name, tmp_path)
    they_download(them, tmp_path / "theirs", contents(source), config, name, tmp_path)

    assert contents(tmp_path / "theirs") == contents(source)


def test_what_we_send_with_9_fields_arrives_whole_at_1_8_8(
    them: peer.Peer, config: Path, topic: MakeTopic, tmp_path: Path
) -> None:
    """The form that 1.8.6 and older need is also taken by 1.8.8."""
    text = config.read_text(encoding="utf-8")
    ours = tmp_path / "nine.config"
    ours.write_text(
        text.replace("[producer]\n", "[producer]\nvalue.serializer.fields = 9\n"), encoding="utf-8"
    )
    source = make_tree(tmp_path / "source", {"several.bin": SIZES["several chunks.bin"]})
    name = topic(2)

    we_upload(source, ours, name, tmp_path)
    they_download(them, tmp_path / "theirs", contents(source), config, name, tmp_path)

    assert contents(tmp_path / "theirs") == contents(source)


@pytest.mark.parametrize("partitions", [1, 4])
def test_what_1_8_8_sends_arrives_whole_at_ours(
    them: peer.Peer, config: Path, topic: MakeTopic, tmp_path: Path, partitions: int
) -> None:
    """We rebuild every file of 1.8.8, whose chunks lie on all partitions, with its own config file."""
    source = make_tree(tmp_path / "source", SIZES)
    name = topic(partitions)
    expected = contents(source)

    they_upload(them, source, config, name, tmp_path)
    with we_download(tmp_path / "ours", config, name, tmp_path) as running:
        wait_for_files(running, tmp_path / "ours", expected)

    assert contents(tmp_path / "ours") == expected


@pytest.mark.parametrize("partitions", [1, 4])
def test_both_formats_on_one_topic_arrive_in_one_folder(
    them: peer.Peer, config: Path, v2_config: Path, topic: MakeTopic, tmp_path: Path, partitions: int
) -> None:
    """1.8.8 and our v2 share a topic; one download of ours, started before both, takes all files of both."""
    from_them = make_tree(tmp_path / "from-them", SIZES, below="from 1.8.8")
    from_us = make_tree(tmp_path / "from-us", SIZES, below="from 2.0")
    expected = contents(from_them) | contents(from_us)
    name = topic(partitions)

    with we_download(tmp_path / "both", v2_config, name, tmp_path) as running:
        they_upload(them, from_them, config, name, tmp_path)
        we_upload(from_us, v2_config, name, tmp_path)
        wait_for_files(running, tmp_path / "both", expected)

    assert contents(tmp_path / "both") == expected


def test_a_single_file_goes_both_ways(
    them: peer.Peer, config: Path, topic: MakeTopic, tmp_path: Path
) -> None:
    """``UploadDataFile``, same command line, theirs and ours: the other side's folder gets the same file."""
    source = tmp_path / "scan 1.bin"
    source.write_bytes(bytes(range(256)) * 5_000)
    by_us, by_them = topic(), topic()
    arguments = (source, "--config", config, "--topic_name")
    ours = shutil.which("UploadDataFile", path=str(Path(sys.executable).parent))
    assert ours is not None

    done = subprocess.run(
        [ours, *map(str, (*arguments, by_us))],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=30,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with them.start("UploadDataFile", *arguments, by_them, log=tmp_path / "their-file.txt") as theirs:
        assert theirs.wait(30) == 0, theirs.text()

    expected = {source.name: source.read_bytes()}
    they_download(them, tmp_path / "theirs", expected, config, by_us, tmp_path)
    with we_download(tmp_path / "ours", config, by_them, tmp_path) as running:
        wait_for_files(running, tmp_path / "ours", expected)
    assert contents(tmp_path / "theirs") == contents(tmp_path / "ours") == expected
