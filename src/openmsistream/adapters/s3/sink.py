"""A bucket as a sink (``ports.Sink``): bytes of open versions go to the store as parts, whole ones become objects.

An object appears only when it is complete. What cannot go to the store yet stands in a work folder on this computer,
and so does the quarantine. The flow calls from one thread at a time; requests are made in threads of this package's
own. It must not know where versions come from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from openmsistream.adapters.filesystem.sink import FolderSink
from openmsistream.adapters.s3.answers import AwayError
from openmsistream.adapters.s3.bucket import Bucket
from openmsistream.adapters.s3.incoming import Incoming, Places
from openmsistream.adapters.s3.ledger import Plan, Uploads
from openmsistream.adapters.s3.naming import metadata_of, object_key
from openmsistream.adapters.s3.placing import Placing
from openmsistream.adapters.s3.sending import PartSender, Upload
from openmsistream.adapters.s3.spill import BUDGET_BYTES, Collecting
from openmsistream.core.chunk import HashName
from openmsistream.core.paths import WORK_FOLDER
from openmsistream.core.versions import VersionKey, VersionOrder
from openmsistream.errors import (
    BytesLostError,
    DeliveryError,
    IntegrityError,
    OpenMSIStreamError,
    ProtocolError,
    StorageError,
)
from openmsistream.ports import NOT_KNOWN, Buffer, Events, Failure, Publication, Record


@dataclass(frozen=True, slots=True)
class About:
    """What is known of a version when its first bytes come: the path it is delivered under, and its place in time."""

    path: str
    order: VersionOrder


Describe = Callable[[VersionKey], About | None]


@dataclass(frozen=True, slots=True)
class S3Settings:
    """
    How to deliver.

    Attributes:
        topic: For keys.
        template: What objects are called (``naming.object_key``).
        part_threads, put_threads: How many parts, and how many small files, are sent at once.
        budget_bytes: How many bytes of unfinished parts stay in memory.
        read_back: Read every object back and compare its digest.
        only_new: Leave every other object as it is, older ones too: a version whose key is taken fails.
    """

    topic: str
    template: str = "{topic}/{path}"
    part_threads: int = 4
    put_threads: int = 32
    budget_bytes: int = BUDGET_BYTES
    read_back: bool = False
    only_new: bool = False


class S3Sink:
    """
    Delivers into a bucket.

    Args:
        bucket: The bucket.
        work: A folder of its own on this computer, which is made if need be.
        settings: How.
        events: Told what a user should know.

    Attributes:
        describe: Asked once for each version, when its first bytes come; None: nothing is known of it then.

    Raises:
        ConfigError: Another program uses the work folder.
        StorageError: It cannot be used.
    """

    def __init__(self, bucket: Bucket, work: Path, settings: S3Settings, events: Events) -> None:
        self._bucket, self._settings = bucket, settings
        self.describe: Describe | None = None
        self._uploads = Uploads(work / "uploads.sqlite")
        self._unclaimed = self._uploads.versions()
        self._restored = False
        self._spool = FolderSink(work)
        collecting = Collecting(work / WORK_FOLDER / "parts", settings.budget_bytes)
        self._sender = PartSender(bucket, self._uploads, settings.part_threads)
        self._places = Places(collecting, self._sender, self._spool)
        self._placing = Placing(bucket, self._uploads, events, read_back=settings.read_back, only_new=settings.only_new)
        self._threads = ThreadPoolExecutor(settings.put_threads, thread_name_prefix="put")
        self._open: dict[VersionKey, Incoming] = {}
        self._placed: dict[VersionKey, str] = {}
        self._planned: set[VersionKey] = set()

    def where(self, key: VersionKey) -> str:
        """The address of a version of the last batch; empty when it is not known."""
        placed = self._placed.get(key)
        return "" if placed is None else f"s3://{self._bucket.name}/{placed}"

    # -- bytes come -----------------------------------------------------------------------------------------------

    def write(self, key: VersionKey, offset: int, data: Buffer) -> None:
        """Keep bytes of an open version; full parts go to the store."""
        self._placed.pop(key, None)  # a version may come a second time, when its object was removed
        version = self._open.get(key)
        if version is None:
            version = self._open[key] = self._begin(key)
        with self._lost(key):
            version.write(offset, data)

    def read(self, key: VersionKey, start: int, stop: int) -> Iterator[Buffer]:
        """
        The bytes of an open version again, in pieces.

        Raises:
            BytesLostError: They are in parts, which no store gives back; when they come again, they stay here until
                the version is complete.
        """
        version = self._open.get(key)
        if version is None:
            if start < stop:
                raise BytesLostError(f"{key.path}: nothing of it is here", [key])
            return
        with self._lost(key, on_disk=True):
            yield from version.read(start, stop)

    def sync(self, keys: Iterable[VersionKey]) -> None:
        """Make what was written of these versions survive a power cut, where it is to be found again after one."""
        spooled = [version.spool_key for key in keys if (version := self._open.get(key)) is not None]
        self._spool.sync([key for key in spooled if key is not None])

    # -- they are complete ------------------------------------------------------------------------------------------

    def publish(self, publications: Sequence[Publication]) -> dict[VersionKey, OpenMSIStreamError]:
        """
        Make versions appear as objects, each whole or not at all.

        A batch that failed half-way is published again as a whole: what stands already is left as it is.

        Raises:
            BytesLostError: Bytes of some have to be read again; all others stand, failed, or are to be tried again.
            StorageError: The store refuses some now.
        """
        self._tidy()
        failed: dict[VersionKey, OpenMSIStreamError] = {}
        problems: list[StorageError] = []
        self._placed = {p.key: self._placed[p.key] for p in publications if p.key in self._placed}
        ready: dict[str, list[Publication]] = defaultdict(list)
        for publication in publications:
            if publication.key in self._placed:
                continue
            if any(isinstance(problem, AwayError) for problem in problems):
                break
            with self._noted(publication.key, failed, problems):
                ready[self._prepare(publication)].append(publication)
        away = [problem for problem in problems if isinstance(problem, AwayError)]
        for each, result in self._threads.map(lambda of_key: self._place(of_key, ready[of_key], away), ready):
            for publication, problem in result:
                with self._noted(publication.key, failed, problems):
                    if problem is not None:
                        raise problem
                    self._placed[publication.key] = each
                    self._forget(publication.key)
        waiting = [problem for problem in problems if not isinstance(problem, BytesLostError)]
        lost = [problem for problem in problems if isinstance(problem, BytesLostError)]
        if lost:
            # Told first: the others are tried again with the next batch.
            raise BytesLostError(lost[0].message, [key for each in lost for key in each.keys], hint=lost[0].hint)
        if waiting:
            raise waiting[0]
        return failed

    def stands(self, path: str, size: int) -> bool:
        """True when an object of that size is there."""
        with suppress(OpenMSIStreamError):
            found = self._bucket.look(self._key(path))
            return found is not None and found.size == size
        return False

    def holds(self, path: str, size: int, hash_name: HashName, digest: bytes) -> bool:
        """True when the object has that size and that digest: by what it says itself, else it is read."""
        try:
            key = self._key(path)
        except ProtocolError:
            return False
        found = self._bucket.look(key)
        if found is None or found.size != size:
            return False
        if not self._settings.read_back:
            if found.version and not found.digest(hash_name):
                found = found.with_tags(self._bucket.tags(key))
            if known := found.digest(hash_name):
                return known == digest
        return self._placing.digest_of(key, found, hash_name) == digest

    # -- they have no future ----------------------------------------------------------------------------------------

    def discard(self, key: VersionKey) -> None:
        """Forget the bytes of an open version; what the store has of it is removed with the next batch."""
        version = self._open.get(key)
        if version is None:
            self._spool.discard(key)
            self._uploads.abandon(key)
        else:
            version.forget()
            self._sender.drop(version.upload)
        self._forget(key)

    def set_aside(self, key: VersionKey, reason: str, failure: Failure = NOT_KNOWN) -> None:
        """Move the bytes of an open version to quarantine, with the reason; bytes that the store has are not kept."""
        version = self._open.get(key)
        if version is not None and not version.to_spool():
            sent = "" if version.upload.refused else "they were in the store already, and "
            reason += f"; its bytes are not kept here: {sent}the topic has them"
        self._spool.set_aside(key, reason, failure)
        self.discard(key)

    def quarantine(self, topic: str, record: Record, reason: str, *, path: str = "", at_ns: int | None = None) -> None:
        """Keep a record that cannot be handled, with its origin and the reason."""
        self._spool.quarantine(topic, record, reason, path=path, at_ns=at_ns)

    def restore(self, known: Iterable[VersionKey]) -> set[VersionKey]:
        """
        Which of ``known`` can be gone on with; what is here of no known version is removed.

        Only those that stand in the spool as a whole are: of what is in parts, here or in the store, the hash cannot be
        gone on with. Read again from their beginning, they go on with the parts that the store has.
        """
        wanted = set(known)
        self._restored = True
        self._unclaimed -= wanted
        for key in self._open.keys() - wanted:
            self.discard(key)
        tails = [v.spool_key for v in self._open.values() if v.spool_key is not None]
        for key in self._spool.restore({*wanted, *tails}) & wanted:
            if key not in self._open:
                self._open[key] = self._begin(key, on_disk=True)
        return {key for key, version in self._open.items() if version.is_local and version.spool_key == key}

    def close(self) -> None:
        """
        Let go of everything.

        Parts stay in the store for versions that are still known; uploads that an earlier run began and this one never
        came across are removed.
        """
        if self._restored:  # else this run had no partition, and came across nothing
            for key in self._unclaimed:
                self._uploads.abandon(key)
        self._sender.close()
        if not any(version.upload.problem for version in self._open.values()):
            with suppress(OpenMSIStreamError):
                self._placing.sweep()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._places.collecting.close()
        self._spool.close()
        self._uploads.close()
        self._bucket.close()

    # -- within -------------------------------------------------------------------------------------------------------

    def _key(self, path: str) -> str:
        return object_key(self._settings.template, self._settings.topic, path)

    def _begin(self, key: VersionKey, *, on_disk: bool = False) -> Incoming:
        """A version whose first bytes come, or that is restored."""
        self._unclaimed.discard(key)
        about = None if self.describe is None else self.describe(key)
        plan = self._uploads.plan(key)
        if plan != Plan():
            self._planned.add(key)
        path = plan.final_path or (key.path if about is None else about.path)
        # The time of the last record is not known yet, and metadata cannot be changed: it becomes a tag.
        order = None if about is None else replace(about.order, timestamp_ms=0)
        on_disk = on_disk or plan.on_disk
        try:
            wanted = self._key(path)
        except ProtocolError:
            # Told when it is complete; until then its bytes stay here, for the quarantine.
            return Incoming(Upload(key, "", dict), self._places, on_disk=True)
        upload = Upload(key, wanted, partial(metadata_of, key, path, order))
        recorded = self._uploads.recorded(key)
        if recorded is not None and recorded.object_key == wanted and not on_disk:
            upload.upload_id, upload.recorded, upload.resumed = recorded.upload_id, recorded.parts, True
        elif recorded is not None:
            self._uploads.abandon(key)
        return Incoming(upload, self._places, on_disk=on_disk)

    def _prepare(self, publication: Publication) -> str:
        """Give the store everything of a version but what makes it an object; its key."""
        key, wanted = publication.key, self._key(publication.path)
        version = self._open.get(key)
        if version is None:
            found = self._bucket.look(wanted)
            if found is not None and (found.version, found.size) == (key.version, publication.size):
                return wanted  # there is nothing left to do
            raise BytesLostError(f"{publication.path}: nothing of it is here", [key])
        if version.is_local:
            version.upload.object_key = wanted
            version.upload.metadata = partial(metadata_of, key, publication.path, publication.order)
        elif version.upload.object_key != wanted:
            self._learn(key, Plan(publication.path, on_disk=False))
            raise BytesLostError(
                f"{publication.path}: its name became known only at its end, and the store has its bytes under another"
                " one",
                [key],
            )
        version.pour(publication.size)
        if not version.is_local:
            version.send()
        return wanted

    def _place(
        self, wanted: str, publications: Sequence[Publication], away: list[AwayError]
    ) -> tuple[str, list[tuple[Publication, OpenMSIStreamError | None]]]:
        """
        Make objects of versions that have the same key, one after the other; on a thread.

        Once the store was found to be ``away``, the rest of the batch is left out: each try may take minutes.
        """
        done: list[tuple[Publication, OpenMSIStreamError | None]] = []
        for publication in publications:
            if away:
                break
            problem: OpenMSIStreamError | None = None
            try:
                self._place_one(wanted, publication)
            except OpenMSIStreamError as error:
                problem = error
                if isinstance(error, AwayError):
                    away.append(error)
            done.append((publication, problem))
        return wanted, done

    def _place_one(self, wanted: str, publication: Publication) -> None:
        version = self._open.get(publication.key)
        if version is None:
            return
        body = version.small_body()
        if body is not None:
            self._placing.put(publication, wanted, body)
            if version.upload.upload_id is not None:
                self._uploads.abandon(publication.key)
            return
        try:
            self._sender.wait_for(version.upload)
        except BytesLostError:
            if not self._placing.is_overtaken(publication, wanted):
                raise
            return
        self._placing.complete(publication, version.upload)

    def _forget(self, key: VersionKey) -> None:
        version = self._open.pop(key, None)
        if version is not None:
            version.forget()
        if key in self._planned:
            self._planned.discard(key)
            self._uploads.set_plan(key, None)

    def _tidy(self) -> None:
        """What an earlier run, or a store that was away, has left to do."""
        self._placing.pay_all()
        self._placing.sweep(but=self._sender.ending)

    @contextmanager
    def _lost(self, key: VersionKey, *, on_disk: bool = False) -> Iterator[None]:
        """What is to be read again begins anew; ``on_disk``: and stays here until it is complete."""
        try:
            yield
        except BytesLostError as error:
            plan = self._uploads.plan(key)
            self.discard(key)
            if on_disk or plan != Plan():
                self._learn(key, Plan(plan.final_path, on_disk or plan.on_disk))
            raise BytesLostError(error.message, [key], hint=error.hint) from error

    @contextmanager
    def _noted(
        self, key: VersionKey, failed: dict[VersionKey, OpenMSIStreamError], problems: list[StorageError]
    ) -> Iterator[None]:
        """What goes wrong with one version of a batch does not keep the others from their places."""
        try:
            with self._lost(key):
                yield
        except StorageError as error:
            problems.append(error)
        except (ProtocolError, DeliveryError, IntegrityError) as error:
            failed[key] = error

    def _learn(self, key: VersionKey, plan: Plan) -> None:
        self._planned.add(key)
        self._uploads.set_plan(key, plan)
