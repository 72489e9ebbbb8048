"""The objects of a bucket as one of the places that ``openmsistream verify`` compares.

Reads and changes nothing. What an object says of its digest is believed, unless it is to be read. Must not know the
other places, nor which files are wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from openmsistream.adapters.s3.answers import ConditionFailedError, NoRightError, NotThereError
from openmsistream.adapters.s3.bucket import Bucket
from openmsistream.adapters.s3.keys import Keys
from openmsistream.adapters.s3.naming import Found
from openmsistream.core.chunk import HashName
from openmsistream.core.comparing import Item, Kind
from openmsistream.core.hashing import new_hasher
from openmsistream.errors import ProtocolError, SourceError, StorageError

DIGEST_BYTES = {HashName.BLAKE3: 32, HashName.SHA512: 64}
_TRIES = 3


class BucketListing:
    """
    The objects whose keys stand for files of a topic.

    Args:
        bucket: The bucket; closed with this.
        keys: What the keys stand for.
        contents: Ask each object for its digest; False: only what a list of the bucket tells.
        read_back: Believe no object what it says of its digest: all of them are read where contents are compared.
        threads: How many objects are asked at once.
    """

    place = "bucket"

    def __init__(self, bucket: Bucket, keys: Keys, *, contents: bool, read_back: bool, threads: int) -> None:
        self._bucket, self._keys = bucket, keys
        self._believes = contents and not read_back
        self._others = 0
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="look")

    def items(self) -> Iterator[Item]:
        """
        Every file, in the order of the keys; one page of the bucket's list at a time is in memory.

        Raises:
            StorageError: The store does not answer, does not know us, or has no such bucket.
        """
        for page in self._bucket.objects(self._keys.prefix):
            # A key that ends with a slash is what some tools make to show an empty folder.
            files = [one for one in page if not one[0].endswith("/")]
            yield from (item for item in self._threads.map(lambda one: self._item(*one), files) if item is not None)

    def digest(self, item: Item, hash_name: HashName, progress: Callable[[int], None]) -> bytes:
        """
        The digest of the object's bytes, read in pieces.

        Args:
            item: From ``items``.
            hash_name: Which function.
            progress: Told how many bytes were read, again and again.

        Raises:
            SourceError: It is gone, is another one by now, or our account may not read it.
            StorageError: The store does not answer.
        """
        etag, key = _parts(item)
        tries = 0
        while True:
            try:
                return self._read(key, f'"{etag}"', hash_name, progress)
            except (NotThereError, ConditionFailedError, NoRightError) as error:
                raise SourceError(error.message, hint=error.hint) from error
            except StorageError:
                tries += 1
                if tries == _TRIES:  # else the connection was cut in the middle of a large object
                    raise

    def unchanged(self, item: Item) -> bool:
        """True when the object is still the one that was listed."""
        etag, key = _parts(item)
        try:
            found = self._bucket.look(key)
        except NoRightError:
            return True
        return found is not None and (_bare(found.etag), found.size) == (etag, item.size)

    def has(self, name: str) -> bool:
        """True when there is an object of that file now."""
        try:
            key = self._keys.key(name)
            found = self._bucket.look(key)
        except (ProtocolError, NoRightError):
            return False
        return found is not None and self._keys.path(key, found) == name

    def notes(self) -> list[str]:
        """What a user should know of its objects."""
        if not self._others:
            return []
        return [
            f"bucket: the key template makes no such keys as {self._others:,} objects there have: these were left out"
        ]

    def close(self) -> None:
        """Let go of the connections."""
        self._threads.shutdown(cancel_futures=True)
        self._bucket.close()

    def _read(self, key: str, etag: str, hash_name: HashName, progress: Callable[[int], None]) -> bytes:
        hasher = new_hasher(hash_name)
        for piece in self._bucket.read(key, etag):
            hasher.update(piece)
            progress(len(piece))
        return hasher.digest()

    def _item(self, key: str, listed: Found) -> Item | None:
        """What is known of an object; None when it stands for no file of ours, or is gone."""
        found: Found | None = listed
        if self._believes or not self._keys.reversible:
            try:
                found = self._bucket.look(key)
            except NoRightError as error:
                path = self._keys.path(key)
                return Item(path or key, listed.size, problem=Kind.UNREADABLE, reason=error.message)
        if found is None:
            return None
        path = self._keys.path(key, found)
        if path is None:
            self._others += 1
            return None
        hash_name, digest = self._said(key, found) if self._believes else (None, None)
        return Item(path, found.size, f"{_bare(found.etag)} {key}", hash_name, digest)

    def _said(self, key: str, found: Found) -> tuple[HashName | None, bytes | None]:
        """The digest that the object itself gives."""
        known = _known(found)
        if known is None and len(found.version) == DIGEST_BYTES[HashName.SHA512]:
            return HashName.SHA512, found.version  # of a file from 1.x the version is its digest
        if known is None and found.version:
            known = _known(found.with_tags(self._bucket.tags(key)))
        return known or (None, None)


def _known(found: Found) -> tuple[HashName, bytes] | None:
    for hash_name, size in DIGEST_BYTES.items():
        if len(digest := found.digest(hash_name)) == size:
            return hash_name, digest
    return None


def _bare(etag: str) -> str:
    return etag.strip('"')


def _parts(item: Item) -> tuple[str, str]:
    """ETag and key."""
    etag, _, key = item.stamp.partition(" ")
    return etag, key
