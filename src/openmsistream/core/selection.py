"""Which files below a folder are sent or delivered, and why one is not.

Decisions on relative paths alone: this module never sees a file's size, age or content, and it does not
judge whether a path is safe (that is ``core.paths``).
"""

from __future__ import annotations

import re
from typing import Self

from openmsistream.errors import ConfigError

LOGS_FOLDER = "LOGS"
"""The folder at the top of a watched root where programs in the manner of 1.x keep logs and registries."""

DEFAULT_REGEX_1X = r"^((?!(\.|.*.log))).*$"
"""What OpenMSIStream 1.x shows as the default of ``--upload_regex``; see ``Selection``."""


class Selection:
    r"""
    The rule that says which relative paths of a watched root are sent.

    Never sent, whatever the regular expression says: files whose own name begins with a dot, and everything
    in a folder ``LOGS`` at the top of the root. With no regular expression, these stay behind too: everything
    below a hidden folder, and names that end in ``.log`` in any case of letters. ``catalog.csv``,
    ``blog.dat`` and ``sub/logbook.txt`` are sent.

    Args:
        regex: Python regular expression that must match from the beginning of the relative POSIX path
            (``re.match``), or None for the default rule. The default text of 1.x,
            ``^((?!(\.|.*.log))).*$``, also means the default rule: scripts hand it over as "the default",
            and taken literally it drops every path with "log" anywhere behind its first character.

    Raises:
        ConfigError: The regular expression does not compile; the text says where.

    Source: the compatibility facts of 1.x, "Which files are uploaded".
    """

    __slots__ = ("_download", "_pattern")

    def __init__(self, regex: str | None = None) -> None:
        self._pattern = None if regex is None or regex == DEFAULT_REGEX_1X else _compiled(regex)
        self._download = False

    @classmethod
    def for_download(cls, regex: str | None = None) -> Self:
        """
        Return the rule for the files of a topic: the regular expression alone decides, None takes all.

        Raises:
            ConfigError: The regular expression does not compile; the text says where.
        """
        selection = cls()
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
        return ""

    def _never_sent(self, relative_path: str) -> str:
        top, separator, _ = relative_path.partition("/")
        if separator and top == LOGS_FOLDER:
            return f"it is in the folder {LOGS_FOLDER} at the top of the watched folder"
        name = relative_path.rpartition("/")[2]
        if name.startswith("."):
            return f"its name {name!r} begins with a dot (a hidden file)"
        if self._pattern is not None:
            return ""
        if relative_path.startswith(".") or "/." in relative_path:
            return "it is in a folder whose name begins with a dot (a hidden folder)"
        if name.lower().endswith(".log"):
            return f"its name {name!r} ends in .log"
        return ""


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
