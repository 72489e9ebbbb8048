"""How a path from a topic is called at its destination: names mapped there and back, and names of further versions.

Arithmetic on text: this module never touches a file system, so it cannot know which names one takes for the same
(``adapters.filesystem.spelling`` asks it). Whether a path is safe is decided by ``core.paths``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from hashlib import blake2b

from openmsistream.core.paths import PART_BYTES_MAX, check_relative, from_wire_bytes, to_wire_bytes
from openmsistream.core.versions import VersionKey

# What Windows takes in no name (the control characters and these), and bytes that are not UTF-8. Source: Microsoft,
# "Naming Files, Paths, and Namespaces". Then "%", where it would be read as the beginning of one of our escapes.
_LOOKS_ESCAPED = re.compile("%(?=[0-9A-Fa-f]{2})")
_FORBIDDEN = re.compile('[\x01-\x1f:*?"<>|\\\\\udc80-\udcff]|%(?=[0-9A-Fa-f]{2})')
_DEVICE = re.compile(
    r"(?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(?:COM|LPT)[1-9\u00b9\u00b2\u00b3]) *(?:\.|\Z)", re.IGNORECASE
)
_PERHAPS = re.compile(
    '[\x01-\x1f:*?"<>|\\\\%\udc80-\udcff]|[. ](?:/|\\Z)|(?:\\A|/)(?:con|prn|aux|nul|com|lpt)', re.IGNORECASE
)
"""Finds every path that has something to be mapped, and a few that have not: one search for all that are fine."""
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TAG_BYTES = (4, 8, 20)
VERSION_NAMES = len(_TAG_BYTES)
"""How many names there are for one version beside an existing file, each to be tried when the one before is taken."""


class NameRule(Enum):
    """What becomes of a name that Windows cannot have."""

    KEEP = "keep"
    MAP = "map"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Naming:
    """
    The names at one destination.

    Attributes:
        rule: KEEP: as they are (what the destination itself cannot have is refused). MAP: what Windows cannot have is
            written as ``%`` and two hexadecimal digits for each byte. REFUSE: such a path is refused.
        windows: The destination is a Windows system, so such names are never kept.
        folds: The destination takes names for the same that differ in upper and lower case: ``%`` is mapped where it
            would be read as an escape, since one of two such names gets escapes (``part``).
    """

    rule: NameRule = NameRule.KEEP
    windows: bool = False
    folds: bool = False

    def check(self, path: str) -> str:
        """
        Return ``path`` unchanged when a file of that path can be delivered.

        Raises:
            ProtocolError: It cannot; the text says why (see ``core.paths.check_relative``).
        """
        self.stored(path)
        return path

    def stored(self, path: str) -> str:
        """
        Return the relative path that a file of this path stands under. No two paths give the same one.

        Raises:
            ProtocolError: There is none: the path leads outside, or a name is longer than 255 bytes once it is mapped.
        """
        if self.rule is NameRule.MAP:
            if _PERHAPS.search(path) is not None:
                path = "/".join(escaped(part) for part in path.split("/"))
        elif self.folds:
            path = _LOOKS_ESCAPED.sub("%25", path)
        return check_relative(path, windows=self.windows or self.rule is not NameRule.KEEP)

    def part(self, part: str, letters: int) -> str:
        """
        The name that one part of a path stands under, with so many of its letters written as escapes.

        Another spelling of a name that is taken by a file of another path; ``original`` reads it all the same.
        """
        if self.rule is NameRule.MAP:
            return escaped(part, letters=letters)
        return escaped(part, letters=letters, forbidden=False) if self.folds else part

    def original(self, stored: str) -> str:
        """Return the path whose file stands under ``stored``: the inverse of ``stored`` and ``part``."""
        if self.rule is not NameRule.MAP and not self.folds:
            return stored
        return unescaped(stored)


def letters_in(part: str) -> int:
    """How many letters of a name are written differently in upper and lower case."""
    return sum(letter.lower() != letter.upper() for letter in part)


def escaped(part: str, *, letters: int = 0, forbidden: bool = True) -> str:
    """
    Return a name that Windows takes, from which ``unescaped`` makes the given one again.

    Args:
        part: One part of a path; ``.`` and ``..`` stay as they are, to be refused.
        letters: How many letters that have upper and lower case are written as escapes, from the first on.
        forbidden: Also map what Windows does not take; otherwise only what looks like an escape.
    """
    if part in {"", ".", ".."}:
        return part
    part = from_wire_bytes(to_wire_bytes(part))
    pattern = _FORBIDDEN if forbidden else _LOOKS_ESCAPED
    wanted = {match.start() for match in pattern.finditer(part)}
    if forbidden and part[-1] in ". ":
        wanted.add(len(part) - 1)
    if forbidden and _DEVICE.match(part):
        wanted.add(0)
    for at, letter in enumerate(part):
        if letters <= 0:
            break
        if letter.lower() != letter.upper():
            wanted.add(at)
            letters -= 1
    if not wanted:
        return part
    return "".join(_escape(letter) if at in wanted else letter for at, letter in enumerate(part))


def unescaped(stored: str) -> str:
    """Return the path that was mapped to ``stored``; what is no escape stays as it is."""
    return from_wire_bytes(_ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode()), to_wire_bytes(stored)))


def version_name(path: str, key: VersionKey, mtime_ns: int | None, attempt: int = 0) -> str:
    """
    Return the path of a version whose own path is taken by another: ``scan~20260131-174501-9f3c2e51.csv``.

    The sender's time of modification (UTC; left out when it is unknown or not from the years 1970 to 9999), then what
    only this version has. The same version always gets the same name, on every computer; a name that would be
    longer than 255 bytes is cut before the ``~``.

    Args:
        path: Where it would stand.
        key: The version.
        mtime_ns: Its time of modification, in ns since 1970.
        attempt: 0 to ``VERSION_NAMES`` - 1: the next name, should that one be taken as well.
    """
    folder, slash, name = path.rpartition("/")
    stem, dot, extension = name.rpartition(".")
    if not stem:
        stem, dot, extension = name, "", ""
    size = _TAG_BYTES[attempt]
    tag = blake2b(key.version + b"/" + to_wire_bytes(key.path), digest_size=size).hexdigest()
    suffix = f"~{_time(mtime_ns)}{tag}{dot}{extension}"
    if len(to_wire_bytes(suffix)) > PART_BYTES_MAX:  # an "extension" as long as a name
        stem, suffix = name, f"~{_time(mtime_ns)}{tag}"
    return folder + slash + _cut(stem, PART_BYTES_MAX - len(to_wire_bytes(suffix))) + suffix


def _time(mtime_ns: int | None) -> str:
    if mtime_ns is None or mtime_ns < 0:
        return ""
    try:
        return (_EPOCH + timedelta(seconds=mtime_ns // 10**9)).strftime("%Y%m%d-%H%M%S-")
    except OverflowError:
        return ""


def _cut(text: str, size: int) -> str:
    raw = to_wire_bytes(text)
    if len(raw) <= size:
        return text
    while size and raw[size] & 0xC0 == 0x80:  # not in the middle of a character
        size -= 1
    return from_wire_bytes(raw[:size])


def _escape(letter: str) -> str:
    return "".join(f"%{byte:02X}" for byte in to_wire_bytes(letter))


def naming_for(rule: str, *, windows: bool, folds: bool) -> Naming:
    """
    The names at a destination.

    Args:
        rule: keep, map, refuse; auto: map on Windows, keep elsewhere.
        windows: It is a Windows system.
        folds: It takes names for the same that differ in upper and lower case.
    """
    if rule == "auto":
        rule = "map" if windows else "keep"
    return Naming(NameRule(rule), windows=windows, folds=folds)
