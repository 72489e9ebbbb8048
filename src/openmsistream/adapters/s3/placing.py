"""A complete version becomes an object: never over a newer one, once, with what it says of itself.

Requests and what follows from their answers; may be done for several versions at once, in threads. It must not know
where the bytes were until now.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Collection
from contextlib import suppress
from enum import Enum, auto

from openmsistream.adapters.s3.answers import (
    GOES_ON,
    ConditionFailedError,
    ConflictError,
    NoSuchUploadError,
    UnsupportedError,
    WrongDigestError,
)
from openmsistream.adapters.s3.bucket import ABSENT, ANY, Bucket, Part
from openmsistream.adapters.s3.ledger import Owed, Uploads
from openmsistream.adapters.s3.naming import Found, metadata_of, tags_of
from openmsistream.adapters.s3.parts import joined_crc32
from openmsistream.adapters.s3.sending import Upload
from openmsistream.core.chunk import HashName
from openmsistream.core.events import Note
from openmsistream.core.hashing import new_hasher
from openmsistream.errors import BytesLostError, DeliveryError, IntegrityError, OpenMSIStreamError, StorageError
from openmsistream.ports import Events, Publication

_TRIES = 10
_DENIED_MAX = 2
_PAUSE_SECONDS = 30.0


class KeyTakenError(DeliveryError):
    """Another object has the key, and is to be left as it is."""


class _Result(Enum):
    """What came of a conditional request."""

    MADE = auto()
    STOOD = auto()  # the object of this version was there: of a request whose answer was lost, or of an earlier run
    OVERTAKEN = auto()  # a newer version is there


class Placing:
    """
    Makes objects.

    Args:
        bucket: Where.
        uploads: The ledger of unfinished uploads.
        events: Told of versions that were not delivered since a newer one stands there.
        read_back: Read every object back and compare its digest.
        only_new: Leave every other object as it is, older ones too.
    """

    def __init__(
        self, bucket: Bucket, uploads: Uploads, events: Events, *, read_back: bool = False, only_new: bool = False
    ) -> None:
        self._bucket, self._uploads, self._events = bucket, uploads, events
        self._read_back, self._only_new = read_back, only_new
        self._told_tags = False
        self._owing: float | None = 0.0  # when to look for owed tags again

    def put(self, publication: Publication, object_key: str, body: bytes | bytearray) -> None:
        """
        Store a small version in one request.

        Raises:
            IntegrityError: What was read back is something else.
            KeyTakenError: Another object is there, and is to be left as it is.
            DeliveryError, ProtocolError: The store refuses it for good.
            StorageError: The store refuses it now.
        """
        metadata = metadata_of(
            publication.key, publication.path, publication.order, publication.digest, publication.hash_name
        )
        crc = zlib.crc32(body)

        def send(condition: str) -> None:
            self._bucket.put(object_key, body, crc=crc, metadata=metadata, condition=condition)

        if self._conditionally(publication, object_key, send) is not _Result.OVERTAKEN:
            self._compare(publication, object_key)

    def complete(self, publication: Publication, upload: Upload) -> None:
        """
        Make an object of the parts of an upload, all of which are there.

        Raises:
            BytesLostError: The upload is gone, or the store holds other bytes than it was sent.
            IntegrityError, KeyTakenError, DeliveryError, ProtocolError, StorageError: As ``put``.
        """
        if upload.stands:
            self._recognise(publication, upload)
            return
        parts = _in_order(upload, publication.size)
        upload_id, object_key = upload.upload_id or "", upload.object_key
        crc = parts[0].crc
        for part in parts[1:]:
            crc = joined_crc32(crc, part.crc, part.size)
        tags = tags_of(publication.key, publication.order, publication.digest, publication.hash_name)
        owed = Owed(object_key, publication.key.version, tags)
        if tags:
            self._uploads.owe(owed)

        def send(condition: str) -> None:
            self._bucket.complete(object_key, upload_id, parts, crc=crc, condition=condition)

        others = self._others(upload)
        try:
            result = self._conditionally(publication, object_key, send)
        except (NoSuchUploadError, WrongDigestError) as error:
            self._uploads.abandon(upload.key)
            if not self._stands(publication, upload, error.message):
                return
            result = _Result.MADE  # just before a kill
        if result is _Result.MADE:
            self._uploads.ended(upload_id)
        # Of an object that stood already this upload may be a second one, which has parts in the store.
        self._uploads.abandon(upload.key)
        if result is _Result.OVERTAKEN:
            self._uploads.paid(owed)
            return
        if tags:
            self._pay(owed)
        for other in others:
            with suppress(OpenMSIStreamError):
                self._bucket.abort(object_key, other)
        self._compare(publication, object_key)

    def _recognise(self, publication: Publication, upload: Upload) -> None:
        """Nothing was sent, since the object stood there: it still has to, and may not have its tags yet."""
        if not self._stands(publication, upload, f"{publication.path}: its object was there, and is no more"):
            return
        if tags := tags_of(publication.key, publication.order, publication.digest, publication.hash_name):
            self._pay(Owed(upload.object_key, publication.key.version, tags))
        self._compare(publication, upload.object_key)

    def _stands(self, publication: Publication, upload: Upload, lost: str) -> bool:
        """True when its object is there, False when a newer one is, which is told; else BytesLostError(lost)."""
        found = self._bucket.look(upload.object_key)
        if found is not None and _is_it(found, publication):
            return True
        if found is not None and self._is_newer(found, publication, upload.object_key):
            return False
        raise BytesLostError(lost, [upload.key])

    def is_overtaken(self, publication: Publication, object_key: str) -> bool:
        """True when a newer version stands there; that is told."""
        found = self._bucket.look(object_key)
        if found is None or _is_it(found, publication):
            return False
        return self._is_newer(found, publication, object_key)

    def pay_all(self) -> None:
        """Put the tags that objects were to get when the program was ended, or the store did not answer."""
        if self._owing is None or time.monotonic() < self._owing:
            return
        self._owing = None
        unfinished = {key.version for key in self._uploads.versions()}
        for owed in self._uploads.all_owed():
            try:
                found = self._bucket.look(owed.object_key)
                if found is not None and found.version == owed.version:
                    self._pay(owed)
                elif owed.version not in unfinished:
                    self._uploads.paid(owed)
            except OpenMSIStreamError:
                self._owing = time.monotonic() + _PAUSE_SECONDS
                return

    def sweep(self, but: Collection[str] = ()) -> None:
        """Remove abandoned uploads from the store; what cannot be removed now is tried again with the next call."""
        for object_key, upload_id in self._uploads.abandoned():
            if upload_id in but:
                continue
            try:
                self._bucket.abort(object_key, upload_id)
            except OpenMSIStreamError:
                return
            self._uploads.ended(upload_id)

    def _conditionally(self, publication: Publication, object_key: str, send: Callable[[str], None]) -> _Result:
        """Send it when nothing newer is there."""
        condition, denied = ABSENT, 0
        for _ in range(_TRIES):
            try:
                send(condition)
            except ConditionFailedError as error:
                found = self._bucket.look(object_key, was_there=True)
                if found is None:
                    # SeaweedFS 4.48 says of `a` that it is there when it is not, but `a/b` is.
                    denied += condition == ABSENT and not isinstance(error, ConflictError)
                    condition = ABSENT if denied <= _DENIED_MAX else ANY
                    continue
                if _is_it(found, publication):
                    return _Result.STOOD
                if self._only_new:
                    raise _taken(publication) from None
                if self._is_newer(found, publication, object_key):
                    return _Result.OVERTAKEN
                condition = found.etag
            else:
                return _Result.MADE
        raise StorageError(f"{self._bucket.where}: {object_key} is written by others all the time", hint=GOES_ON)

    def _is_newer(self, found: Found, publication: Publication, object_key: str) -> bool:
        if found.version and publication.order is not None:
            found = found.with_tags(self._bucket.tags(object_key))
        newer = found.is_newer_than(publication.order)
        if newer and self._only_new:
            raise _taken(publication)
        if newer:
            self._events(
                Note(
                    f"{publication.path}: not delivered, a newer version of it is in the bucket already, put there by"
                    " another computer"
                )
            )
        return newer

    def _others(self, upload: Upload) -> list[str]:
        """
        Uploads of the same object that other computers began: theirs have no future once ours is done.

        Those that they began later may hold a newer version, unless ours was gone on with: then they may as well be of
        whoever had the partition in between. One who still needs what was removed sends it again. Nothing when they
        cannot be listed: a rule of the bucket is the second net.
        """
        try:
            found = {one.upload_id: one.began for one in self._bucket.unfinished(upload.object_key)}
        except OpenMSIStreamError:
            return []
        mine, ours = found.get(upload.upload_id or ""), self._uploads.ids()
        if mine is None:
            return []
        return [other for other, began in found.items() if (upload.resumed or began <= mine) and other not in ours]

    def _pay(self, owed: Owed) -> None:
        try:
            self._bucket.set_tags(owed.object_key, owed.tags)
        except OpenMSIStreamError as error:
            if not self._told_tags:
                self._told_tags = True
                self._events(Note(f"{error.message}: the hash of large files is not noted there", hint=error.hint))
            if type(error) is not UnsupportedError:  # another look tells whether the object is still there
                self._owing = time.monotonic() + _PAUSE_SECONDS
                return
        self._uploads.paid(owed)

    def _compare(self, publication: Publication, object_key: str) -> None:
        if not self._read_back or not publication.digest:
            return
        found = self._bucket.look(object_key)
        if found is None or not _is_it(found, publication):
            return  # a newer version has taken its place
        if self.digest_of(object_key, found, publication.hash_name) != publication.digest:
            raise IntegrityError(
                f"{publication.path!r}: what {self._bucket.where} gives back is not what was sent",
                hint="the object is still there as the store has it; look for errors in the store, and send it again",
            )

    def digest_of(self, object_key: str, found: Found, hash_name: HashName) -> bytes:
        """The digest of an object, read back in pieces."""
        hasher = new_hasher(hash_name)
        for piece in self._bucket.read(object_key, found.etag):
            hasher.update(piece)
        return hasher.digest()


def _taken(publication: Publication) -> KeyTakenError:
    return KeyTakenError(f"{publication.path}: another object has its key")


def _is_it(found: Found, publication: Publication) -> bool:
    return found.version == publication.key.version and found.size == publication.size


def _in_order(upload: Upload, size: int) -> list[Part]:
    parts = [upload.done[number] for number in sorted(upload.done)]
    if [part.number for part in parts] != list(range(1, len(parts) + 1)) or sum(p.size for p in parts) != size:
        raise BytesLostError(f"{upload.object_key}: not all of its parts are there", [upload.key])
    return parts
