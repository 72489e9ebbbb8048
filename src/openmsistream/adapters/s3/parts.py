"""How an object of unknown size is cut into parts, and one CRC from those of its parts.

Pure arithmetic: this module never sees a byte of content, nor a store.

Source: "Amazon S3 multipart upload limits": at most 10,000 parts, each but the last of 5 MiB to 5 GiB.
"""

from __future__ import annotations

from dataclasses import dataclass

from openmsistream.errors import DeliveryError

PART_BYTES = 8 * 1024 * 1024
FIRST_PARTS, SAME_SIZE_PARTS = 2000, 900
"""The first parts have that size: all of a file up to 15.6 GiB. It doubles behind them, and after so many again."""
PARTS_MAX = 10_000

# CRC-32 as in zlib, bits reflected: x^0 is the highest bit.
_POLYNOMIAL = 0xEDB88320
_ONE = 1 << 31


@dataclass(frozen=True, slots=True)
class PartSpan:
    """Where a part lies in its object, as a half-open range of bytes; ``number`` counts from 1."""

    number: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        """How many bytes it has when it is full."""
        return self.stop - self.start


def part_at(offset: int) -> PartSpan:
    """
    Return the part that holds the byte at ``offset``: the same for every object, whenever it is asked.

    Raises:
        DeliveryError: The byte lies beyond 6.6 TiB. Most stores take objects of up to 5 TiB.
    """
    begin, first, size, count = 0, 1, PART_BYTES, FIRST_PARTS
    while first <= PARTS_MAX:
        count = min(count, PARTS_MAX - first + 1)
        end = begin + count * size
        if offset < end:
            index = (offset - begin) // size
            start = begin + index * size
            return PartSpan(first + index, start, start + size)
        begin, first, size, count = end, first + count, 2 * size, SAME_SIZE_PARTS
    raise DeliveryError(f"an object store takes files of up to {begin:,} bytes, and this one has more")


def joined_crc32(first: int, second: int, second_bytes: int) -> int:
    """
    Return the CRC-32 of two pieces one behind the other, from their CRC-32s.

    Source: Mark Adler's description of ``crc32_combine`` (zlib): appending n zero bytes multiplies by x^(8n).
    """
    power, factor, bits = _ONE, _POWERS[3], second_bytes
    while bits:
        if bits & 1:
            power = _product(factor, power)
        factor = _product(factor, factor)
        bits >>= 1
    return _product(power, first) ^ second


def _product(a: int, b: int) -> int:
    """The product of two polynomials modulo CRC-32's."""
    result = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            result ^= b
        b = b >> 1 ^ _POLYNOMIAL if b & 1 else b >> 1
    return result


def _squares(count: int) -> list[int]:
    found = [_ONE >> 1]  # x
    while len(found) < count:
        found.append(_product(found[-1], found[-1]))
    return found


_POWERS = _squares(4)  # x, x^2, x^4, x^8
