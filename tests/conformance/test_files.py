"""Readers, watchers and sinks: the fakes and the real ones keep the same promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from openmsistream.adapters.filesystem.reading import FolderReader
from openmsistream.adapters.filesystem.rules import DeliveryRules
from openmsistream.adapters.filesystem.sink import FolderSink
from openmsistream.adapters.filesystem.watching import FolderWatcher
from openmsistream.adapters.filesystem.writers import OpenWriters
from openmsistream.adapters.memory import MemoryFolder, MemorySink
from openmsistream.ports import Failure, FileReader, Sink, Watcher, Writers
from tests.conformance.suites_files import (
    ClosingWatcherSuite,
    FileReaderSuite,
    FolderSuite,
    HintingWatcherSuite,
    PollingWatcherSuite,
    SinkSuite,
    WritersSuite,
    kept_failure,
    key,
    publication,
)


class InMemory(FolderSuite):
    @pytest.fixture(autouse=True)
    def _folder(self):
        self.folder = MemoryFolder()

    def write(self, path: str, data: bytes, *, mtime_ns: int | None = None) -> None:
        self.folder.write(path, data, mtime_ns=mtime_ns)

    def remove(self, path: str) -> None:
        self.folder.remove(path)

    def rename(self, path: str, to: str) -> None:
        self.folder.rename(path, to)


class OnDisk(FolderSuite):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path):
        self.root = tmp_path / "root µ"
        self.root.mkdir()

    def write(self, path: str, data: bytes, *, mtime_ns: int | None = None) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_bytes(data)
        if mtime_ns is not None:
            os.utime(self.root / path, ns=(mtime_ns, mtime_ns))

    def remove(self, path: str) -> None:
        (self.root / path).unlink()

    def rename(self, path: str, to: str) -> None:
        (self.root / path).replace(self.root / to)


class TestMemoryReader(InMemory, FileReaderSuite):
    def reader(self) -> FileReader:
        return self.folder


class TestFolderReader(OnDisk, FileReaderSuite):
    def reader(self) -> FileReader:
        return FolderReader(self.root)

    @pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
    def test_a_symbolic_link_is_not_followed(self, tmp_path: Path):
        (tmp_path / "secret").write_bytes(b"secret")
        (self.root / "link").symlink_to(tmp_path / "secret")
        assert self.reader().stat("link") is None
        assert not [files for _, files in FolderWatcher(self.root, lambda _: None).scan() if files]


class TestFollowingFolderReader(OnDisk, FileReaderSuite):
    def reader(self) -> FileReader:
        return FolderReader(self.root, follow_symlinks=True)


class TestMemoryWatcher(InMemory, ClosingWatcherSuite):
    def watcher(self) -> Watcher:
        return self.folder

    def hide_root(self) -> None:
        self.folder.unreadable.add("")

    def write_and_close(self, path: str, data: bytes) -> None:
        self.folder.write(path, data, close=True)


class TestSilentMemoryWatcher(InMemory, PollingWatcherSuite):
    def watcher(self) -> Watcher:
        self.folder.silent = True
        return self.folder

    def hide_root(self) -> None:
        self.folder.unreadable.add("")


class OnDiskWatched(OnDisk):
    def hide_root(self) -> None:
        self.root.rename(self.root.with_name("elsewhere"))

    def write_and_close(self, path: str, data: bytes) -> None:
        self.write(path, data)


class TestPollingFolderWatcher(OnDiskWatched, PollingWatcherSuite):
    def watcher(self) -> Watcher:
        return FolderWatcher(self.root, lambda _: None, polling=True)


class TestFollowingFolderWatcher(OnDiskWatched, HintingWatcherSuite):
    def watcher(self) -> Watcher:
        return FolderWatcher(self.root, lambda _: None, follow_symlinks=True)


# With inotify below it, which the programs do not use, watchdog may watch a new folder twice, and warns of itself.
@pytest.mark.filterwarnings("ignore:Callback with id:RuntimeWarning")
class TestWatchdogFolderWatcher(OnDiskWatched, HintingWatcherSuite):
    def watcher(self) -> Watcher:
        return FolderWatcher(self.root, lambda _: None, by_watchdog=True)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of a close")
class TestInotifyFolderWatcher(OnDiskWatched, ClosingWatcherSuite):
    def watcher(self) -> Watcher:
        return FolderWatcher(self.root, lambda _: None)


class TestMemoryWriters(InMemory, WritersSuite):
    def writers(self) -> Writers:
        return self.folder

    def hold(self, path: str) -> None:
        self.folder.writers.add(path)

    def let_go(self, path: str) -> None:
        self.folder.writers.remove(path)


@pytest.mark.skipif(sys.platform not in ("linux", "win32"), reason="this system does not tell who holds a file open")
class TestOpenWriters(OnDisk, WritersSuite):
    @pytest.fixture(autouse=True)
    def _holders(self):
        self.holders: dict[str, subprocess.Popen[str]] = {}
        yield
        for path in list(self.holders):
            self.let_go(path)

    def writers(self) -> Writers:
        return OpenWriters(self.root)

    def hold(self, path: str) -> None:
        code = "import sys; file = open(sys.argv[1], 'r+b'); print('open', flush=True); sys.stdin.read()"
        holder = subprocess.Popen(
            [sys.executable, "-c", code, str(self.root / path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.holders[path] = holder
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"

    def let_go(self, path: str) -> None:
        self.holders.pop(path).communicate()


class TestMemorySink(SinkSuite):
    @pytest.fixture(autouse=True)
    def _sink(self):
        self.only = MemorySink()

    def make(self) -> Sink:
        return self.only

    def visible(self) -> dict[str, bytes]:
        return self.only.files

    def put(self, path: str, data: bytes) -> None:
        self.only.files[path] = data

    def remove(self, path: str) -> None:
        del self.only.files[path]

    def set_aside(self) -> list[tuple[bytes, str]]:
        return list(self.only.aside.values())

    def quarantined(self) -> list[tuple[int, int, bytes, str]]:
        return [(r.partition, r.offset, r.value or b"", reason) for _, r, reason in self.only.quarantined]

    def failure(self) -> Failure:
        (found,) = self.only.failures.values()
        return found


class TestFolderSink(SinkSuite):
    by_descriptor = True

    @pytest.fixture(autouse=True)
    def _root(self, tmp_path: Path):
        self.root = tmp_path / "out µ"

    def make(self) -> Sink:
        return FolderSink(self.root, by_descriptor=self.by_descriptor)

    def visible(self) -> dict[str, bytes]:
        files = [file for file in self.root.rglob("*") if file.is_file()]
        paths = {file.relative_to(self.root).as_posix(): file for file in files}
        return {path: file.read_bytes() for path, file in paths.items() if not path.startswith(".openmsistream/")}

    def put(self, path: str, data: bytes) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_bytes(data)

    def remove(self, path: str) -> None:
        (self.root / path).unlink()

    def notes(self) -> list[tuple[Path, dict[str, object]]]:
        found = sorted((self.root / ".openmsistream" / "quarantine").glob("*.json"))
        return [(note.with_suffix(""), json.loads(note.read_text(encoding="utf-8"))) for note in found]

    def set_aside(self) -> list[tuple[bytes, str]]:
        return [(file.read_bytes(), str(note["reason"])) for file, note in self.notes() if "version" in note]

    def quarantined(self) -> list[tuple[int, int, bytes, str]]:
        return [
            (note["partition"], note["offset"], file.with_name(f"{file.name}.value").read_bytes(), note["reason"])  # type: ignore[misc]
            for file, note in self.notes()
            if "version" not in note
        ]

    def failure(self) -> Failure:
        return kept_failure(self.root)

    @pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
    def test_a_link_in_the_output_folder_leads_nowhere(self, sink: Sink, tmp_path: Path):
        (tmp_path / "elsewhere").mkdir()
        (self.root / "link").symlink_to(tmp_path / "elsewhere")
        self.deliver_refused(sink, "link/a")
        assert list((tmp_path / "elsewhere").iterdir()) == []

    def deliver_refused(self, sink: Sink, path: str) -> None:
        sink.write(key(path), 0, b"data")
        assert list(sink.publish([publication(key(path), 4)])) == [key(path)]


class TestFolderSinkByPath(TestFolderSink):
    by_descriptor = False


class TestFolderSinkWithEveryRule(TestFolderSink):
    """The promises of a sink hold whatever else is asked of it."""

    def make(self) -> Sink:
        rules = DeliveryRules(keep_mtime=True)
        if os.name != "nt":
            rules = replace(rules, file_mode=0o640, folder_mode=0o750, owner=os.geteuid(), group=os.getegid())
        return FolderSink(self.root, rules=rules, names="refuse")
