"""Files go both ways between us and OpenMSIStream 1.8.8 over a real broker, to the byte.

Both sides are run as their users run them. Empty files are left out: the peer sends nothing for them and
cannot receive them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from openmsistream.local.broker import LocalBroker
from tests.compat import peer
from tests.compat.exchange import (
    NAMES_WITH_LOG,
    SIZES,
    Route,
    contents,
    make_tree,
    they_download,
    they_upload,
    wait_for_files,
    we_download,
    we_upload,
)
from tests.conftest import MakeTopic

pytestmark = [pytest.mark.compat, pytest.mark.timeout(600)]  # the first one installs the peer


@pytest.fixture(scope="session")
def them() -> peer.Peer:
    """The installed peer; the first run on a computer fetches it."""
    return peer.install()


@pytest.fixture
def make_route(broker: LocalBroker, topic: MakeTopic, tmp_path: Path) -> Callable[[int], Route]:
    """Make a topic of its own with so many partitions, and what both sides need to use it."""
    return lambda partitions: Route(broker.bootstrap, topic(partitions), tmp_path)


MakeRoute = Callable[[int], Route]


@pytest.mark.parametrize("partitions", [1, 4])
def test_what_we_send_in_v1_arrives_whole_at_1_8_8(
    them: peer.Peer, make_route: MakeRoute, tmp_path: Path, partitions: int
) -> None:
    """1.8.8 rebuilds every file we send with its own config file, also the names it would not send itself."""
    source = make_tree(tmp_path / "source", SIZES | NAMES_WITH_LOG)
    route = make_route(partitions)

    we_upload(route, source, route.config)
    they_download(them, route, tmp_path / "theirs", contents(source))

    assert contents(tmp_path / "theirs") == contents(source)


def test_what_we_send_with_9_fields_arrives_whole_at_1_8_8(
    them: peer.Peer, make_route: MakeRoute, tmp_path: Path
) -> None:
    """The form that 1.8.6 and older need is also taken by 1.8.8."""
    source = make_tree(tmp_path / "source", {"several.bin": SIZES["several chunks.bin"]})
    route = make_route(2)

    we_upload(route, source, route.config_for_9_fields)
    they_download(them, route, tmp_path / "theirs", contents(source))

    assert contents(tmp_path / "theirs") == contents(source)


@pytest.mark.parametrize("partitions", [1, 4])
def test_what_1_8_8_sends_arrives_whole_at_ours(
    them: peer.Peer, make_route: MakeRoute, tmp_path: Path, partitions: int
) -> None:
    """We rebuild every file of 1.8.8, whose chunks lie on all partitions, with its own config file."""
    source = make_tree(tmp_path / "source", SIZES)
    expected = contents(source)
    route = make_route(partitions)

    they_upload(them, route, source)
    with we_download(route, tmp_path / "ours") as running:
        wait_for_files(running, tmp_path / "ours", expected)

    assert contents(tmp_path / "ours") == expected


@pytest.mark.parametrize("partitions", [1, 4])
def test_both_formats_on_one_topic_arrive_in_one_folder(
    them: peer.Peer, make_route: MakeRoute, tmp_path: Path, partitions: int
) -> None:
    """1.8.8 and our v2 share a topic; one download of ours, started before both, takes all files of both."""
    from_them = make_tree(tmp_path / "from-them", SIZES, below="from 1.8.8")
    from_us = make_tree(tmp_path / "from-us", SIZES | NAMES_WITH_LOG, below="from 2.0")
    expected = contents(from_them) | contents(from_us)
    route = make_route(partitions)

    with we_download(route, tmp_path / "both") as running:
        they_upload(them, route, from_them)
        we_upload(route, from_us, route.config_for_v2)
        wait_for_files(running, tmp_path / "both", expected)

    assert contents(tmp_path / "both") == expected


@pytest.mark.parametrize("single", ["theirs", "ours"])
def test_a_single_file_goes_both_ways(them: peer.Peer, make_route: MakeRoute, tmp_path: Path, single: str) -> None:
    """``UploadDataFile`` with the same command line, theirs or ours: the other side gets the same file."""
    source = tmp_path / "scan 1.bin"
    source.write_bytes(bytes(range(256)) * 5_000)
    expected = {source.name: source.read_bytes()}
    route = make_route(1)
    our_command = shutil.which("UploadDataFile", path=str(Path(sys.executable).parent))
    assert our_command is not None

    command = them.command("UploadDataFile") if single == "theirs" else our_command
    done = subprocess.run(
        [command, str(source), "--config", str(route.config), "--topic_name", route.topic],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=30,
        env=peer.environment(),
    )
    assert done.returncode == 0, done.stdout + done.stderr

    if single == "theirs":
        with we_download(route, tmp_path / "got") as running:
            wait_for_files(running, tmp_path / "got", expected)
    else:
        they_download(them, route, tmp_path / "got", expected)
    assert contents(tmp_path / "got") == expected
