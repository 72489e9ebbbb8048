"""Full parts on their way to the store: a few threads, a bounded number of bytes, and every part until it is there.

A part that the ledger says is there already is compared and not sent again. Knows the bucket and the ledger of
uploads; it must not know how parts are filled, nor when an upload is complete.
"""

from __future__ import annotations

import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from threading import Condition, Thread

from blake3 import blake3

from openmsistream.adapters.s3.answers import GOES_ON, NoRightError, NoSuchUploadError, unforeseen
from openmsistream.adapters.s3.bucket import Bucket, Part
from openmsistream.adapters.s3.ledger import Uploads
from openmsistream.adapters.s3.parts import PART_BYTES
from openmsistream.adapters.s3.spill import IN_MEMORY_BYTES, PartFile
from openmsistream.core.versions import VersionKey
from openmsistream.errors import BusyError, BytesLostError, OpenMSIStreamError, StorageError

ROOM_SECONDS = 3.0
"""How long to wait for room: a consumer that does not poll for ``max.poll.interval.ms`` loses its partitions."""
_RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0)
_END_SECONDS = 5.0
_LOST = "leave the work folder alone, check its disk, and see whether a rule of the bucket removes uploads too soon"


@dataclass(eq=False)
class Upload:
    """
    A multipart upload of one version; its fields are changed under the lock of ``PartSender``.

    Attributes:
        key, object_key: The version, and where it goes.
        metadata: Asked for when the upload begins: what the object says.
        upload_id: None until it has begun.
        recorded: The parts that the store has by the ledger.
        done: The parts that the store has and whose bytes came here.
        waiting: How many parts are on their way.
        problem: Why a part cannot be sent now.
        refused: Why it never can be.
        lost: Why its bytes are to be read again.
        dropped: Nobody wants it any more.
        replaced: What is dropped goes on as another one with the same id.
        resumed: It was begun before the bytes that come now.
        stands: The object of this version is there already, of a run that nobody remembers: nothing is sent.
    """

    key: VersionKey
    object_key: str
    metadata: Callable[[], Mapping[str, str]]
    upload_id: str | None = None
    recorded: dict[int, Part] = field(default_factory=dict)
    done: dict[int, Part] = field(default_factory=dict)
    waiting: int = 0
    problem: StorageError | None = None
    refused: OpenMSIStreamError | None = None
    lost: str = ""
    dropped: bool = False
    replaced: bool = False
    resumed: bool = False
    stands: bool = False

    def again(self) -> Upload:
        """The same upload, whose bytes come again from the first one on: what the store has is compared with them."""
        self.dropped = self.replaced = True
        return Upload(
            self.key,
            self.object_key,
            self.metadata,
            self.upload_id or None,
            {} if self.stands else {**self.recorded, **self.done},
            resumed=True,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    upload: Upload
    number: int
    body: bytearray | PartFile
    size: int

    @property
    def in_memory(self) -> int:
        """So many bytes of it are in memory when it is sent; larger parts are sent from their file."""
        return self.size if self.size <= IN_MEMORY_BYTES else 0


class PartSender:
    """
    Sends parts.

    Args:
        bucket: Where to.
        uploads: Told of what was begun and done.
        threads: How many parts are sent at once, and how many there may be in all; of larger ones than the first of
            a file fewer, so that memory does not grow with a file.
    """

    def __init__(self, bucket: Bucket, uploads: Uploads, threads: int) -> None:
        self._bucket, self._uploads, self._most = bucket, uploads, threads
        self._changed = Condition()
        self._jobs: deque[_Job] = deque()
        self._on_the_way = self._in_memory = 0
        self._ending: set[Upload] = set()
        self._put_offs: dict[_Job, StorageError] = {}
        self._closing = self._closed = False
        self._threads = [Thread(target=self._work, name=f"part {n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def wait_for_room(self, upload: Upload, seconds: float = ROOM_SECONDS) -> None:
        """
        Return when another part may be given. That of a refused upload always may: ``wait_for`` tells why it is.

        Raises:
            BytesLostError: The upload is gone.
            StorageError: There was no room in time: the store is slow or away.
        """
        with self._changed:
            if self._changed.wait_for(lambda: self._has_room or upload.lost or upload.refused, seconds):
                self._raise_if_lost(upload)
                return
            problem = upload.problem or next((job.upload.problem for job in self._jobs if job.upload.problem), None)
        raise problem or BusyError(
            f"{self._bucket.where}: it is slow: {self._on_the_way} parts are on their way, and none arrived for"
            f" {seconds:g} s",
            hint=GOES_ON,
        )

    @property
    def _stuck(self) -> StorageError | None:
        """Why every thread has a part in hand that it cannot send now."""
        return next(iter(self._put_offs.values())) if len(self._put_offs) == len(self._threads) else None

    @property
    def _has_room(self) -> bool:
        return self._on_the_way < self._most and self._in_memory < self._most * PART_BYTES

    def send(self, upload: Upload, number: int, body: bytearray | PartFile, size: int) -> None:
        """Give a part; a file is removed once it is sent. One of a refused upload goes nowhere."""
        job = _Job(upload, number, body, size)
        with self._changed:
            if upload.refused is not None:
                _remove(job)
                return
            upload.waiting += 1
            self._on_the_way += 1
            self._in_memory += job.in_memory
            self._jobs.append(job)
            self._changed.notify_all()

    def refuse(self, upload: Upload, reason: OpenMSIStreamError) -> None:
        """The upload can never become an object."""
        with self._changed:
            upload.refused = upload.refused or reason
            self._changed.notify_all()

    def wait_for(self, upload: Upload) -> None:
        """
        Return when all parts that were given are there.

        Raises:
            BytesLostError: The upload is gone.
            StorageError: A part cannot be sent now, nor be tried since no thread is free for it; both are tried again.
            DeliveryError, ProtocolError: It never can be.
        """

        def ended() -> bool:
            return bool(not upload.waiting or upload.problem or upload.refused or upload.lost or self._stuck)

        with self._changed:
            self._changed.wait_for(ended)
            self._raise_if_lost(upload)
            if problem := upload.refused or upload.problem or (self._stuck if upload.waiting else None):
                raise problem

    def drop(self, upload: Upload) -> None:
        """Nobody wants the upload any more: it is abandoned in the ledger."""
        with self._changed:
            upload.dropped = True
            if upload.waiting:
                self._ending.add(upload)
            self._changed.notify_all()
        if upload.upload_id:
            self._uploads.abandon_one(upload.upload_id)

    @property
    def ending(self) -> frozenset[str]:
        """Dropped uploads of which parts are still on their way: to remove one now would leave these behind."""
        with self._changed:
            return frozenset(upload.upload_id for upload in self._ending if upload.upload_id)

    def close(self) -> None:
        """Send nothing more; returns when the threads have ended, or after some seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        deadline = time.monotonic() + _END_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._closed = True
        for job in self._jobs:
            _remove(job)

    def _raise_if_lost(self, upload: Upload) -> None:
        if upload.lost:
            raise BytesLostError(f"{self._bucket.where}: {upload.object_key}: {upload.lost}", [upload.key], hint=_LOST)

    # -- on the threads -----------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (job := self._next()) is not None:
            tries = 0
            while self._wanted(job):
                try:
                    part = self._sent(job)
                except NoSuchUploadError:
                    self._end(job, lost="its unfinished upload was removed by somebody else")
                    break
                except BytesLostError as error:
                    self._end(job, lost=error.message)
                    break
                except StorageError as error:
                    self._put_off(job, error, tries)
                    tries += 1
                except OpenMSIStreamError as error:
                    self._end(job, refused=error)
                    break
                except Exception as error:
                    # A thread that ended with a part in hand would be waited for as long as the program runs.
                    what = f"{job.upload.object_key} cannot be written"
                    self._put_off(job, unforeseen(self._bucket.where, what, error), tries)
                    tries += 1
                else:
                    self._end(job, part=part)
                    break
            else:
                self._end(job)

    def _next(self) -> _Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closing)
            return None if self._closing else self._jobs.popleft()

    def _wanted(self, job: _Job) -> bool:
        upload = job.upload
        return not (upload.dropped or upload.lost or upload.refused or self._closing)

    def _sent(self, job: _Job) -> Part:
        upload, body, digest = job.upload, _at_once(job.body), blake3()
        crc = job.body.crc if isinstance(job.body, PartFile) else zlib.crc32(job.body)
        for piece in body.pieces() if isinstance(body, PartFile) else (body,):
            digest.update(piece)
        recorded = upload.recorded.get(job.number)
        if recorded is not None and (recorded.size, recorded.digest) == (job.size, digest.digest()):
            return recorded
        upload_id = self._begun(upload)
        if upload_id is None:
            return Part(job.number, job.size, "", crc, digest.digest())
        with body.open() if isinstance(body, PartFile) else nullcontext(body) as sent:
            etag = self._bucket.put_part(upload.object_key, upload_id, job.number, sent, size=job.size, crc=crc)
        part = Part(job.number, job.size, etag, crc, digest.digest())
        self._uploads.part_done(upload_id, part)
        return part

    def _begun(self, upload: Upload) -> str | None:
        """The id of an upload, which is begun if need be; None when its object stands already."""
        with self._changed:
            self._changed.wait_for(lambda: upload.upload_id != "")
            if upload.upload_id is not None or upload.stands:
                return upload.upload_id
            upload.upload_id = ""  # one thread begins it, the others wait
        begun, stands = None, False
        try:
            stands = self._stands(upload)
            if not stands:
                begun = self._bucket.begin(upload.object_key, upload.metadata())
                self._uploads.begun(upload.key, upload.object_key, begun)
        finally:
            with self._changed:
                upload.upload_id, upload.stands = begun, stands
                self._changed.notify_all()
        return begun

    def _stands(self, upload: Upload) -> bool:
        try:
            found = self._bucket.look(upload.object_key)
        except NoRightError:
            return False  # who may only write sends it, and the condition at the end decides
        return found is not None and found.version == upload.key.version

    def _put_off(self, job: _Job, error: StorageError, tries: int) -> None:
        """It cannot be sent now: that is told, and after a pause it is tried again."""
        with self._changed:
            job.upload.problem = self._put_offs[job] = error
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._wanted(job), _RETRY_SECONDS[min(tries, len(_RETRY_SECONDS) - 1)])

    def _end(
        self, job: _Job, *, part: Part | None = None, lost: str = "", refused: OpenMSIStreamError | None = None
    ) -> None:
        upload = job.upload
        with self._changed:
            self._put_offs.pop(job, None)
            upload.waiting -= 1
            self._on_the_way -= 1
            self._in_memory -= job.in_memory
            upload.lost, upload.refused = upload.lost or lost, upload.refused or refused
            if part is not None:
                upload.done[part.number] = part
                upload.problem = None
            abandoned = upload.dropped and not upload.replaced and not upload.waiting
            if not upload.waiting:
                self._ending.discard(upload)
            self._changed.notify_all()
        _remove(job)
        if abandoned and upload.upload_id and not self._closed:  # else nobody is there any more to be told
            with suppress(StorageError):  # a disk that is full: the next run comes across it
                self._uploads.abandon_one(upload.upload_id)


def _at_once(body: bytearray | PartFile) -> bytes | bytearray | PartFile:
    """A body as a request takes it: small ones from memory, since a file is sent in very small pieces."""
    return body.whole() if isinstance(body, PartFile) and body.size <= IN_MEMORY_BYTES else body


def _remove(job: _Job) -> None:
    if isinstance(job.body, PartFile):
        job.body.remove()
