"""Identifiers of file versions: UUIDv7 values, made from a time and random bytes that the caller gives.

Pure: the clock and the randomness are arguments, so the same arguments give the same id.
"""

from __future__ import annotations

VERSION_ID_BYTES = 16
RANDOM_BYTES = 10


def uuid7(now_ns: int, random: bytes) -> bytes:
    """
    The 16 bytes of a UUIDv7: ids made later sort later.

    Args:
        now_ns: Time in ns since 1970; its milliseconds fill the first 48 bits.
        random: 10 random bytes; 6 bits of them are replaced by the version and variant.

    Source: RFC 9562, section 5.7.
    """
    milliseconds = (now_ns // 1_000_000) & ((1 << 48) - 1)
    tail = bytearray(random[:RANDOM_BYTES])
    tail[0] = 0x70 | (tail[0] & 0x0F)  # version 7
    tail[2] = 0x80 | (tail[2] & 0x3F)  # variant 10
    return milliseconds.to_bytes(6, "big") + bytes(tail)


def next_generation(last: int, now_ns: int) -> int:
    """The counter of the next version: greater than ``last`` even when the clock ran backwards."""
    return max(last + 1, now_ns)
