"""What a user can choose about when a file is complete: the rule, its defaults, temporary and marker names.

Judges names and numbers alone. It must not know what was observed of any file: that is ``core.settle``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import translate

from openmsistream.errors import ConfigError

DEFAULT_TEMPORARY: tuple[str, ...] = (
    "*.tmp",
    "*.temp",
    "*.part",
    "*.partial",
    "*.filepart",  # WinSCP
    "*.crdownload",  # Chromium
    "*.download",  # Safari
    "*.incomplete",
    "*.inprogress",
    "*.writing",
    "~*",  # Microsoft Office, as ~WRD0001 and ~$report
    "*~",
    ".~*",  # LibreOffice
    ".*",  # rsync writes .scan.dat.a1B2c3; hidden names are never sent, so here they only tell of the rename
    "*.swp",  # vim
)
"""Names that files have only while they are written; matched as in ``SettleRule.is_temporary``."""

OVERDUE_SECONDS = 600.0
_PLACEHOLDER = re.compile(r"\{name\}|\{stem\}")
_MARKER_HINT = "use {name}.done for scan.dat.done, {stem}.done for scan.done, or a plain name such as READY"


class SettleMode(Enum):
    """Which evidence makes a file complete; the words are those of the option ``settle``."""

    AUTO = "auto"
    CLOSE = "close"
    QUIET = "quiet"
    MARKER = "marker"


@dataclass(frozen=True, slots=True)
class SettleRule:
    """
    When a file is taken to be complete.

    Attributes:
        mode: Which evidence counts.
        quiet_seconds: The long quiet time: how long a file must look the same; >= 0.
        closed_seconds: The short one, for a file that was closed, got its name from a temporary one, or has its
            marker; >= 0. One that is longer than ``quiet_seconds`` counts as that.
        max_wait_seconds: How long a file that does not change waits for evidence that is missing; > 0, or None:
            for ever.
        marker: Name of the marker, in the folder of the file. ``{name}`` and ``{stem}`` stand for the name of the
            file with and without its last extension; without them one marker speaks for all files of a folder.
        temporary: Patterns of the names that files have only while they are written.
        check_writers: A file that a program holds open for writing is not complete.
        overdue_seconds: After so long the user is told that a file waits: ``max_wait_seconds`` or 10 minutes, whichever
            is less, but no less than twice the quiet time. Follows from the others.

    Raises:
        ConfigError: A time is negative or not a number, or ``marker`` is not a name such as these.
    """

    mode: SettleMode = SettleMode.AUTO
    quiet_seconds: float = 3.0
    closed_seconds: float = 1.0
    max_wait_seconds: float | None = 3600.0
    marker: str = "{name}.done"
    temporary: tuple[str, ...] = DEFAULT_TEMPORARY
    check_writers: bool = True
    overdue_seconds: float = field(init=False, repr=False, compare=False)
    _starts: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _ends: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _other: re.Pattern[str] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for what, seconds in (("quiet time", self.quiet_seconds), ("quiet time after a close", self.closed_seconds)):
            if not (seconds >= 0 and math.isfinite(seconds)):
                raise ConfigError(f"{what} must be 0 s or more, got {seconds}", hint="3 s and 1 s are the defaults")
        if self.max_wait_seconds is not None and not self.max_wait_seconds > 0:
            raise ConfigError(
                f"maximum wait must be more than 0 s, got {self.max_wait_seconds}",
                hint="3600 s is the default; leave it out for files that are to wait for ever",
            )
        _check_marker(self.marker)
        overdue = min(self.max_wait_seconds or OVERDUE_SECONDS, OVERDUE_SECONDS)
        object.__setattr__(self, "overdue_seconds", max(overdue, 2 * self.quiet_seconds))
        starts, ends, other = _sorted(self.temporary)
        object.__setattr__(self, "_starts", starts)
        object.__setattr__(self, "_ends", ends)
        object.__setattr__(self, "_other", other)

    @property
    def short_seconds(self) -> float:
        """The quiet time of a file with good evidence: never longer than that of one without any."""
        return min(self.closed_seconds, self.quiet_seconds)

    def is_temporary(self, path: str) -> bool:
        """
        True when the name at the end of ``path`` is one that files have only while they are written.

        Patterns as in a shell (``*``, ``?``, ``[abc]``), held against the name whatever its capitals: Windows
        programs write ``SCAN.TMP``.
        """
        name = path.rpartition("/")[2].lower()
        return (
            name.endswith(self._ends)
            or name.startswith(self._starts)
            or (self._other is not None and self._other.match(name) is not None)
        )

    def marker_of(self, path: str) -> str:
        """The relative path of the marker that speaks for the file at ``path``."""
        folder, slash, name = path.rpartition("/")
        dot = name.rfind(".")
        stem = name[:dot] if dot > 0 else name
        own = {"{name}": name, "{stem}": stem}
        return folder + slash + _PLACEHOLDER.sub(lambda found: own[found[0]], self.marker)

    def is_marker(self, path: str) -> bool:
        """True when the file at ``path`` has the name of a marker: it could speak for other files."""
        literals = [re.escape(part) for part in _PLACEHOLDER.split(self.marker)]
        return re.fullmatch(".+".join(literals), path.rpartition("/")[2], re.DOTALL) is not None


def _check_marker(marker: str) -> None:
    literal = _PLACEHOLDER.sub("", marker)
    reason = ""
    if "/" in marker or "\\" in marker or "\0" in marker:
        reason = "it stands in the folder of the file, so it is a name and not a path"
    elif "{" in literal or "}" in literal:
        reason = "only {name} and {stem} can stand in braces"
    elif not literal or marker in {".", ".."}:
        reason = "every file, or none, would be a marker"
    if reason:
        raise ConfigError(f"marker file {marker!r}: {reason}", hint=_MARKER_HINT)


def _sorted(patterns: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...], re.Pattern[str] | None]:
    """Patterns by what they ask: beginnings, ends, and the rest; str methods are ten times as fast as the rest."""
    starts, ends, rest = [], [], []
    for pattern in (each.lower() for each in patterns):
        if pattern[:1] == "*" and not set(pattern[1:]) & set("*?["):
            ends.append(pattern[1:])
        elif pattern[-1:] == "*" and not set(pattern[:-1]) & set("*?["):
            starts.append(pattern[:-1])
        else:
            rest.append(translate(pattern))
    return tuple(starts), tuple(ends), re.compile("|".join(rest)) if rest else None
