"""What every place promises that ``openmsistream verify`` compares and whose files can be changed: folder, bucket."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from openmsistream.adapters.filesystem.listing import FolderListing
from openmsistream.adapters.s3.bucket import Bucket
from openmsistream.adapters.s3.keys import Keys
from openmsistream.adapters.s3.listing import BucketListing
from openmsistream.config.s3 import S3Access
from openmsistream.core.chunk import HashName
from openmsistream.core.comparing import Item
from openmsistream.errors import SourceError
from openmsistream.local.store import LocalStore
from openmsistream.programs.comparing import Listing

MANY = 1100  # more than a store gives in one page of a list


def _ignore(_: int) -> None:
    """Nobody wants to know how far it is."""


class ListingSuite:
    """What a listing has to do."""

    @pytest.fixture
    def listing(self) -> Iterator[Listing]:
        made = self.make()
        yield made
        made.close()

    def make(self) -> Listing:
        raise NotImplementedError

    def put(self, path: str, data: bytes) -> None:
        raise NotImplementedError

    def remove(self, path: str) -> None:
        raise NotImplementedError

    def one(self, listing: Listing, path: str) -> Item:
        (found,) = [item for item in listing.items() if item.name == path]
        return found

    def test_every_file_is_listed_once_with_its_size(self, listing: Listing):
        """In folders, empty ones, with letters of every kind, and more of them than one page holds."""
        wanted = {"a": 1, "deep/er/b.dat": 20, "empty": 0, "ü 測 +%41&.csv": 3, "a.b/c": 2}
        wanted |= {f"many/{number:04}": 1 for number in range(MANY)}
        for path, size in wanted.items():
            self.put(path, bytes(size))

        found = list(listing.items())

        assert len(found) == len(wanted)
        assert {item.name: item.size for item in found} == wanted
        assert {item.problem for item in found} == {None}

    def test_a_place_with_nothing_in_it_has_no_files(self, listing: Listing):
        """And that is no failure."""
        assert list(listing.items()) == []
        assert not listing.has("a")

    @pytest.mark.parametrize("size", [0, 10, 3_000_000])
    def test_the_digest_is_that_of_the_bytes(self, listing: Listing, size: int):
        """By both functions, and told how far it is."""
        data = bytes(range(251)) * (size // 251 + 1)
        self.put("run/a", data[:size])
        item, read = self.one(listing, "run/a"), list[int]()

        assert listing.digest(item, HashName.BLAKE3, read.append) == blake3(data[:size]).digest()
        assert sum(read) == size
        assert listing.digest(item, HashName.SHA512, _ignore) == hashlib.sha512(data[:size]).digest()

    def test_a_file_is_unchanged_until_somebody_writes_it(self, listing: Listing):
        """Also with as many bytes as before."""
        self.put("a", b"1234")
        item = self.one(listing, "a")
        assert listing.unchanged(item)

        self.put("a", b"4321")

        assert not listing.unchanged(item)

    def test_a_file_that_is_gone_is_not_there_and_cannot_be_read(self, listing: Listing):
        """Nothing else is taken for it."""
        self.put("a", b"1234")
        item = self.one(listing, "a")
        assert listing.has("a")

        self.remove("a")

        assert not listing.has("a")
        assert not listing.unchanged(item)
        with pytest.raises(SourceError):
            listing.digest(item, HashName.BLAKE3, _ignore)

    @pytest.mark.parametrize("name", ["../a", "", "a/", "/a", "\udcff", "x" * 2000])
    def test_a_name_that_no_file_can_have_is_not_there(self, listing: Listing, name: str):
        """Other places may have names of every kind."""
        assert not listing.has(name)

    def test_a_folder_is_no_file(self, listing: Listing):
        """Whatever a place has in its stead."""
        self.put("run/a", b"1234")
        assert not listing.has("run")


class TestFolderListing(ListingSuite):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.root = tmp_path / "place µ"
        self.root.mkdir()

    def make(self) -> Listing:
        return FolderListing("destination", self.root)

    def put(self, path: str, data: bytes) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_suffix(".other").write_bytes(data)
        file.with_suffix(".other").replace(file)

    def remove(self, path: str) -> None:
        (self.root / path).unlink()


@pytest.mark.parametrize("believe", [True, False], ids=["believing", "reading"])
class TestBucketListing(ListingSuite):
    @pytest.fixture(autouse=True)
    def _place(self, store: LocalStore, bucket: str, believe: bool):
        self.access = S3Access(store.endpoint, store.access_key, store.secret_key, region=store.region)
        self.bucket, self.believe = bucket, believe
        with contextlib.closing(store.client()) as self.client:
            yield

    def make(self) -> Listing:
        bucket = Bucket(self.access, self.bucket, 8)
        keys = Keys("{topic}/{path}", "xrd")
        return BucketListing(bucket, keys, contents=True, read_back=not self.believe, threads=8)

    def put(self, path: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"xrd/{path}", Body=data)

    def remove(self, path: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=f"xrd/{path}")
