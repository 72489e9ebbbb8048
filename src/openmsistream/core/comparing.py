"""What is known of one file in one place, and what a comparison of places can find out about it.

Values of ``openmsistream verify``: pure, without a folder, a topic or a bucket. Which finding it is, is decided where
the places are asked (``programs.comparing``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from openmsistream.core.chunk import HashName


class Kind(Enum):
    """What is wrong with a file in a place; the values are the words of ``--json``."""

    MISSING = "missing"  # an earlier place has it
    EXTRA = "extra"  # the first place does not have it
    DIFFERENT = "different"  # size or content is not that of an earlier place
    CHANGING = "changing"  # it changed, came or went while the places were compared: nothing can be said
    INCOMPLETE = "incomplete"  # the topic holds only part of its newest version
    DAMAGED = "damaged"  # its bytes on the topic do not have the hash that its sender gave
    UNREADABLE = "unreadable"  # it, or a folder, cannot be read


@dataclass(frozen=True, slots=True)
class Item:
    """
    One file in one place.

    Attributes:
        name: Relative POSIX path.
        size: In bytes.
        stamp: What changes when the file does; only its place understands it.
        hash_name, digest: A whole-file digest that is known without reading the file, and its function.
        problem: Why it cannot be compared; None: it can.
        reason: Says more about ``problem``.
    """

    name: str
    size: int
    stamp: str = ""
    hash_name: HashName | None = None
    digest: bytes | None = None
    problem: Kind | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be: ``place`` is where, ``reason`` says what was found there."""

    kind: Kind
    place: str
    path: str
    reason: str
