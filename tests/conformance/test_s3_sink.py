"""A bucket keeps the promises of every sink; where it differs by nature, the difference is a promise of its own."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from openmsistream.adapters.s3.bucket import Bucket
from openmsistream.adapters.s3.sink import S3Settings, S3Sink
from openmsistream.config.s3 import S3Access
from openmsistream.local.store import LocalStore
from openmsistream.ports import Failure, Sink
from tests.conformance.suites_files import SinkSuite, kept_failure, key, publication

TOPIC = "conformance"


class TestS3Sink(SinkSuite):
    @pytest.fixture(autouse=True)
    def _places(self, store: LocalStore, bucket: str, tmp_path: Path):
        self.access = S3Access(store.endpoint, store.access_key, store.secret_key, region=store.region)
        self.bucket, self.work = bucket, tmp_path / "work µ"
        with contextlib.closing(store.client()) as self.client:
            yield

    def make(self) -> Sink:
        bucket = Bucket(self.access, self.bucket, 20)
        return S3Sink(bucket, self.work, S3Settings(TOPIC), events=lambda _: None)

    def visible(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket):
            for one in page.get("Contents", []):
                body = self.client.get_object(Bucket=self.bucket, Key=one["Key"])["Body"]
                found[one["Key"].removeprefix(f"{TOPIC}/")] = body.read()
        return found

    def put(self, path: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"{TOPIC}/{path}", Body=data)

    def remove(self, path: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=f"{TOPIC}/{path}")

    def notes(self) -> list[tuple[Path, dict[str, Any]]]:
        found = sorted((self.work / ".openmsistream" / "quarantine").glob("*.json"))
        return [(note.with_suffix(""), json.loads(note.read_text(encoding="utf-8"))) for note in found]

    def set_aside(self) -> list[tuple[bytes, str]]:
        return [(file.read_bytes(), str(note["reason"])) for file, note in self.notes() if "version" in note]

    def quarantined(self) -> list[tuple[int, int, bytes, str]]:
        return [
            (note["partition"], note["offset"], file.with_name(f"{file.name}.value").read_bytes(), note["reason"])
            for file, note in self.notes()
            if "version" not in note
        ]

    def failure(self) -> Failure:
        return kept_failure(self.work)

    @pytest.mark.parametrize(("there", "wanted"), [("a", "a/b"), ("a/b", "a")])
    def test_a_file_or_folder_in_the_way_fails_alone(self, sink: Sink, there: str, wanted: str):
        """Nothing is in the way in a bucket, which has no folders: both stand."""
        self.put(there, b"there")
        self.deliver(sink, key("new"), b"data", wanted)
        assert self.visible() == {there: b"there", wanted: b"data"}

    def test_a_new_sink_finds_the_known_versions_and_removes_the_others(self):
        """Only what came out of order stands here and is found again; the rest is read again from its beginning."""
        one, two, three = key("one", b"1" * 16), key("two", b"2" * 16), key("three", b"3" * 16)
        first = self.make()
        first.write(one, 4, b"1")
        first.write(two, 4, b"2")
        first.write(three, 0, b"3333")
        first.sync([one, two, three])
        first.close()

        second = self.make()
        assert second.restore([one, three, key("never seen", b"4" * 16)]) == {one}
        assert second.restore([one, two]) == {one}
        second.write(one, 0, b"1111")
        second.sync([one])
        assert second.publish([publication(one, 5)]) == {}
        second.close()
        assert self.visible() == {"one": b"11111"}
