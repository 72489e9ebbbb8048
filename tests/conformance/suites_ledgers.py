"""What every ``UploadLedger`` and ``DownloadLedger`` must do. An adapter's tests subclass these and give the parts."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod

import pytest

from openmsistream.core.assembly import OpenVersion
from openmsistream.core.chunk import HashName
from openmsistream.core.ranges import Ranges
from openmsistream.core.settle import Stat
from openmsistream.core.versions import VersionKey, VersionOrder, tag_of
from openmsistream.ports import Barrier, Delivered, DownloadLedger, Expired, Failed, Known, Parked, UploadLedger

STAT = Stat(10, 1_700_000_000_000_000_000, 7)
SEEN = Stat(10, 1_700_000_000_000_000_000)  # inodes are not remembered: they change when a disk is mounted again
NOT_UNICODE = b"run/caf\xe9".decode("utf-8", "surrogateescape")
PATHS = ["a", "run 1/b;c.csv", "run 1/deep/d", NOT_UNICODE]
PARKED = Parked("run/a", b"V" * 16, 5, SEEN, 524_288, 3, 100, 1_048_576, b"P" * 32, 1_700_000_000_000_000_000)


class UploadLedgerSuite(ABC):
    """Promises of ``ports.UploadLedger``."""

    @abstractmethod
    def make(self) -> UploadLedger:
        """A fresh ledger."""

    @pytest.fixture
    def ledger(self):
        made = self.make()
        yield made
        made.close()

    def test_an_uploader_has_an_identity_of_16_bytes(self, ledger: UploadLedger):
        assert len(ledger.src) == 16
        assert ledger.src == ledger.src

    def test_it_is_new_until_the_first_scan_is_done(self, ledger: UploadLedger):
        assert ledger.is_new
        ledger.first_scan_done()
        ledger.commit()
        assert not ledger.is_new

    def test_generations_always_grow(self, ledger: UploadLedger):
        gens = [ledger.next_gen(now) for now in (100, 100, 50, 0, 200, 199)]
        assert gens == sorted(set(gens))
        assert gens[4] >= 200

    def test_the_partition_count_is_kept_while_the_topic_grows(self, ledger: UploadLedger):
        assert ledger.partitions(3) == 3
        assert ledger.partitions(8) == 3
        assert ledger.partitions(2) == 2

    @pytest.mark.parametrize("path", PATHS)
    def test_what_was_sent_is_known(self, ledger: UploadLedger, path: str):
        assert ledger.known(path) is None
        ledger.record_sent(path, STAT, b"V" * 16, 1, b"D" * 32, 5)
        assert ledger.known(path) == Known(SEEN, b"D" * 32, sent=True)
        ledger.record_sent(path, Stat(11, 12), b"W" * 16, 2, b"E" * 32, 6)
        assert ledger.known(path) == Known(Stat(11, 12), b"E" * 32, sent=True)

    def test_what_was_there_at_the_first_start_is_known_and_not_sent(self, ledger: UploadLedger):
        ledger.record_existing("a", STAT)
        known = ledger.known("a")
        assert known is not None
        assert (known.stat, known.sent) == (SEEN, False)

    def test_a_touched_file_keeps_its_digest(self, ledger: UploadLedger):
        ledger.record_sent("a", STAT, b"V" * 16, 1, b"D" * 32, 5)
        ledger.record_same("a", Stat(10, 99))
        assert ledger.known("a") == Known(Stat(10, 99), b"D" * 32, sent=True)

    def test_a_folder_is_known_without_the_folders_below_it(self, ledger: UploadLedger):
        for path in ("a", "run/b", "run/c", "run/deep/d", "runner/e", NOT_UNICODE):
            ledger.record_existing(path, STAT)
        assert set(ledger.known_in("")) == {"a"}
        assert set(ledger.known_in("run")) == {"run/b", "run/c", NOT_UNICODE}
        assert set(ledger.known_in("run/deep")) == {"run/deep/d"}
        assert ledger.known_in("gone") == {}
        assert ledger.known_in("run")["run/b"] == ledger.known("run/b")

    def test_what_is_forgotten_is_not_known(self, ledger: UploadLedger):
        ledger.record_existing("run/a", STAT)
        ledger.forget("run/a")
        ledger.forget("never seen")
        assert ledger.known("run/a") is None
        assert ledger.known_in("run") == {}

    def test_a_version_under_way_is_kept_with_its_latest_progress(self, ledger: UploadLedger):
        ledger.record_open(dataclasses.replace(PARKED, acknowledged=0, first_offset=-1))
        ledger.record_open(PARKED)
        assert ledger.open_versions() == [PARKED]

    def test_versions_under_way_come_in_the_order_they_were_started(self, ledger: UploadLedger):
        for number, path in enumerate(PATHS):
            ledger.record_open(dataclasses.replace(PARKED, path=path, started_ns=100 - number))
        assert [parked.path for parked in ledger.open_versions()] == PATHS[::-1]

    def test_a_version_that_was_sent_or_dropped_is_no_longer_under_way(self, ledger: UploadLedger):
        ledger.record_open(PARKED)
        ledger.record_open(dataclasses.replace(PARKED, path="b"))
        ledger.record_sent("run/a", STAT, PARKED.version, 5, b"D" * 32, 6)
        ledger.drop_open("b", b"W" * 16)
        assert [parked.path for parked in ledger.open_versions()] == ["b"]
        ledger.drop_open("b", PARKED.version)
        ledger.drop_open("never seen")
        assert ledger.open_versions() == []

    def test_what_is_known_of_a_path_changes_at_once(self, ledger: UploadLedger):
        """However often it was asked for before, and in whatever order things are recorded."""
        ledger.record_existing("a", STAT)
        for mtime_ns in (1, 2, 3):
            assert ledger.known("a") == ledger.known("a")
            ledger.record_same("a", Stat(10, mtime_ns))
            assert ledger.known("a") == Known(Stat(10, mtime_ns), b"", sent=False)
        ledger.record_sent("a", STAT, b"V" * 16, 1, b"D" * 32, 5, "closed")
        assert ledger.known("a") == Known(SEEN, b"D" * 32, sent=True)
        ledger.forget("a")
        assert ledger.known("a") is None
        ledger.record_existing("a", STAT)
        assert ledger.known("a") == Known(SEEN, b"", sent=False)

    def test_more_paths_than_anybody_remembers_are_known(self, ledger: UploadLedger):
        for number in range(10_000):
            ledger.record_sent(f"run/{number}", Stat(number, 1), b"V" * 16, 1, b"D" * 32, 5)
        for _ in range(2):
            for number in range(10_000):
                known = ledger.known(f"run/{number}")
                assert known is not None
                assert known.stat == Stat(number, 1)
        assert len(ledger.known_in("run")) == 10_000

    def test_nothing_but_the_last_word_on_a_path_is_kept(self, ledger: UploadLedger):
        """Failing, sending and forgetting a path in any order is no error."""
        for path in PATHS:
            ledger.record_failed(Failed(path, f"{path}: no rights", 1, 5))
            ledger.record_failed(Failed(path, f"{path}: no rights", 2, 6))
            ledger.drop_failed(path)
            ledger.drop_failed(path)
            ledger.record_failed(Failed(path, "again", 3, 7))
            ledger.record_sent(path, STAT, b"V" * 16, 1, b"D" * 32, 5)
            assert ledger.known(path) == Known(SEEN, b"D" * 32, sent=True)
        ledger.record_live('{"pid": 1}')
        ledger.commit()


class DurableUploadLedgerSuite(UploadLedgerSuite):
    """What an upload ledger that outlives its program must do besides."""

    @abstractmethod
    def again(self, ledger: UploadLedger) -> UploadLedger:
        """Close it, and open it again."""

    def test_everything_is_there_after_a_restart(self):
        first = self.make()
        src, gen = first.src, first.next_gen(10**18)
        first.partitions(3)
        first.record_sent("a", STAT, b"V" * 16, 1, b"D" * 32, 5)
        first.record_open(PARKED)
        first.first_scan_done()
        second = self.again(first)

        assert (second.src, second.is_new, second.partitions(9)) == (src, False, 3)
        assert second.known("a") == Known(SEEN, b"D" * 32, sent=True)
        assert second.open_versions() == [PARKED]
        assert second.next_gen(0) > gen
        second.close()


def delivered(path: str, version: bytes = b"V" * 16, gen: int | None = 1) -> Delivered:
    order = VersionOrder(b"S" * 16 if gen is not None else None, gen, 123, 456)
    return Delivered(VersionKey(path, version), path, 10, b"D" * 32, order)


def opened(path: str, version: bytes = b"O" * 16) -> OpenVersion:
    return OpenVersion(
        VersionKey(path, version),
        HashName.BLAKE3,
        Ranges([(0, 4), (8, 12)]),
        20,
        b"D" * 32,
        {0: 7, 3: 9},
        1_700_000_000_000,
        123,
        b"S" * 16,
        5,
        "final name",
        "_append",
        9,
        1_700_000_000_001,
    )


def barrier(
    positions: dict[int, int] | None = None,
    done: list[Delivered] | None = None,
    finished: list[VersionKey] | None = None,
    still: list[OpenVersion] | None = None,
    expired: list[Expired] | None = None,
    revived: list[VersionKey] | None = None,
) -> Barrier:
    return Barrier(positions or {}, done or [], finished or [], still or [], expired or [], revived or [])


class DownloadLedgerSuite(ABC):
    """Promises of ``ports.DownloadLedger``."""

    @abstractmethod
    def make(self) -> DownloadLedger:
        """A fresh ledger."""

    @pytest.fixture
    def ledger(self):
        made = self.make()
        yield made
        made.close()

    def test_a_fresh_ledger_knows_nothing(self, ledger: DownloadLedger):
        assert ledger.position(0) is None
        assert ledger.current("a") is None
        assert ledger.open_versions() == []
        assert not ledger.is_finished(VersionKey("a", b"V" * 16))

    def test_positions_are_kept_by_partition(self, ledger: DownloadLedger):
        ledger.barrier(barrier({0: 5, 1: 9}))
        ledger.barrier(barrier({0: 7}))
        assert (ledger.position(0), ledger.position(1), ledger.position(2)) == (7, 9, None)

    @pytest.mark.parametrize("path", PATHS)
    def test_what_was_delivered_is_current_and_finished(self, ledger: DownloadLedger, path: str):
        ledger.barrier(barrier(done=[delivered(path)]))
        assert ledger.current(path) == delivered(path)
        assert ledger.is_finished(VersionKey(path, b"V" * 16))
        assert not ledger.is_finished(VersionKey(path, b"W" * 16))
        assert not ledger.is_finished(VersionKey("other", b"V" * 16))

    def test_the_last_delivered_version_of_a_path_is_current(self, ledger: DownloadLedger):
        first, second, third = (delivered("a", bytes([n]) * 64, gen=None) for n in (1, 2, 3))
        ledger.barrier(barrier(done=[first, second]))
        assert ledger.current("a") == second
        ledger.barrier(barrier(done=[third]))
        assert ledger.current("a") == third
        assert all(ledger.is_finished(version.key) for version in (first, second, third))

    def test_a_file_delivered_under_another_name_is_known_by_that_name(self, ledger: DownloadLedger):
        ledger.barrier(barrier(done=[dataclasses.replace(delivered("a.tmp"), path="a")]))
        assert ledger.current("a.tmp") is None
        current = ledger.current("a")
        assert current is not None
        assert current.key.path == "a.tmp"

    def test_a_version_given_up_is_finished_and_not_current(self, ledger: DownloadLedger):
        ledger.barrier(barrier(finished=[VersionKey("a", b"V" * 16)]))
        ledger.barrier(barrier(finished=[VersionKey("a", b"V" * 16)]))
        assert ledger.is_finished(VersionKey("a", b"V" * 16))
        assert ledger.current("a") is None

    def test_open_versions_come_back_with_everything_known_of_them(self, ledger: DownloadLedger):
        versions = [opened("a"), opened(NOT_UNICODE), OpenVersion(VersionKey("b", b"B" * 64), HashName.SHA512)]
        ledger.barrier(barrier(still=versions))
        found = {version.key: version for version in ledger.open_versions()}
        assert found == {version.key: version for version in versions}

    def test_versions_no_longer_listed_as_open_are_forgotten(self, ledger: DownloadLedger):
        ledger.barrier(barrier(still=[opened("a"), opened("b")]))
        ledger.barrier(barrier(still=[opened("b")]))
        assert [version.key.path for version in ledger.open_versions()] == ["b"]

    def test_a_version_that_was_open_at_a_barrier_and_ended_is_known_by_its_tag(self, ledger: DownloadLedger):
        """Those that were never open at a barrier are not: there are millions of them."""
        one, other, never = opened("a"), opened("b"), delivered("c")
        ledger.barrier(barrier(still=[one, other]))
        assert not ledger.has_ended(tag_of(one.key))
        ledger.barrier(barrier(done=[never], still=[other]))
        assert ledger.has_ended(tag_of(one.key))
        assert not ledger.has_ended(tag_of(other.key))
        assert not ledger.has_ended(tag_of(never.key))
        ledger.barrier(barrier(still=[one, other]))
        assert not ledger.has_ended(tag_of(one.key)), "it is open again"

    def test_expired_versions_are_kept_until_they_are_revived(self, ledger: DownloadLedger):
        """They have not ended; the longest expired comes first."""
        new, old, gone = Expired(opened("new"), 9), Expired(opened("old"), 5), Expired(opened("gone"), 7)
        ledger.barrier(barrier(still=[new.version, old.version, gone.version]))
        ledger.barrier(barrier(expired=[new, old, gone]))
        assert ledger.expired() == [old, gone, new]
        assert ledger.open_versions() == []
        assert not ledger.has_ended(tag_of(old.version.key))

        ledger.barrier(barrier(still=[old.version], revived=[old.version.key, gone.version.key]))

        assert ledger.expired() == [new]
        assert ledger.open_versions() == [old.version]
        assert ledger.has_ended(tag_of(gone.version.key))
        assert not ledger.has_ended(tag_of(old.version.key))

    def test_a_barrier_that_fails_leaves_nothing_behind(self, ledger: DownloadLedger):
        ledger.barrier(barrier({0: 5}, still=[opened("a")]))
        broken = barrier({0: 9}, done=[delivered("a")], still=[dataclasses.replace(opened("b"), size=object())])  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            ledger.barrier(broken)
        assert ledger.position(0) == 5
        assert ledger.current("a") is None
        assert [version.key.path for version in ledger.open_versions()] == ["a"]
        ledger.barrier(barrier({0: 10}))
        assert ledger.position(0) == 10


class DurableDownloadLedgerSuite(DownloadLedgerSuite):
    """What a download ledger that outlives its program must do besides."""

    @abstractmethod
    def again(self, ledger: DownloadLedger, topic_id: str | None = None) -> DownloadLedger:
        """Close it, and open it again, for the same topic or for another one of that id."""

    def test_everything_is_there_after_a_restart(self):
        first = self.make()
        first.barrier(barrier(still=[opened("ended")]))
        first.barrier(barrier({0: 5}, [delivered("a")], [VersionKey("b", b"B" * 16)], [opened("c")]))
        first.barrier(barrier(still=[opened("c")], expired=[Expired(opened("d"), 7)]))
        second = self.again(first)

        assert second.position(0) == 5
        assert second.current("a") == delivered("a")
        assert second.is_finished(VersionKey("b", b"B" * 16))
        assert second.open_versions() == [opened("c")]
        assert second.expired() == [Expired(opened("d"), 7)]
        assert second.has_ended(tag_of(opened("ended").key))
        second.barrier(barrier())
        assert second.has_ended(tag_of(opened("c").key)), "it was open before the restart"
        second.close()

    def test_positions_and_open_versions_of_another_topic_are_not_used(self):
        first = self.make()
        first.barrier(barrier(still=[opened("ended")], expired=[Expired(opened("d"), 7)]))
        first.barrier(barrier({0: 5}, [delivered("a")], [], [opened("c")]))
        second = self.again(first, "another topic")

        assert second.position(0) is None
        assert second.open_versions() == []
        assert second.expired() == []
        assert not second.has_ended(tag_of(opened("ended").key))
        assert second.current("a") == delivered("a")
        second.close()
