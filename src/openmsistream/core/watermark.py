"""The watermark of a partition, what is committed beside it, and where reading starts with both.

The watermark is the offset below which every file is finished: the only offset ever committed to Kafka, so that
whoever reads on from it misses no chunk of a file that is still open. The commit's metadata string says which
versions are open, so that nothing finished is delivered again. Pure: offsets and text, no Kafka, no ledger.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from openmsistream.core.versions import TAG_LETTERS

METADATA_BYTES = 4095
"""
What a broker takes with one commit. Source: the default of Kafka's ``offset.metadata.max.bytes``, 4,096, less the zero
byte that confluent-kafka sends behind it (checked with 2.16).
"""
_FORM = "oms1"
_HEAD_BYTES = 64  # form, topic, two offsets of up to 16 hex digits, checksum, colons
TAGS_MAX = (METADATA_BYTES - _HEAD_BYTES) // TAG_LETTERS
"""So many open versions of one partition fit into a commit: 671."""


def watermark(position: int, open_first_offsets: Iterable[int]) -> int:
    """
    The offset to commit.

    Args:
        position: Offset of the next record to read; everything below it was handled.
        open_first_offsets: For each version still open: the offset of its first record.

    Returns:
        The smallest of them all: never beyond ``position``, never beyond an open version's first record.
    """
    return min(position, min(open_first_offsets, default=position))


@dataclass(frozen=True, slots=True)
class Mark:
    """
    What a commit says of one partition.

    Attributes:
        watermark: The committed offset.
        position: ``open`` are the versions that were open when everything below this offset was read: of what
            lies below, everything else is finished.
        read: What was read in all; beyond ``position`` only when more versions were open than fit.
        open: The tags of these versions (``versions.tag_of``).
    """

    watermark: int
    position: int
    read: int
    open: frozenset[str]

    def takes(self, offset: int, tag: str, *, begins: bool) -> bool:
        """
        True when a record below ``read`` belongs to a version that may be unfinished.

        Args:
            offset: The record's.
            tag: Its version's.
            begins: The version is known here, or its chunks come in any order, or this is its first chunk.
        """
        if offset < self.position:
            return tag in self.open
        return begins or tag in self.open


def mark_of(low: int, position: int, open_versions: Iterable[tuple[int, str]], limit: int = TAGS_MAX) -> Mark:
    """
    What to commit.

    Args:
        low: The watermark.
        position: Offset of the next record to read.
        open_versions: For each version open in the partition: the offset of its first record there, and its tag.
        limit: How many tags fit.

    Returns:
        The mark. When more versions are open than fit, its ``position`` is an earlier one, at which fewer were: who
        goes on from there reads more again. It is never below the ``position`` of a mark made before, as all
        versions that are open now and began below that one were listed in it.
    """
    found = sorted(open_versions)
    at = position if len(found) <= limit else found[limit][0]
    listed = frozenset(tag for first, tag in found[:limit] if first < at)
    return Mark(low, at, position, listed)


def topic_tag(identity: str) -> str:
    """Eight letters that stand for a topic of a cluster, other ones once it was deleted and made again."""
    return hashlib.blake2b(identity.encode(), digest_size=4).hexdigest()


def encode_mark(mark: Mark, topic: str) -> str:
    """
    The metadata string of a commit: at most 4,095 ASCII letters.

    ``oms1:TOPIC:POSITION:AHEAD:TAGS:CHECKSUM``; the offsets are hexadecimal, AHEAD is ``read`` less ``position``,
    the tags stand one behind the other without anything between, the checksum is the CRC32 of all before it.

    Args:
        mark: The mark.
        topic: Its ``topic_tag``.
    """
    ahead = mark.read - mark.position
    text = f"{_FORM}:{topic}:{mark.position:x}:{ahead:x}:{''.join(sorted(mark.open))}:"
    return f"{text}{zlib.crc32(text.encode()):08x}"


def decode_mark(low: int, text: str) -> tuple[Mark, str] | None:
    """
    The mark and the topic tag of a commit at offset ``low``; None when the string is not ours or damaged.

    Then only the offset counts: a 1.x program or another tool committed it.
    """
    parts = text.split(":")
    if len(parts) != 6 or parts[0] != _FORM or len(parts[4]) % TAG_LETTERS:
        return None
    body, checksum = text[: -len(parts[5])] if parts[5] else text, parts[5]
    try:
        if int(checksum, 16) != zlib.crc32(body.encode()):
            return None
        position, ahead = int(parts[2], 16), int(parts[3], 16)
    except ValueError:
        return None
    if position < low or ahead < 0:
        return None
    tags = parts[4]
    listed = frozenset(tags[at : at + TAG_LETTERS] for at in range(0, len(tags), TAG_LETTERS))
    return Mark(low, position, position + ahead, listed), parts[1]


class Why(Enum):
    """Why reading starts where it does."""

    LEDGER = "goes on where this program stopped"
    GROUP = "goes on where the group stopped"
    NEW = "nobody has read it before"
    SHORTER = "it is shorter than what was read of it before"
    SET_BACK = "the group's offset was set back"
    SET_FORWARD = "the group's offset was set forward"


@dataclass(frozen=True, slots=True)
class Start:
    """
    Where to start reading a partition.

    Attributes:
        offset: None: nobody knows, so ``auto.offset.reset`` decides. Below the oldest record still there: the
            caller reports the gap.
        why: Why there.
        mark: What was committed, when that counts: it says what to leave out below its ``read``.
    """

    offset: int | None
    why: Why
    mark: Mark | None = None


def start_position(
    *,
    ledger: int | None,
    holds: Callable[[str], bool],
    committed: int | None,
    mark: Mark | None,
    log_start: int,
    log_end: int,
) -> Start:
    """
    Where to start reading a partition that was just assigned.

    Args:
        ledger: Exact position our own ledger holds for this topic id, or None.
        holds: True for the tag of a version whose chunks below ``ledger`` our ledger has, or that it has ended.
        committed: The group's committed watermark, or None.
        mark: What was committed with it, or None: then nobody knows what was read beyond the offset.
        log_start: Oldest offset still on the topic.
        log_end: Offset that the next produced record will get.

    The ledger is used only if its position lies within [watermark, end of log], is not behind what the group read,
    and it has every version that was open then. Otherwise reading starts at the watermark.
    """
    usable = ledger is not None and ledger <= log_end
    if committed is None:
        if ledger is None:
            return Start(None, Why.NEW)
        return Start(ledger, Why.LEDGER) if usable else Start(log_start, Why.SHORTER)
    if committed > log_end:
        return Start(log_start, Why.SHORTER)
    if mark is not None and mark.read > log_end:
        return Start(committed, Why.SHORTER)  # what lies beyond the end is written anew, and is to be read
    if mark is not None:
        if ledger is not None and usable and ledger >= mark.read and all(map(holds, mark.open)):
            return Start(ledger, Why.LEDGER, mark)
        return Start(committed, Why.GROUP, mark)
    if ledger is None or ledger == committed:
        return Start(committed, Why.GROUP)
    if not usable:
        return Start(committed, Why.SHORTER)
    return Start(committed, Why.SET_BACK if committed < ledger else Why.SET_FORWARD)
