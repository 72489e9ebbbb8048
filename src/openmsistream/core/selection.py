"""Which files below a folder are sent or delivered, and why one is not.

Decisions on relative paths alone: this module never sees a file's size, age or content, and it does not
judge whether a path is safe (that is ``core.paths``).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Self

from openmsistream.core.paths import to_wire_bytes
from openmsistream.core.patterns import Patterns, only_takes_back
from openmsistream.errors import ConfigError, SourceError

LOGS_FOLDER = "LOGS"
"""The folder at the top of a watched root where programs in the manner of 1.x keep logs and registries."""

DEFAULT_REGEX_1X = r"^((?!(\.|.*.log))).*$"
"""What OpenMSIStream 1.x shows as the default of ``--upload_regex``; see ``Selection``."""


class Selection:
    r"""
    The rule that says which relative paths of a watched root are sent.

    Never sent, whatever the regular expression says: files whose own name begins with a dot, and everything
    in a folder ``LOGS`` at the top of the root. With neither a regular expression nor ``include``, these stay
    behind too: everything below a hidden folder, and names that end in ``.log`` in any case of letters.
    ``catalog.csv``, ``blog.dat`` and ``sub/logbook.txt`` are sent.

    What is given counts together: a file is sent when the regular expression matches, a line of ``include``
    matches, none of ``exclude`` does, and the file is in our share.

    Args:
        regex: Python regular expression that must match from the beginning of the relative POSIX path
            (``re.match``), or None for the default rule. The default text of 1.x,
            ``^((?!(\.|.*.log))).*$``, also means the default rule: scripts hand it over as "the default",
            and taken literally it drops every path with "log" anywhere behind its first character.
        include: Patterns (``core.patterns.Patterns``); None takes every file.
        exclude: Patterns; None leaves out no file.
        share: Which of how many parts of the files is ours, the part counted from 1; None: all of them. A
            file's part is the CRC32 of its path's bytes modulo the parts: the same on every computer, at every
            start and in every version of this package, whatever other files there are.

    Raises:
        ConfigError: The regular expression does not compile, a line is no pattern, a list of patterns can never
            match, or there is no such part; the text says which and where.

    Source: the compatibility facts of 1.x, "Which files are uploaded".
    """

    __slots__ = ("_default_rule", "_download", "_exclude", "_include", "_pattern", "_share")

    def __init__(
        self,
        regex: str | None = None,
        *,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        share: tuple[int, int] | None = None,
    ) -> None:
        self._pattern = None if regex is None or regex == DEFAULT_REGEX_1X else _compiled(regex)
        self._include = None if include is None else _patterns("include", include)
        self._exclude = None if exclude is None else _patterns("exclude", exclude)
        if share is not None and not 1 <= share[0] <= share[1]:
            raise ConfigError(
                f"share {share[0]}/{share[1]}: there is no such part",
                hint="for two programs give 1/2 to one and 2/2 to the other",
            )
        self._share = share
        self._default_rule = self._pattern is None and include is None
        self._download = False

    @classmethod
    def for_download(
        cls, regex: str | None = None, *, include: Sequence[str] | None = None, exclude: Sequence[str] | None = None
    ) -> Self:
        """
        Return the rule for the files of a topic: what is given counts together, None takes all.

        A file that was streamed under a temporary name is to be judged by its final one.

        Raises:
            ConfigError: The regular expression does not compile, or a line is no pattern; the text says where.
        """
        selection = cls(include=include, exclude=exclude)
        selection._pattern = None if regex is None else _compiled(regex)
        selection._download = True
        return selection

    def accepts(self, relative_path: str) -> bool:
        """Return whether the file at this relative POSIX path is selected."""
        return not self.why(relative_path)

    def why(self, relative_path: str) -> str:
        """Return the reason why the file at this relative POSIX path is left out; "" when it is selected."""
        if not self._download and (reason := self._never_sent(relative_path)):
            return reason
        if self._pattern is not None and self._pattern.match(relative_path) is None:
            return f"its path does not match the regular expression {self._pattern.pattern!r}"
        if self._include is not None and (reason := _not_included(self._include, relative_path)):
            return reason
        if self._exclude is not None and (line := self._exclude.match(relative_path)) is not None:
            return f"the pattern {line!r} of exclude matches its path"
        if self._share is not None and (part := _part(relative_path, self._share[1])) != self._share[0]:
            return f"it is in part {part}/{self._share[1]} of the files, and this program sends part {self._share[0]}"
        return ""

    def _never_sent(self, relative_path: str) -> str:
        top, separator, _ = relative_path.partition("/")
        if separator and top == LOGS_FOLDER:
            return f"it is in the folder {LOGS_FOLDER} at the top of the watched folder"
        name = relative_path.rpartition("/")[2]
        if name.startswith("."):
            return f"its name {name!r} begins with a dot (a hidden file)"
        if not self._default_rule:
            return ""
        if relative_path.startswith(".") or "/." in relative_path:
            return "it is in a folder whose name begins with a dot (a hidden folder)"
        if name.lower().endswith(".log"):
            return f"its name {name!r} ends in .log"
        return ""


def _patterns(option: str, lines: Sequence[str]) -> Patterns:
    try:
        patterns = Patterns(lines)
    except ConfigError as error:
        raise ConfigError(f"{option}: {error.message}", hint=error.hint) from error
    if only_takes_back(lines):
        raise ConfigError(
            f"{option} {', '.join(lines)}: every pattern begins with '!' and only takes back what an earlier one "
            "matched, so nothing would ever match",
            hint="put * in front, or leave the '!' away and give the patterns to "
            + ("exclude" if option == "include" else "include"),
        )
    return patterns


def _not_included(include: Patterns, relative_path: str) -> str:
    line = include.deciding(relative_path)
    if line is None:
        return f"no pattern of include matches its path ({', '.join(include.lines)})"
    return f"the pattern {line!r} of include takes it back" if line.startswith("!") else ""


def _part(relative_path: str, parts: int) -> int:
    try:
        return zlib.crc32(to_wire_bytes(relative_path)) % parts + 1
    except SourceError:
        return 1  # no bytes stand for its name, so it cannot be sent: exactly one of the programs has to say so


def _compiled(regex: str) -> re.Pattern[str]:
    try:
        return re.compile(regex)
    except re.error as error:
        place = "" if error.pos is None else f" at position {error.pos}"
        raise ConfigError(
            f"regular expression {regex!r}: {error.msg}{place}",
            hint="test the expression with python -c, or escape special characters with a backslash",
        ) from error
    except (OverflowError, RecursionError) as error:
        raise ConfigError(
            f"regular expression {regex!r}: {error}", hint="use a shorter or simpler expression"
        ) from error
