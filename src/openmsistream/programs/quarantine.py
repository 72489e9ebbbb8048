"""Trying again what stands in quarantine: decoded and checked anew, put together, and delivered where the name is free.

Records are put together out of sight, with the chunks that are missing read from the topic where it still has them; a
file appears whole and with the right hash, or not at all. The running downloader and its ledger are left alone. Must
not know how an outcome is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum

from openmsistream.adapters.filesystem.quarantine import Entry, Quarantine, part_name
from openmsistream.adapters.filesystem.staging import Staging, digest_of
from openmsistream.adapters.kafka.whole_topic import WholeTopic
from openmsistream.adapters.sqlite.scratch import OffsetTable
from openmsistream.config.models import ProgramConfig
from openmsistream.core.assembly import Assembly, OpenVersion, Verb
from openmsistream.core.chunk import Chunk, HashName
from openmsistream.core.events import Event
from openmsistream.core.versions import VersionKey, VersionOrder, is_newer, key_of
from openmsistream.core.wire.recognise import decode_record
from openmsistream.errors import DeliveryError, IntegrityError, ProtocolError
from openmsistream.pipeline.delivery import final_path
from openmsistream.pipeline.runner import Control
from openmsistream.ports import Publication, Record
from openmsistream.programs.comparing import Progress
from openmsistream.programs.destinations import Destination
from openmsistream.programs.setup import PATIENCE_SECONDS, reach
from openmsistream.programs.topic_versions import final_path_of

_WITHOUT_TOPIC = "give --config NAME to have the others read from the topic, as long as it has them"
_ELSEWHERE = "--as PATH delivers it under another name"


class Result(Enum):
    """What became of an entry; the values are the words of ``--json``."""

    DELIVERED = "delivered"  # its file stands at the destination, and the entry is gone from quarantine
    NOTHING_TO_DELIVER = "nothing to deliver"  # it can be read now and holds no bytes of a file; the entry is gone
    KEPT = "kept"  # it still cannot be handled


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one entry, and why; ``path`` is its file's, "" when that is not known."""

    entry: Entry
    result: Result
    path: str
    reason: str
    hint: str = ""


@dataclass(slots=True)
class _Version:
    """A version that is put together anew: the entries that it needs, and why it was put aside."""

    path: str
    ids: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Ready:
    """
    A version that is whole and right, and waits for its name.

    Attributes:
        name: What it is called in the staging.
        publication, order: What it is, and its place among the versions of its path.
        ids: Its entries.
        is_file: Its bytes stand in quarantine alone, and stay there when a newer version gets the name.
    """

    name: str
    publication: Publication
    order: VersionOrder
    ids: list[str]
    is_file: bool = False


class Retry:
    """
    Tries entries again.

    Args:
        quarantine: Where they are.
        destination: Where their files are delivered.
        tell: Called with what became of each.
        progress: Told how much of a topic was read.
        config: Where the topics are, to read missing chunks from; None: missing chunks are not looked for.
        topic: The topic of entries that do not say which one they came from.
        accept: Deliver a file that was put aside even when its bytes do not have the hash that its sender gave.
        rename: Deliver under this relative path instead; for one entry only.

    Raises:
        ProtocolError: No file can have the path given as ``rename``.
    """

    def __init__(
        self,
        quarantine: Quarantine,
        destination: Destination,
        tell: Callable[[Outcome], None],
        progress: Progress,
        *,
        config: ProgramConfig | None = None,
        topic: str = "",
        accept: bool = False,
        rename: str = "",
    ) -> None:
        self._quarantine, self._destination, self._tell, self._progress = quarantine, destination, tell, progress
        self._config, self._topic, self._accept = config, topic, accept
        self._staging = Staging(quarantine.work)
        self._rename = destination.check(rename) if rename else ""
        self._assembly = Assembly()
        self._versions: dict[str, _Version] = {}
        self._ready: dict[str, list[_Ready]] = {}
        self._whole: dict[str, _Ready] = {}
        self._from_topic: dict[str, set[str]] = {}

    def run(self, ids: Iterable[str]) -> None:
        """
        Try these entries again, records in the order in which they stood on their topics.

        Raises:
            ConfigError: Another retry runs on this folder, or the topic is not there.
            StorageError: The destination, or the work folder, cannot be written.
            UnavailableError, DeliveryError: The topic cannot be read.
        """
        records, files = OffsetTable(), list[tuple[int, int, str]]()
        try:
            for name in ids:
                entry = self._quarantine.find(name)
                if entry is None:
                    continue
                if entry.is_file:
                    files.append((entry.when_ns, entry.offset or 0, entry.id))
                else:
                    records.add(entry.topic, entry.partition or 0, entry.offset or 0, entry.id)
            with self._staging:
                for name in records.in_order():
                    self._record(name)
                for *_, name in sorted(files):
                    self._file(name)
                for topic in sorted(self._from_topic) if self._config is not None else ():
                    self._read_topic(topic)
                for path, versions in self._ready.items():
                    self._newest(path, versions)
                self._rest()
        finally:
            records.close()

    # -- records ------------------------------------------------------------------------------------------------

    def _record(self, name: str) -> None:
        entry = self._quarantine.find(name)
        record = None if entry is None else self._quarantine.record(entry)
        if entry is None:
            return
        if record is None:
            self._kept(entry.id, "its bytes or its note are gone from the quarantine")
            return
        try:
            chunk = decode_record(record.value, record.headers)
            path = self._rename or self._destination.check(final_path_of(chunk))
        except ProtocolError as error:
            self._kept(entry.id, error.message, error.hint)
            return
        if chunk.abort is not None or chunk.alive:
            what = "a sign of life of its sender" if chunk.alive else f"its sender gave the file up: {chunk.abort}"
            self._done(entry.id, Result.NOTHING_TO_DELIVER, path, what)
            return
        name = part_name(key_of(chunk))
        if (ready := self._whole.get(name)) is not None:
            ready.ids.append(entry.id)  # the same chunk, once more
            return
        version = self._versions.setdefault(name, _Version(path))
        version.ids.add(entry.id)
        self._from_topic.setdefault(entry.topic, set()).add(name)
        reason = self._take(chunk, record)
        if reason:
            version.refused[entry.id] = reason

    def _take(self, chunk: Chunk, record: Record) -> str:
        """Put a chunk to its version; why it cannot be, or ""."""
        key = key_of(chunk)
        step = self._assembly.step(
            chunk, partition=record.partition, offset=record.offset, timestamp_ms=record.timestamp_ms
        )
        if step.verb is Verb.REFUSE or step.version is None:
            return step.reason
        if step.verb is Verb.WRITE:
            self._staging.write(part_name(key), chunk.offset, chunk.payload)
        if step.complete:
            self._assembly.close(key)
            self._complete(step.version)
        return ""

    def _complete(self, version: OpenVersion) -> None:
        name = part_name(version.key)
        wanted = self._versions.pop(name)
        digest, expected = self._staging.digest(name, version.hash_name), version.digest or b""
        if digest != expected and not self._accept:
            self._staging.discard(name)
            for each in sorted(wanted.ids):
                self._kept(each, _wrong_hash(version.hash_name, expected, digest), _hash_hint(), wanted.path)
            return
        path = self._rename or final_path(version)
        publication = Publication(
            version.key, path, version.size or 0, version.mtime_ns, digest, version.hash_name, version.order
        )
        ready = self._whole[name] = _Ready(name, publication, version.order, sorted(wanted.ids))
        self._ready.setdefault(path, []).append(ready)

    def _newest(self, path: str, versions: list[_Ready]) -> None:
        """Deliver the newest of the versions of a path; the others are done with once it is there."""
        newest = versions[0]
        for other in versions[1:]:
            if is_newer(other.order, newest.order):
                newest = other
        delivered = self._deliver(newest.ids, newest.name, newest.publication)
        for other in versions:
            if other is newest:
                continue
            self._staging.discard(other.name)
            for each in other.ids:
                if delivered and other.is_file:
                    self._kept(each, "a newer version of its file was delivered", _ELSEWHERE, path)
                elif delivered:
                    self._done(each, Result.NOTHING_TO_DELIVER, path, "a newer version of its file was delivered")
                else:
                    self._kept(each, "a newer version of its file could not be delivered", "", path)

    def _deliver(self, ids: list[str], name: str, publication: Publication) -> bool:
        reason, hint = "something else of that name is there, and nothing is replaced", _ELSEWHERE
        try:
            delivered = self._destination.add(self._staging.finish(name), publication)
        except ProtocolError as error:
            delivered, reason = False, error.message
        except (DeliveryError, IntegrityError) as error:
            delivered, reason, hint = False, error.message, error.hint
        finally:
            self._staging.discard(name)
        for each in ids:
            if delivered:
                self._done(each, Result.DELIVERED, publication.path, f"whole, and {self._destination.where}")
            else:
                self._kept(each, reason, hint, publication.path)
        return delivered

    # -- files that were put aside ------------------------------------------------------------------------------

    def _file(self, name: str) -> None:
        entry = self._quarantine.find(name)
        if entry is None:
            return
        if entry.size is None:
            self._wait_for_topic(entry)
            return
        hash_name = entry.hash_name or HashName.BLAKE3
        found = digest_of(self._quarantine.bytes_path(entry), hash_name)
        right = entry.digest is not None and found == entry.digest
        if not right and not self._accept:
            self._wait_for_topic(entry)
            return
        if not entry.exact_path and not self._rename:
            self._kept(entry.id, "its name is not valid Unicode, and only how it looks was kept", _ELSEWHERE)
            return
        self._staging.take(self._quarantine.bytes_path(entry), entry.id)
        path = self._rename or entry.path
        # A note that does not say the version leaves the digest for it, as with 1.x.
        key = VersionKey(path, entry.version or found)
        publication = Publication(key, path, entry.size, entry.mtime_ns, found, hash_name)
        order = VersionOrder(None, None, None, entry.when_ns // 1_000_000)  # as they came: nothing else is noted
        self._ready.setdefault(path, []).append(_Ready(entry.id, publication, order, [entry.id], is_file=True))

    def _wait_for_topic(self, entry: Entry) -> None:
        """Its bytes are not right; those on the topic may be."""
        self._versions.setdefault(entry.id, _Version(entry.path)).ids.add(entry.id)
        self._from_topic.setdefault(entry.topic or self._topic, set()).add(entry.id)

    # -- what the topic still has -------------------------------------------------------------------------------

    def _read_topic(self, topic: str) -> None:
        """Put to the versions that are not whole what the topic still has of them."""
        wanted = {name for name in self._from_topic[topic] if name in self._versions}
        if not wanted or self._config is None or not topic:
            return
        settings = self._config.consumer.settings
        whole = WholeTopic(settings, reach(settings, topic, _ignore, Control(), PATIENCE_SECONDS))
        count = size = 0
        try:
            for record in whole.records():
                count, size = count + 1, size + len(record.value or b"")
                self._progress(f"reading topic {topic}", count, whole.total, size)
                try:
                    chunk = decode_record(record.value, record.headers)
                except ProtocolError:
                    continue
                name = part_name(key_of(chunk))
                if name not in wanted or name not in self._versions or chunk.abort is not None:
                    continue
                self._take(chunk, record)
                if name not in self._versions:
                    wanted.discard(name)
                if not wanted:
                    return
        finally:
            whole.close()

    def _rest(self) -> None:
        """What did not become whole."""
        opened = {part_name(version.key): version for version in self._assembly.versions()}
        for name, wanted in self._versions.items():
            version = opened.get(name)
            for each in sorted(wanted.ids):
                entry = self._quarantine.find(each)
                if entry is None:
                    continue
                if entry.is_file:
                    self._put_aside(entry)
                elif each in wanted.refused:
                    self._kept(each, wanted.refused[each], "", wanted.path)
                elif version is not None:
                    came = f"{version.received.total:,}" + (f" of {version.size:,}" if version.size is not None else "")
                    reason = f"it can be read now, but only {came} bytes of its file are there"
                    self._kept(entry.id, reason, self._hint_for_rest(), wanted.path)

    def _put_aside(self, entry: Entry) -> None:
        if entry.size is None:
            self._kept(entry.id, f"{entry.reason}; its bytes are gone", self._hint_for_rest())
            return
        found = digest_of(self._quarantine.bytes_path(entry), entry.hash_name or HashName.BLAKE3)
        self._kept(entry.id, _wrong_hash(entry.hash_name or HashName.BLAKE3, entry.digest, found), _hash_hint())

    def _hint_for_rest(self) -> str:
        return "send the file again" if self._config is not None else _WITHOUT_TOPIC

    def _done(self, name: str, result: Result, path: str, reason: str) -> None:
        entry = self._quarantine.find(name)
        if entry is not None:
            self._quarantine.drop(entry)
            self._tell(Outcome(entry, result, path, reason))

    def _kept(self, name: str, reason: str, hint: str = "", path: str = "") -> None:
        entry = self._quarantine.find(name)
        if entry is not None:
            self._tell(Outcome(entry, Result.KEPT, path or entry.path, reason, hint))


def judge(quarantine: Quarantine, entry: Entry) -> tuple[str, Chunk | None]:
    """
    What the present version of this package says of an entry.

    Args:
        quarantine: Where it is.
        entry: The entry.

    Returns:
        A sentence, and the chunk in a record that can be decoded.
    """
    if entry.is_file:
        if entry.size is None:
            return "its bytes are gone", None
        hash_name = entry.hash_name or HashName.BLAKE3
        found = digest_of(quarantine.bytes_path(entry), hash_name)
        if entry.digest == found:
            return f"its bytes have the hash that its sender gave ({hash_name.value} {found.hex()})", None
        return _wrong_hash(hash_name, entry.digest, found), None
    record = quarantine.record(entry)
    if record is None:
        return "its bytes or its note are gone", None
    try:
        chunk = decode_record(record.value, record.headers)
    except ProtocolError as error:
        return f"it still cannot be read: {error.message}", None
    try:
        final_path_of(chunk)
    except ProtocolError as error:
        return f"it can be decoded, and still not be delivered: {error.message}", chunk
    return "it can be decoded, and its path is allowed: retry puts its file together", chunk


def _wrong_hash(hash_name: HashName, expected: bytes | None, found: bytes) -> str:
    if not expected:
        return f"the hash that its sender gave was not kept; its bytes have {hash_name.value} {found.hex()}"
    return f"its sender gave {hash_name.value} {expected.hex()}, its bytes have {found.hex()}"


def _hash_hint() -> str:
    return "--config NAME reads it from the topic anew; --accept delivers these bytes as they are"


def _ignore(event: Event) -> None:
    """That the broker is awaited is told by the error that follows, or by nothing."""
