"""Ledgers: in memory and in a file they keep the same promises."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from openmsistream.adapters.sqlite.downloads import SqliteDownloadLedger
from openmsistream.adapters.sqlite.uploads import SqliteUploadLedger
from openmsistream.errors import ConfigError, StorageError
from openmsistream.ports import DownloadLedger, UploadLedger
from tests.conformance.suites_ledgers import (
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

    def test_a_second_program_is_refused_while_the_first_runs(self, ledger: UploadLedger):
        with pytest.raises(ConfigError, match="running already"):
            self.make()
        assert ledger.is_new

    def test_a_damaged_file_is_told_with_what_to_do(self):
        self.file.parent.mkdir()
        self.file.write_bytes(b"this is no database" * 100)
        with pytest.raises(StorageError, match="cannot be used") as caught:
            self.make()
        assert "moved away" in caught.value.hint


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
