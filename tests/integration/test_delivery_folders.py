"""Batches over many folders: few are open at once, and a name counts only when its folder was synced behind it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from openmsistream.adapters.filesystem import placing as placing_module
from openmsistream.adapters.filesystem.rules import Existing
from openmsistream.errors import StorageError
from openmsistream.ports import Publication
from tests.faults.typed import linux
from tests.integration.delivered import deliver, sink_on, version, visible, write

OPEN_FILES_LIMIT = 200  # macOS gives programs 256
SHAPES = {
    "beside each other": [f"{n}/a" for n in range(300)],
    "in one": [f"run/{n}/a" for n in range(300)],
    "inside each other": ["d/" * n + "a" for n in range(300)],
    "in turn": [f"{n % 100}/{n}" for n in range(300)],
    "very deep": ["d/" * 1800 + "a", "e/" * 1800 + "a"],
}


def files(paths: list[str]) -> list[tuple[Publication, bytes]]:
    return [version(path, path[-9:].encode(), number % 256) for number, path in enumerate(paths)]


@contextmanager
def few_descriptors() -> Iterator[None]:
    """This process may not have more files open than ``OPEN_FILES_LIMIT``."""
    import resource  # noqa: PLC0415 - not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES_LIMIT, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit, and no descriptors of folders")
@pytest.mark.parametrize("existing", [Existing.REPLACE, Existing.KEEP_BOTH])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_batch_over_more_folders_than_may_be_open_is_delivered(root: Path, shape: str, existing: Existing):
    """With a descriptor kept for each of them it would fail with EMFILE, and so would every further try."""
    paths = SHAPES[shape]
    with few_descriptors(), sink_on(root, existing=existing) as sink:
        batch = write(sink, *files(paths))
        assert sink.publish(batch) == {}
        assert [sink.where(each.key) for each in batch] == [f"{root}/{path}" for path in paths]
        deliver(sink, version("next/a", b"1"))
    subprocess.run(["rm", "-r", str(root)], check=True)  # deeper than Python removes a folder


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit, and no descriptors of folders")
def test_control_with_a_descriptor_for_each_folder_it_is_refused_again_and_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    """So the limit counts: the test above can fail."""
    monkeypatch.setattr(placing_module, "OPEN_FOLDERS", 1000)
    with few_descriptors(), sink_on(root) as sink:
        for publication, data in files(SHAPES["beside each other"]):
            sink.write(publication.key, 0, data)
        for _ in range(3):
            with pytest.raises(StorageError, match="Too many open files"):
                sink.publish([publication for publication, _ in files(SHAPES["beside each other"])])


class Disk:
    """What of the folders below a root would be there after a power cut: what they held when they were synced."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root, self.fails_at, self.calls = root, -1, 0
        self._kept: dict[str, set[str]] = {}
        patch.setattr(placing_module, "sync_folder", self._sync)

    def _sync(self, fd: int) -> None:
        self.calls += 1
        if self.calls == self.fails_at:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        folder = str(Path(f"/proc/self/fd/{fd}").readlink())
        self._kept[folder] = {each.name for each in Path(folder).iterdir()}

    def files(self) -> set[str]:
        """The files that would be there."""
        found, look = set(), [self.root]
        while look:
            folder = look.pop()
            for name in self._kept.get(str(folder), set()) - {".openmsistream"}:
                each = folder / name
                look += [each] if each.is_dir() else []
                found |= {each.relative_to(self.root).as_posix()} if each.is_file() else set()
        return found


@linux
@pytest.mark.parametrize("shape", ["beside each other", "in one", "inside each other", "in turn"])
@pytest.mark.parametrize("fails_at", [-1, 1, 40, 64, 100])
def test_every_name_is_safe_when_its_batch_was_published(
    root: Path, shape: str, fails_at: int, monkeypatch: pytest.MonkeyPatch
):
    """Also when a sync fails on the way, and the batch is published again: what was synced needs it no more."""
    disk = Disk(root, monkeypatch)
    disk.fails_at = fails_at
    batch = files(SHAPES[shape])
    with sink_on(root) as sink:
        for publication, data in batch:
            sink.write(publication.key, 0, data)
        wanted = [publication for publication, _ in batch]
        if fails_at > 0:
            with pytest.raises(StorageError, match="Input/output error"):
                sink.publish(wanted)
        assert sink.publish(wanted) == {}
        assert disk.files() == set(SHAPES[shape]) == visible(root).keys()

        calls = disk.calls
        deliver(sink, version("next/a", b"1"))
        assert disk.calls == calls + 2


@linux
def test_folders_that_were_synced_are_not_synced_again_with_the_rest(root: Path, monkeypatch: pytest.MonkeyPatch):
    """A disk that is full at the last of many folders must not make every further try as long as the first."""
    disk = Disk(root, monkeypatch)
    paths = SHAPES["beside each other"]
    batch = files(paths)
    with sink_on(root) as sink:
        for publication, data in batch:
            sink.write(publication.key, 0, data)
        wanted = [publication for publication, _ in batch]
        disk.fails_at = 290
        with pytest.raises(StorageError):
            sink.publish(wanted)
        before = disk.calls
        sink.publish(wanted)
        assert disk.calls - before < 2 * placing_module.OPEN_FOLDERS
    assert disk.files() == set(paths)
