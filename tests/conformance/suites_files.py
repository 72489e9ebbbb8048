"""What every reader, watcher, ``Writers`` and ``Sink`` must do. Adapters' tests subclass these and give the parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3

from openmsistream.adapters.filesystem.quarantine import Quarantine
from openmsistream.core.chunk import HashName
from openmsistream.core.versions import VersionKey
from openmsistream.errors import ProtocolError, SourceError
from openmsistream.ports import Failure, FileReader, Hints, Publication, Record, Sink, Watcher, Writers
from tests.conformance.suites_kafka import wait_until


class FolderSuite(ABC):
    """A root whose files the test can change from outside; nested paths make their folders."""

    @abstractmethod
    def write(self, path: str, data: bytes, *, mtime_ns: int | None = None) -> None: ...

    @abstractmethod
    def remove(self, path: str) -> None: ...

    @abstractmethod
    def rename(self, path: str, to: str) -> None: ...


class FileReaderSuite(FolderSuite):
    """Promises of ``ports.FileReader`` and ``ports.OpenFile``."""

    @abstractmethod
    def reader(self) -> FileReader: ...

    def test_a_file_is_read_from_beginning_to_end(self):
        self.write("run 1/ü;b.csv", b"0123456789")
        file, buffer = self.reader().open("run 1/ü;b.csv"), bytearray(4)
        pieces = []
        while count := file.read_into(memoryview(buffer)):
            pieces.append(bytes(buffer[:count]))
        file.close()
        assert pieces == [b"0123", b"4567", b"89"]

    def test_reading_goes_on_where_it_is_set_to(self):
        self.write("a", b"0123456789")
        file, buffer = self.reader().open("a"), bytearray(3)
        file.seek(5)
        assert (file.read_into(memoryview(buffer)), bytes(buffer)) == (3, b"567")
        file.seek(0)
        assert (file.read_into(memoryview(buffer)), bytes(buffer)) == (3, b"012")
        file.close()

    def test_size_and_mtime_are_those_of_the_file(self):
        self.write("a", b"12345", mtime_ns=1_600_000_000_123_456_000)
        file = self.reader().open("a")
        assert (file.stat.size, file.stat.mtime_ns) == (5, 1_600_000_000_123_456_000)
        assert self.reader().stat("a") == file.stat
        file.close()

    def test_a_file_nobody_touches_is_unchanged(self):
        self.write("a", b"12345")
        file = self.reader().open("a")
        file.read_into(memoryview(bytearray(5)))
        assert file.unchanged()
        file.close()

    @pytest.mark.parametrize("what", ["longer", "later", "removed", "replaced"])
    def test_a_file_that_changed_behind_our_back_is_noticed(self, what: str):
        self.write("a", b"12345", mtime_ns=10**18)
        file = self.reader().open("a")
        if what == "longer":
            self.write("a", b"123456", mtime_ns=10**18)
        elif what == "later":
            self.write("a", b"54321", mtime_ns=10**18 + 10**9)
        elif what == "removed":
            self.remove("a")
        else:
            self.write("b", b"54321", mtime_ns=10**18)
            self.rename("b", "a")
        assert not file.unchanged()
        file.close()

    def test_an_open_file_shows_how_it_grows_whatever_it_is_called_by_then(self):
        self.write("a.tmp", b"12345", mtime_ns=10**18)
        file = self.reader().open("a.tmp")
        assert file.look() == file.stat
        self.rename("a.tmp", "a")
        self.write("a", b"1234567", mtime_ns=10**18 + 10**9)
        assert (file.look().size, file.look().mtime_ns) == (7, 10**18 + 10**9)
        assert (file.look().inode, file.stat.size) == (file.stat.inode, 5)
        file.close()

    def test_a_closed_file_has_no_looks(self):
        self.write("a", b"1")
        file = self.reader().open("a")
        file.close()
        with pytest.raises(SourceError, match="a: it cannot be read"):
            file.look()

    def test_what_is_not_there_cannot_be_opened_and_has_no_looks(self):
        with pytest.raises(SourceError, match="gone"):
            self.reader().open("gone")
        assert self.reader().stat("gone") is None

    def test_a_folder_is_no_file(self):
        self.write("folder/a", b"1")
        assert self.reader().stat("folder") is None
        with pytest.raises(SourceError):
            self.reader().open("folder")

    def test_closing_twice_is_harmless(self):
        self.write("a", b"1")
        file = self.reader().open("a")
        file.close()
        file.close()
        assert self.reader().stat("a") is not None


class WatcherSuite(FolderSuite):
    """Promises of ``ports.Watcher``."""

    @abstractmethod
    def watcher(self) -> Watcher: ...

    @abstractmethod
    def hide_root(self) -> None:
        """The root cannot be listed any more, e.g. because it was unmounted."""

    def scanned(self, folder: str = "") -> dict[str, dict[str, int]]:
        return {here: {path: stat.size for path, stat in files} for here, files in self.watcher().scan(folder)}

    def test_a_scan_finds_every_file_once_by_folder(self):
        for path in ("a", "run 1/b", "run 1/deep/c", "z;ü"):
            self.write(path, b"x" * len(path))
        assert self.scanned() == {
            "": {"a": 1, "z;ü": 3},
            "run 1": {"run 1/b": 7},
            "run 1/deep": {"run 1/deep/c": 12},
        }

    def test_a_scan_of_a_folder_finds_what_is_below_it(self):
        for path in ("a", "run/b", "run/deep/c", "runner/d"):
            self.write(path, b"1")
        assert self.scanned("run") == {"run": {"run/b": 1}, "run/deep": {"run/deep/c": 1}}

    def test_parents_come_before_their_folders(self):
        self.write("x/y/z", b"1")
        assert list(self.scanned()) == ["", "x", "x/y"]

    def test_a_root_that_cannot_be_listed_is_an_error_and_not_an_empty_folder(self):
        self.write("a", b"1")
        self.hide_root()
        with pytest.raises(SourceError, match="cannot be listed"):
            self.scanned()

    def test_a_folder_that_is_gone_is_an_error(self):
        with pytest.raises(SourceError):
            self.scanned("nothing here")

    def test_what_came_since_the_start_is_hinted_by_the_first_scan(self):
        """Hints of the system may come later, or never; what the scan finds must not be taken for old."""
        watcher = self.watcher()
        watcher.start()
        try:
            self.write("new", b"1")
            self.write("run/new", b"1")
            found: set[str] = set()
            for _ in watcher.scan():
                found |= watcher.hints().files
            found |= watcher.hints().files
            assert found >= {"new", "run/new"}
        finally:
            watcher.stop()

    def test_stopping_twice_and_without_a_start_is_harmless(self):
        watcher = self.watcher()
        watcher.stop()
        watcher.start()
        watcher.stop()
        watcher.stop()
        assert not watcher.hints().everything


class PollingWatcherSuite(WatcherSuite):
    """Promises of a watcher that has no hints to give."""

    def test_there_are_no_hints_but_of_the_first_scan_and_each_finds_what_came(self):
        watcher = self.watcher()
        watcher.start()
        try:
            self.write("new", b"1")
            watcher.wait(0.05)
            assert watcher.polls
            assert watcher.hints() == Hints()
            assert [files[0][0] for _, files in watcher.scan()] == ["new"]
            assert watcher.hints().files == {"new"}
            self.write("new", b"2")
            assert [files[0][0] for _, files in watcher.scan()] == ["new"]
            assert watcher.hints() == Hints()
        finally:
            watcher.stop()


class HintingWatcherSuite(WatcherSuite):
    """Promises of a watcher on a root that gives hints."""

    @abstractmethod
    def write_and_close(self, path: str, data: bytes) -> None:
        """Write a file as a program does that opens, writes and closes it."""

    def test_what_happens_after_the_start_is_hinted_once(self):
        self.write("before", b"1")
        watcher = self.watcher()
        watcher.start()
        try:
            self.write("new", b"1")
            found: set[str] = set()

            def look() -> None:
                watcher.wait(0.2)
                found.update(watcher.hints().files)

            wait_until(lambda: "new" in found, look)
        finally:
            watcher.stop()
        watcher.hints()
        assert watcher.hints().files == frozenset()
        assert not watcher.hints().everything

    def test_a_rename_hints_the_new_name(self):
        self.write("a.tmp", b"1")
        watcher, found = self.watcher(), set[str]()
        watcher.start()
        try:
            self.rename("a.tmp", "a")

            def look() -> None:
                watcher.wait(0.2)
                found.update(watcher.hints().files)

            wait_until(lambda: "a" in found, look)
        finally:
            watcher.stop()

    def hinted(self, watcher: Watcher, act: Callable[[], None], done: Callable[[Hints], bool]) -> None:
        """Act while the watcher runs, until what it hinted in one go is what was waited for."""
        watcher.start()
        held: list[Hints] = []

        def look() -> None:
            watcher.wait(0.2)
            held.append(watcher.hints())

        try:
            act()
            wait_until(lambda: any(done(hints) for hints in held), look)
        finally:
            watcher.stop()

    def test_a_root_that_gives_hints_needs_no_polling(self):
        watcher = self.watcher()
        watcher.start()
        assert not watcher.polls
        watcher.stop()

    def test_a_rename_hints_the_name_before_it(self):
        self.write("a.tmp", b"1")
        self.hinted(
            self.watcher(),
            lambda: self.rename("a.tmp", "a"),
            lambda hints: hints.renamed == {"a": "a.tmp"} and {"a", "a.tmp"} <= hints.files,
        )

    def test_a_folder_that_comes_with_a_file_is_hinted_or_its_file_is(self):
        self.hinted(
            self.watcher(),
            lambda: self.write("run/deep/a", b"1"),
            lambda hints: "run" in hints.folders or "run/deep/a" in hints.files,
        )


class ClosingWatcherSuite(HintingWatcherSuite):
    """Promises of a watcher whose system tells when a file is closed."""

    def test_a_file_that_was_written_and_closed_is_hinted_as_closed(self):
        self.hinted(
            self.watcher(),
            lambda: self.write_and_close("a", b"1"),
            lambda hints: "a" in hints.closed and "a" in hints.files,
        )


class WritersSuite(FolderSuite):
    """Promises of ``ports.Writers``."""

    @abstractmethod
    def writers(self) -> Writers: ...

    @abstractmethod
    def hold(self, path: str) -> None:
        """Another program holds the file open for writing from now on."""

    @abstractmethod
    def let_go(self, path: str) -> None:
        """It closes the file."""

    def test_nobody_holds_a_file_that_was_just_put_there(self):
        self.write("a", b"1")
        assert self.writers().holding(["a"]) == frozenset()

    def test_who_holds_a_file_open_for_writing_is_seen_until_it_is_closed(self):
        self.write("a", b"1")
        self.write("run/b", b"1")
        self.hold("run/b")
        writers = self.writers()
        assert writers.holding(["a", "run/b"]) == {"run/b"}
        assert writers.holding(["run/b"]) == {"run/b"}
        self.let_go("run/b")
        wait_until(lambda: writers.holding(["a", "run/b"]) == frozenset(), lambda: None)

    def test_a_file_that_is_gone_is_held_by_nobody(self):
        assert self.writers().holding(["gone"]) == frozenset()


def key(path: str = "a", version: bytes = b"V" * 16) -> VersionKey:
    return VersionKey(path, version)


def publication(of: VersionKey, size: int, path: str | None = None) -> Publication:
    return Publication(of, path or of.path, size, None)


def kept_failure(root: Path) -> Failure:
    """What the only version in quarantine below a folder says of its failure."""
    (entry,) = [entry for entry in Quarantine(root).entries() if entry.is_file]
    return Failure(
        entry.topic,
        entry.partition,
        entry.offset,
        entry.path,
        entry.when_ns,
        entry.mtime_ns,
        entry.hash_name or HashName.BLAKE3,
        entry.digest or b"",
        entry.found or b"",
    )


class SinkSuite(ABC):
    """Promises of ``ports.Sink``."""

    @abstractmethod
    def make(self) -> Sink:
        """A sink on the same destination each time."""

    @abstractmethod
    def visible(self) -> dict[str, bytes]:
        """The files a user sees."""

    @abstractmethod
    def put(self, path: str, data: bytes) -> None:
        """Somebody else puts a file there."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Somebody else removes a file."""

    @abstractmethod
    def set_aside(self) -> list[tuple[bytes, str]]:
        """Content and reason of each version in quarantine."""

    @abstractmethod
    def quarantined(self) -> list[tuple[int, int, bytes, str]]:
        """Partition, offset, value and reason of each record in quarantine."""

    @abstractmethod
    def failure(self) -> Failure:
        """What is known of the only version in quarantine."""

    @pytest.fixture
    def sink(self):
        made = self.make()
        yield made
        made.close()

    def deliver(self, sink: Sink, of: VersionKey, data: bytes, path: str | None = None) -> None:
        sink.write(of, 0, data)
        sink.sync([of])
        assert sink.publish([publication(of, len(data), path)]) == {}

    def test_bytes_are_invisible_until_they_are_published_and_whole_then(self, sink: Sink):
        sink.write(key(), 4, b"4567")
        sink.write(key(), 0, memoryview(bytearray(b"0123")))
        sink.sync([key()])
        assert self.visible() == {}
        assert sink.publish([publication(key(), 8)]) == {}
        assert self.visible() == {"a": b"01234567"}

    def test_names_of_all_kinds_get_their_folders(self, sink: Sink):
        names = ["a b/ü;ß.csv", "deep/er/and/deeper", "deep/er2", "noext"]
        for number, name in enumerate(names):
            sink.write(key(name, bytes([number]) * 16), 0, name.encode())
        sink.publish([publication(key(n, bytes([i]) * 16), len(n.encode())) for i, n in enumerate(names)])
        assert self.visible() == {name: name.encode() for name in names}

    def test_the_final_path_may_differ_from_the_announced_one(self, sink: Sink):
        self.deliver(sink, key("a.tmp"), b"data", path="a")
        assert self.visible() == {"a": b"data"}

    def test_an_empty_file_is_published(self, sink: Sink):
        self.deliver(sink, key(), b"")
        assert self.visible() == {"a": b""}

    def test_a_newer_version_replaces_an_older_one_in_the_order_given(self, sink: Sink):
        old, new = key(version=b"1" * 16), key(version=b"2" * 16)
        sink.write(new, 0, b"new")
        sink.write(old, 0, b"older")
        assert sink.publish([publication(old, 5), publication(new, 3)]) == {}
        assert self.visible() == {"a": b"new"}

    def test_a_batch_that_is_published_again_changes_nothing(self, sink: Sink):
        keys = [key("a", b"1" * 16), key("run/b", b"2" * 16)]
        for one in keys:
            sink.write(one, 0, b"data")
        batch = [publication(one, 4) for one in keys]
        assert sink.publish(batch) == {}
        sink.sync(keys)
        assert sink.publish(batch) == {}
        assert self.visible() == {"a": b"data", "run/b": b"data"}

    def test_a_version_whose_file_was_removed_can_come_again(self, sink: Sink):
        self.deliver(sink, key(), b"data")
        self.remove("a")
        assert self.visible() == {}
        self.deliver(sink, key(), b"data")
        assert self.visible() == {"a": b"data"}

    def test_what_stands_is_told_by_size_and_by_content(self, sink: Sink):
        self.put("run/a", b"data")
        assert sink.stands("run/a", 4)
        assert not sink.stands("run/a", 5)
        assert not sink.stands("run", 4)
        assert sink.holds("run/a", 4, HashName.BLAKE3, blake3(b"data").digest())
        assert not sink.holds("run/a", 4, HashName.BLAKE3, blake3(b"atad").digest())
        assert not sink.holds("../a", 4, HashName.BLAKE3, blake3(b"data").digest())

    def test_written_bytes_can_be_read_again_in_any_part(self, sink: Sink):
        sink.write(key(), 0, b"0123456789")
        assert b"".join(bytes(piece) for piece in sink.read(key(), 0, 10)) == b"0123456789"
        assert b"".join(bytes(piece) for piece in sink.read(key(), 3, 7)) == b"3456"
        assert b"".join(bytes(piece) for piece in sink.read(key(), 5, 5)) == b""

    def test_versions_of_one_path_do_not_mix(self, sink: Sink):
        one, two = key(version=b"1" * 16), key(version=b"2" * 16)
        sink.write(one, 0, b"111")
        sink.write(two, 0, b"2")
        assert b"".join(bytes(piece) for piece in sink.read(one, 0, 3)) == b"111"
        self.deliver(sink, two, b"2")
        assert self.visible() == {"a": b"2"}

    def test_many_versions_are_kept_open_at_once(self, sink: Sink):
        keys = [key(f"{number}", number.to_bytes(16, "big")) for number in range(150)]
        for part in (b"left", b"rite"):
            for one in keys:
                sink.write(one, 0 if part == b"left" else 4, part)
        sink.sync(keys)
        assert sink.publish([publication(one, 8) for one in keys]) == {}
        assert self.visible() == {one.path: b"leftrite" for one in keys}

    @pytest.mark.parametrize("path", ["../up", "/abs", "a/../../b", ".openmsistream/x", "nul"])
    def test_a_path_that_may_not_be_fails_alone(self, sink: Sink, path: str):
        bad, good = key("bad", b"1" * 16), key("good", b"2" * 16)
        sink.write(bad, 0, b"bad")
        sink.write(good, 0, b"good")
        failed = sink.publish([publication(bad, 3, path), publication(good, 4)])
        assert list(failed) == [bad]
        assert isinstance(failed[bad], ProtocolError)
        assert self.visible() == {"good": b"good"}

    @pytest.mark.parametrize(("there", "wanted"), [("a", "a/b"), ("a/b", "a")])
    def test_a_file_or_folder_in_the_way_fails_alone(self, sink: Sink, there: str, wanted: str):
        self.put(there, b"there")
        bad, good = key("bad", b"1" * 16), key("good", b"2" * 16)
        sink.write(bad, 0, b"bad")
        sink.write(good, 0, b"good")
        assert list(sink.publish([publication(bad, 3, wanted), publication(good, 4)])) == [bad]
        assert self.visible() == {there: b"there", "good": b"good"}
        sink.set_aside(bad, "in the way")
        assert self.set_aside() == [(b"bad", "in the way")]

    def test_a_batch_may_be_synced_and_published_again(self, sink: Sink):
        """When the ledger failed behind it, the whole barrier is made again; what stands must stay what it is."""
        one, two = key("one", b"1" * 16), key("two", b"2" * 16)
        sink.write(one, 0, b"one")
        sink.write(two, 0, b"two!")
        batch = [publication(one, 3), publication(two, 4)]
        for _ in range(2):
            sink.sync([one, two])
            assert sink.publish(batch) == {}
        assert self.visible() == {"one": b"one", "two": b"two!"}

    def test_what_stands_is_known_by_size_and_by_content(self, sink: Sink):
        self.deliver(sink, key("run/a"), b"data")
        digest = blake3(b"data").digest()
        assert sink.stands("run/a", 4)
        assert not sink.stands("run/a", 5)
        assert not sink.stands("run", 4)
        assert not sink.stands("gone", 4)
        assert sink.holds("run/a", 4, HashName.BLAKE3, digest)
        assert not sink.holds("run/a", 4, HashName.BLAKE3, b"D" * 32)
        assert not sink.holds("run/a", 5, HashName.BLAKE3, digest)
        assert not sink.holds("gone", 4, HashName.BLAKE3, digest)

    def test_discarded_bytes_are_gone_and_discarding_nothing_is_harmless(self, sink: Sink):
        sink.write(key(), 0, b"data")
        sink.discard(key())
        sink.discard(key("never seen"))
        assert sink.restore([key()]) == set()
        assert self.visible() == {}

    def test_a_version_is_set_aside_with_its_reason(self, sink: Sink):
        sink.write(key(), 0, b"data")
        sink.set_aside(key(), "its hash is wrong")
        assert self.set_aside() == [(b"data", "its hash is wrong")]
        assert sink.restore([key()]) == set()
        assert self.visible() == {}

    @pytest.mark.parametrize("path", ["scan.dat", "run/\udcff ü.dat"])
    def test_what_is_known_of_a_version_that_is_set_aside_is_kept(self, sink: Sink, path: str):
        """Where its record stands, when it failed, both digests, and the path it was to have, byte for byte."""
        failure = Failure(
            topic="xrd",
            partition=3,
            offset=2**40,
            path=path,
            at_ns=1_700_000_000_123_456_789,
            mtime_ns=-1_500_000_000,
            hash_name=HashName.SHA512,
            expected=b"E" * 64,
            found=b"F" * 64,
        )
        sink.write(key("scan.tmp"), 0, b"data")
        sink.set_aside(key("scan.tmp"), "its hash is wrong", failure)
        assert self.set_aside() == [(b"data", "its hash is wrong")]
        assert self.quarantined() == []
        assert self.failure() == failure

    def test_a_record_is_quarantined_once_however_often_it_is_read(self, sink: Sink):
        record = Record(3, 14, 1_700_000_000_000, b"key", b"\x00junk", [("h", b"v"), ("n", None)])
        sink.quarantine("topic", record, "not a chunk")
        sink.quarantine("topic", record, "not a chunk")
        sink.quarantine("topic", Record(3, 15, 0, None, None, None), "a tombstone")
        assert sorted(self.quarantined()) == [
            (3, 14, b"\x00junk", "not a chunk"),
            (3, 15, b"", "a tombstone"),
        ]
        assert self.visible() == {}

    def test_a_new_sink_finds_the_known_versions_and_removes_the_others(self):
        one, two = key("one", b"1" * 16), key("two", b"2" * 16)
        first = self.make()
        first.write(one, 0, b"1111")
        first.write(two, 0, b"2222")
        first.sync([one, two])
        first.close()

        second = self.make()
        assert second.restore([one, key("never seen", b"3" * 16)]) == {one}
        assert second.restore([one, two]) == {one}
        second.write(one, 4, b"1")
        second.sync([one])
        assert second.publish([publication(one, 5)]) == {}
        second.close()
        assert self.visible() == {"one": b"11111"}

    def test_a_version_removed_by_restore_can_be_written_from_its_start(self, sink: Sink):
        sink.write(key(), 0, b"old bytes")
        sink.restore([])
        self.deliver(sink, key(), b"new")
        assert self.visible() == {"a": b"new"}
