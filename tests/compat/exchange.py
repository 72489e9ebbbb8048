"""What the exchange tests are made of: trees of files, our programs and the peer's moving them, comparing.

Knows command lines, folders and the number of records on a topic; not how any program works inside.
Every wait has a deadline, and no process outlives its ``with`` block.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

from openmsistream.errors import UnavailableError
from tests.compat import peer

GOLDEN_TREE = Path(__file__).parents[1] / "data" / "golden" / "tree"
CHUNK_BYTES = 524_288
# One transfer of the whole tree takes about a second; the peer needs some more to start and to end.
TRANSFER_SECONDS = 40.0
_OUR_FOLDER = ".openmsistream"

SIZES = {
    "exact multiple.bin": 2 * CHUNK_BYTES,
    "several chunks.bin": 3 * CHUNK_BYTES + 17,
    "one chunk and a byte.bin": CHUNK_BYTES + 1,
    "run 02/deep/er/large (20 MB).raw": 20_000_000,
    "run 02/deep/spektrum_Å;ß'[1]#%.txt": 10_000,
    "run 02/no suffix at all": 1_000,
    "run 02/two.dots.tar.gz": 1_000,
}
# The peer never sends a name with "log" in it (its default regex); it takes one that we send.
NAMES_WITH_LOG = {"catalog.csv": 2_000, "run 02/dialog_1.csv": CHUNK_BYTES, "prologue/x.dat": 1}


@dataclass(frozen=True)
class Route:
    """
    One topic of a broker, and what both sides need to use it.

    Attributes:
        bootstrap: The broker's address.
        topic: The topic's name.
        work: A folder for config files, ledgers and what the programs print.
    """

    bootstrap: str
    topic: str
    work: Path

    @property
    def config(self) -> Path:
        """A config file of 1.x, used unchanged by both sides; it makes us write format v1."""
        return peer.write_config(self.work / "lab.config", self.bootstrap)

    @property
    def config_for_9_fields(self) -> Path:
        """The same, with the one key of ours that makes us write what 1.8.6 and older take."""
        path = self.work / "nine.config"
        text = self.config.read_text(encoding="utf-8")
        path.write_text(text.replace("[producer]", "[producer]\nvalue.serializer.fields = 9"), encoding="utf-8")
        return path

    @property
    def config_for_v2(self) -> Path:
        """A config file that names no serializer: we write format v2."""
        path = self.work / "lab-v2.config"
        path.write_text(f"[broker]\nbootstrap.servers = {self.bootstrap}\n", encoding="utf-8")
        return path

    def records(self) -> int:
        """How many records the topic holds now."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "counts-records"})
        try:
            partitions = consumer.list_topics(self.topic, timeout=10).topics[self.topic].partitions
            places = [TopicPartition(self.topic, number) for number in partitions]
            marks = [consumer.get_watermark_offsets(place, timeout=10) for place in places]
            return sum(high - low for low, high in marks)
        finally:
            consumer.close()


def make_tree(root: Path, sizes: dict[str, int], *, below: str = "") -> Path:
    """
    Fill a folder with the golden tree and files of random bytes, and return it.

    None of them is empty: the peer sends nothing for an empty file, and a record that stands for one
    (which is what we send) it cannot turn into a file.

    Args:
        root: The folder to make.
        sizes: Relative path and size in bytes of each further file.
        below: A folder inside ``root`` that all of it goes into.
    """
    folder = root / below
    shutil.copytree(GOLDEN_TREE, folder)
    generator = random.Random(1)
    for name, size in sizes.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(generator.randbytes(size))
    assert all(content for content in contents(root).values())
    return root


def contents(root: Path) -> dict[str, bytes]:
    """Every file below a folder by its relative path, without what the programs keep there for themselves."""
    unwanted = {_OUR_FOLDER, "LOGS", *peer.DOWNLOAD_EXTRAS}
    paths = [path for path in root.rglob("*") if path.is_file()]
    relative = [path.relative_to(root) for path in paths]
    return {path.as_posix(): (root / path).read_bytes() for path in relative if path.parts[0] not in unwanted}


def chunk_count(root: Path) -> int:
    """How many records a tree without empty files makes."""
    return sum(-(-len(content) // CHUNK_BYTES) for content in contents(root).values())


def we_upload(route: Route, folder: Path, config: Path) -> None:
    """Send everything in a folder with our ``watch --once``, which ends when all of it is acknowledged."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "openmsistream", "watch", str(folder), "--once"),
            *("--config", str(config), "--topic_name", route.topic, "--watchdog_lag_time", "0"),
            *("--progress", "none", "--state_dir", str(route.work / "state-watch")),
        ],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=TRANSFER_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def we_download(route: Route, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run our ``download`` into a folder; at the end of the block it is asked to end, and must do it well."""
    log = route.work / "our-download.txt"
    with log.open("wb") as output:
        running = subprocess.Popen(
            [
                *(sys.executable, "-m", "openmsistream", "download", str(folder)),
                *("--config", str(route.config), "--topic_name", route.topic),
                *("--progress", "none", "--state_dir", str(route.work / "state-download")),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield running
        running.send_signal(signal.SIGTERM)
        code = running.wait(TRANSFER_SECONDS)
    finally:
        running.kill()
        running.wait(TRANSFER_SECONDS)
    assert code == 0, log.read_text(encoding="utf-8", errors="replace")


def they_upload(them: peer.Peer, route: Route, folder: Path) -> None:
    """Send everything in a folder with the peer; return when all of its chunks are on the topic."""
    expected = route.records() + chunk_count(folder)
    arguments = (folder, "--config", route.config, "--topic_name", route.topic, "--upload_existing")
    with them.start(
        "DataFileUploadDirectory", *arguments, "--watchdog_lag_time", "0", log=route.work / "their-upload.txt"
    ) as running:
        _wait_for(running, lambda: route.records() >= expected, f"{expected} records on the topic")
        assert running.quit() == 0, running.text()
    assert route.records() == expected


def they_download(them: peer.Peer, route: Route, folder: Path, expected: dict[str, bytes]) -> None:
    """Receive with the peer until a folder holds files of the expected names and sizes."""
    arguments = (folder, "--config", route.config, "--topic_name", route.topic)
    with them.start("DataFileDownloadDirectory", *arguments, log=route.work / "their-download.txt") as running:
        _wait_for(running, lambda: _sizes(folder) == sizes(expected), f"{len(expected)} files in {folder}")
        assert running.quit() == 0, running.text()
        printed = running.text()
    # It counts a file only when the hash of the whole is right.
    files = "1 file was" if len(expected) == 1 else f"{len(expected)} files were"
    assert f"{files} successfully reconstructed" in printed, printed


def wait_for_files(running: subprocess.Popen[bytes], folder: Path, expected: dict[str, bytes]) -> None:
    """Return when a folder holds files of the expected names and sizes, or our program has ended."""

    def settled() -> bool:
        return running.poll() is not None or _sizes(folder) == sizes(expected)

    peer.wait_until(f"{len(expected)} files in {folder}", settled, TRANSFER_SECONDS)


def sizes(expected: dict[str, bytes]) -> dict[str, int]:
    """The size of every file."""
    return {path: len(content) for path, content in expected.items()}


def _sizes(folder: Path) -> dict[str, int]:
    return sizes(contents(folder)) if folder.is_dir() else {}


def _wait_for(running: peer.PeerProgram, condition: Callable[[], bool], what: str) -> None:
    try:
        peer.wait_until(what, lambda: not running.is_alive() or condition(), TRANSFER_SECONDS)
    except UnavailableError as error:
        raise AssertionError(f"{error}; the peer said: {running.text()}") from error
    assert running.is_alive(), running.text()
