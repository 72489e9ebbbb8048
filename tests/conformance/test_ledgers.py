"""Ledgers: in memory and in a file they keep the same promises."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from openmsistream.adapters.sqlite.downloads import SqliteDownloadLedger
from openmsistream.adapters.sqlite.lookup import FileRow, LedgerTotals, UploadLedgerView, ledgers, open_read_only
from openmsistream.adapters.sqlite.uploads import SqliteUploadLedger
from openmsistream.core.settle import Stat
from openmsistream.errors import ConfigError
from openmsistream.ports import DownloadLedger, Failed, UploadLedger
from tests.conformance.suites_ledgers import (
    NOT_UNICODE,
    PARKED,
    PATHS,
    STAT,
    DownloadLedgerSuite,
    DurableDownloadLedgerSuite,
    DurableUploadLedgerSuite,
    UploadLedgerSuite,
)

TOPIC = "cluster/topic"


class TestUploadLedgerInMemory(UploadLedgerSuite):
    def make(self) -> UploadLedger:
        return SqliteUploadLedger(":memory:", os.urandom)


class TestUploadLedgerInAFile(DurableUploadLedgerSuite):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path):
        self.file = tmp_path / "new folder µ" / "ledger.sqlite"

    def make(self) -> UploadLedger:
        return SqliteUploadLedger(self.file, os.urandom)

    def again(self, ledger: UploadLedger) -> UploadLedger:
        ledger.close()
        return self.make()

    def looked_at(self, ledger: UploadLedger) -> UploadLedgerView:
        ledger.commit()
        return open_read_only(self.file)

    def test_a_second_program_is_refused_while_the_first_runs(self, ledger: UploadLedger):
        with pytest.raises(ConfigError, match="running already"):
            self.make()
        assert ledger.is_new

    @pytest.mark.parametrize("path", PATHS)
    def test_who_looks_in_sees_why_a_file_failed_until_it_no_longer_does(self, ledger: UploadLedger, path: str):
        ends = {
            "sent": lambda: ledger.record_sent(path, STAT, b"V" * 16, 1, b"D" * 32, 5),
            "same": lambda: ledger.record_same(path, STAT),
            "forgotten": lambda: ledger.forget(path),
            "gone": lambda: ledger.drop_failed(path),
        }
        with self.looked_at(ledger) as view:
            for end in ends.values():
                ledger.record_failed(Failed(path, "no rights", 1, 5))
                ledger.record_failed(Failed(path, "still no rights", 2, 6))
                ledger.commit()
                assert view.failed() == view.failed(path) == [Failed(path, "still no rights", 2, 6)]
                end()
                ledger.commit()
                assert view.failed() == view.failed(path) == []

    def test_failures_are_remembered_over_a_restart(self):
        first = self.make()
        first.record_failed(Failed("a", "no rights", 2, 6))
        second = self.again(first)
        with self.looked_at(second) as view:
            assert view.failed() == [Failed("a", "no rights", 2, 6)]
            second.drop_failed("a")
            second.commit()
            assert view.failed() == []
        second.close()

    def test_who_looks_in_sees_everything_that_was_committed(self, ledger: UploadLedger):
        """While the program runs, as it is at each moment."""
        with self.looked_at(ledger) as view:
            assert (view.totals(), view.live(), view.running()) == (LedgerTotals(0, 0, 0, 0), None, True)
            for number, path in enumerate(PATHS, start=1):
                ledger.record_sent(path, Stat(10, number), b"V" * 16, 1, b"D" * 32, number, "closed, quiet")
            ledger.record_existing("old", STAT)
            ledger.record_open(PARKED)
            assert view.known("a") is None
            ledger.commit()
            ledger.record_live('{"pid": 7}')
            assert view.totals() == LedgerTotals(4, 40, 1, 4)
            assert view.known(NOT_UNICODE) == FileRow(NOT_UNICODE, Stat(10, 4), True, 4, b"D" * 32, "closed, quiet")
            assert view.known("never seen") is None
            assert {row.path for row in view.files()} == {*PATHS, "old"}
            assert [row.path for row in view.known_in("run 1/deep")] == ["run 1/deep/d"]
            assert view.open_versions() == [PARKED]
            assert view.live() == {"pid": 7}

    def test_a_million_files_can_be_read_in_pages_while_others_are_recorded(self, ledger: UploadLedger):
        """The order is by folder and name, and none comes twice; here with 12,000."""
        paths = [f"run {number % 3}/{number:05d}" for number in range(12_000)]
        for path in paths:
            ledger.record_sent(path, STAT, b"V" * 16, 1, b"D" * 32, 5)
        ledger.commit()
        found = []
        with self.looked_at(ledger) as view:
            for number, row in enumerate(view.files()):
                found.append(row.path)
                if number % 1000 == 0:
                    ledger.record_sent(f"a new one/{number}", STAT, b"V" * 16, 1, b"D" * 32, 5)
                    ledger.commit()
        assert found == sorted(paths)

    def test_a_stopped_ledger_is_looked_at_without_leaving_anything_behind(self):
        made = self.make()
        made.record_sent("a", STAT, b"V" * 16, 1, b"D" * 32, 5)
        made.close()
        before = sorted(self.file.parent.iterdir())
        with open_read_only(self.file) as view:
            assert (view.totals().sent, view.running()) == (1, False)
            assert sorted(self.file.parent.iterdir()) == before
            again = self.make()  # the same view goes on when a program starts
            again.record_sent("b", STAT, b"V" * 16, 1, b"D" * 32, 5)
            again.commit()
            assert (view.totals().sent, view.running()) == (2, True)
            again.close()

    def test_ledgers_are_found_with_what_they_are_for(self):
        """Damaged and deleted ones are listed with what is wrong; a root need not be valid Unicode."""
        about = {"kind": "upload", "root": f"/data/{NOT_UNICODE}", "topic": "xrd", "cluster_id": "c"}
        folder = self.file.parent
        names = [folder / f"upload-x-r.d-{number:016x}.sqlite" for number in range(3)]
        for name in names:
            SqliteUploadLedger(name, os.urandom, about=about).close()
        names[1].write_bytes(b"no ledger" * 1000)
        names[2].unlink()

        found = ledgers(folder)

        assert [(info.path, info.kind) for info in found] == [(name, "upload") for name in names]
        assert [(info.root, info.topic) for info in found] == [
            (about["root"], "xrd"),
            ("", "x-r.d"),
            (about["root"], "xrd"),
        ]
        assert [info.problem[:29] for info in found] == [
            "",
            "the ledger cannot be read: fi",
            "it is gone; the next start pu",
        ]
        assert ledgers(folder / "nowhere") == []


class TestDownloadLedgerInMemory(DownloadLedgerSuite):
    def make(self) -> DownloadLedger:
        return SqliteDownloadLedger(":memory:", TOPIC)


class TestDownloadLedgerInAFile(DurableDownloadLedgerSuite):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path):
        self.file = tmp_path / "ledger.sqlite"

    def make(self) -> DownloadLedger:
        return SqliteDownloadLedger(self.file, TOPIC)

    def again(self, ledger: DownloadLedger, topic_id: str | None = None) -> DownloadLedger:
        ledger.close()
        return SqliteDownloadLedger(self.file, topic_id or TOPIC)
