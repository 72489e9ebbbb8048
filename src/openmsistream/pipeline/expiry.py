"""When an open version is not waited for any more, and what becomes of what came of it.

A version expires when no record of it came for long, in the topic's own time: the newest timestamp of its partition,
and the wall clock only where the partition was read to its end. Its bytes are kept within bounds, and go on should
more come; it holds no watermark. Knows the core and the ports.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from openmsistream.core.assembly import OpenVersion
from openmsistream.core.chunk import Chunk, HashName
from openmsistream.core.events import FileExpired, Note
from openmsistream.core.versions import VersionKey, key_of, tag_of
from openmsistream.core.watermark import Start
from openmsistream.pipeline.runner import Every
from openmsistream.ports import Clock, DownloadLedger, Events, Expired, Record

DAY_SECONDS = 86_400.0
LOOK_SECONDS = 60.0
QUIET_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class ExpirySettings:
    """
    How long to wait, and what to keep.

    Attributes:
        seconds: A version expires when no record of it came for so long; 0: never.
        keep_seconds, keep_bytes, keep_versions: What is kept of expired versions, the longest expired going first.
    """

    seconds: float = 7 * DAY_SECONDS
    keep_seconds: float = 30 * DAY_SECONDS
    keep_bytes: int = 10_000_000_000
    keep_versions: int = 10_000


class Expiry:
    """
    The expired versions of one consumer, and the time by which the others are judged.

    Attributes:
        kept: The expired versions whose bytes are kept, the longest expired first.
        added, removed: What changed since the last barrier, for the ledger.
    """

    def __init__(self, ledger: DownloadLedger, clock: Clock, events: Events, settings: ExpirySettings) -> None:
        self._clock, self._events, self._settings = clock, events, settings
        self.kept: dict[VersionKey, Expired] = {each.version.key: each for each in ledger.expired()}
        self._of_path: dict[str, set[VersionKey]] = {}
        for key in self.kept:
            self._of_path.setdefault(key.path, set()).add(key)
        self._bytes = sum(each.version.received.total for each in self.kept.values())
        self.added: dict[VersionKey, Expired] = {}
        self.removed: dict[VersionKey, None] = {}
        self._newest_ms: dict[int, int] = {}
        self._caught_up_ms: dict[int, int] = {}
        self._look = Every(min(LOOK_SECONDS, settings.seconds / 4), first=clock.monotonic())
        self._quiet_since = clock.monotonic()

    # -- time -----------------------------------------------------------------------------------------------

    def seen(self, record: Record) -> int:
        """
        The topic's time when a record came, in ms since 1970.

        A sender's clock may be years behind: then what its partition said before counts, and what the clock here
        said when the partition was last read to its end, since the record came after that.
        """
        partition, newest = record.partition, self._newest_ms.get(record.partition, 0)
        if record.timestamp_ms > newest:
            newest = self._newest_ms[partition] = min(record.timestamp_ms, self._clock.now_ns() // 1_000_000)
        return max(newest, self._caught_up_ms.get(partition, 0))

    def due(self, now: float) -> bool:
        """True when it is time to look for versions that expire."""
        return self._settings.seconds > 0 and self._look.due(now)

    def moved(self) -> None:
        """Partitions came or went: those that are elsewhere now may come back at once."""
        self._quiet_since = self._clock.monotonic()

    def over(
        self, versions: Iterable[OpenVersion], owned: Collection[int], at_end: Callable[[int], bool]
    ) -> list[tuple[OpenVersion, float]]:
        """
        Which of these open versions expire now, with the seconds since their last record.

        Args:
            versions: Open versions.
            owned: The partitions that are ours.
            at_end: True for a partition that was read to its end.
        """
        wall = self._clock.now_ns() // 1_000_000
        ended = {partition: wall for partition in owned if at_end(partition)}
        self._caught_up_ms.update(ended)
        found = []
        for version in versions:
            times = [
                ended.get(partition, self._newest_ms.get(partition, 0))
                for partition in version.first_offsets
                if partition in owned
            ]
            age = (min(times, default=0) - version.seen_ms) / 1000
            if age >= self._settings.seconds:
                found.append((version, age))
        return found

    def stale(self, unclaimed: Iterable[OpenVersion]) -> list[OpenVersion]:
        """Which versions of partitions that others have are too old to hold room here as open ones."""
        if self._clock.monotonic() - self._quiet_since < QUIET_SECONDS:
            return []
        wall = self._clock.now_ns() // 1_000_000
        return [v for v in unclaimed if (wall - v.seen_ms) / 1000 >= self._settings.seconds]

    # -- what is kept ---------------------------------------------------------------------------------------

    def keep(self, version: OpenVersion) -> None:
        """The version expired; its bytes stay where they are."""
        expired = Expired(version, self._clock.now_ns() // 1_000_000)
        self.kept[version.key] = self.added[version.key] = expired
        self._of_path.setdefault(version.key.path, set()).add(version.key)
        self._bytes += version.received.total
        self.removed.pop(version.key, None)

    def tell(self, version: OpenVersion, path: str, age_seconds: float) -> None:
        """Report that a version expired, and why it never became whole."""
        days = age_seconds / DAY_SECONDS
        waited = f"{days:.3g} days" if days >= 1 else f"{age_seconds:.3g} seconds"
        reason = f"no record of it came for {waited}"
        first = next(iter(version.received), (0, 0))[0]
        if first > 0 and version.hash_name is HashName.BLAKE3:
            reason += f", and its first {first} bytes were never read here"
        elif version.size is not None and version.received.total < version.size:
            reason += f", and {version.size - version.received.total} of its {version.size} bytes are missing"
        self._events(FileExpired(path, version.received.total, version.size, age_seconds, reason))

    def revive(self, record: Record, chunk: Chunk, path: str) -> OpenVersion | None:
        """
        The version a late record belongs to, open again, if it had expired.

        It holds the watermark from this record on, no longer from its first one: that was given free.
        """
        key = key_of(chunk)
        if key not in self.kept:
            return None
        version = self.forget(key)
        if chunk.abort is not None:
            return None
        version = replace(version, first_offsets={record.partition: record.offset})
        text = f"{path}: more of this file came after it had expired: it goes on"
        hole = chunk.offset - version.received.end
        if hole > 0 and version.hash_name is HashName.BLAKE3:
            text += f", but {hole} bytes before that are missing"
        self._events(Note(text, hint="send the file again if it does not become whole" if hole > 0 else ""))
        return version

    def forget(self, key: VersionKey) -> OpenVersion:
        """The version is open again, or finished, or its bytes are gone."""
        expired = self.kept.pop(key)
        keys = self._of_path[key.path]
        keys.discard(key)
        if not keys:
            del self._of_path[key.path]
        self._bytes -= expired.version.received.total
        self.added.pop(key, None)
        self.removed[key] = None
        return expired.version

    def without_bytes(self, keys: Iterable[VersionKey]) -> None:
        """The partial files of these are not there: nothing of them is kept."""
        for key in list(keys):
            self.forget(key)

    def listed(self, starts: Mapping[int, Start]) -> list[OpenVersion]:
        """The kept versions that whoever had a partition before still waits for; they are kept no longer."""
        found = [
            key
            for key, each in self.kept.items()
            for partition in each.version.first_offsets.keys() & starts.keys()
            if (mark := starts[partition].mark) is not None and tag_of(key) in mark.open
        ]
        return [self.forget(key) for key in dict.fromkeys(found)]

    def of_path(self, path: str) -> list[OpenVersion]:
        """The kept versions that were announced under ``path``."""
        return [self.kept[key].version for key in self._of_path.get(path, ())]

    def too_much(self) -> list[VersionKey]:
        """The kept versions that are beyond the bounds now; the caller discards and forgets them."""
        settings, size, count = self._settings, self._bytes, len(self.kept)
        before_ms = self._clock.now_ns() // 1_000_000 - settings.keep_seconds * 1000
        found = []
        for key, each in self.kept.items():
            if size <= settings.keep_bytes and count <= settings.keep_versions and each.at_ms >= before_ms:
                break
            found.append(key)
            size, count = size - each.version.received.total, count - 1
        return found

    def tell_discarded(self, version: OpenVersion, path: str) -> None:
        """Report that what was kept of an expired version is gone."""
        age = (self._clock.now_ns() // 1_000_000 - version.seen_ms) / 1000
        reason = "it had expired, and what came of it was kept for as long as the bounds allow"
        self._events(FileExpired(path, version.received.total, version.size, age, reason, kept=False))

    def written(self) -> None:
        """The ledger knows it all."""
        self.added.clear()
        self.removed.clear()
