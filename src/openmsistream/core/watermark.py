"""The watermark of a partition: the offset below which every file is finished.

It is the only offset ever committed to Kafka: whoever reads on from it misses no chunk of a file
that is still open. Pure arithmetic on offsets.
"""

from __future__ import annotations

from collections.abc import Iterable


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


def start_position(
    *, ledger: int | None, committed: int | None, log_start: int, log_end: int
) -> tuple[int | None, str]:
    """
    Where to start reading a partition that was just assigned, and why.

    Args:
        ledger: Exact position our own ledger holds for this topic id, or None.
        committed: The group's committed watermark, or None.
        log_start: Oldest offset still on the topic.
        log_end: Offset that the next produced record will get.

    Returns:
        The offset (None: nobody knows, so ``auto.offset.reset`` decides), and the reason in words. An offset
        below ``log_start`` means records were removed before they were read: the caller reports the gap.

    The ledger is used only if it is not behind the commit (then another member of the group went on from
    there) and not beyond the end of the log (then the topic is not the one it was).
    """
    if ledger is not None and ledger <= log_end and (committed is None or committed <= ledger):
        return ledger, "goes on where this program stopped"
    if committed is not None and committed <= log_end:
        return committed, "goes on at the offset the group committed"
    if committed is None and ledger is None:
        return None, "new here"
    return log_start, "the topic is shorter than what was read of it before: reads it from the start"
