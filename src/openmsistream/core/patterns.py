"""Lists of patterns as in a ``.gitignore``: which line of the list decides about a relative path.

Pure text: this module never sees a file system, so it takes every path as that of a file, and it does not know
whether a match means "send" or "leave out" (that is ``core.selection``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

from openmsistream.errors import ConfigError

_CLASS = re.compile(r"\\.|\[([^\]]*)(\]?)", re.DOTALL)
# What means the same in git and in Python: single characters, and ranges between letters or digits.
_PLAIN_CLASS = re.compile(r"[!^]?(?!.*(?:&&|\|\||~~))(?:\w-\w|[^\\\[/-])+")
_FOLDER_BY_MISTAKE = re.compile(r"(?<!\\)(?:\\\\)*\\\w")
_Search = Callable[[str], "re.Match[str] | None"]


class Patterns:
    r"""
    A list of patterns, in the syntax of a ``.gitignore`` at the top of the watched folder.

    The last line that matches a file decides; a line that begins with ``!`` takes back what earlier lines
    matched. A line without ``/`` in front of its last character matches at every depth, any other from the top;
    ``*`` and ``?`` stop at ``/``, ``**`` does not; a line that ends in ``/`` matches folders only, and with a
    folder everything below it. A line that matches the file itself weighs more than one that only matches a
    folder above it, wherever they stand in the list: so it is in git too.

    One thing differs from git: there, nothing below an excluded folder can be taken back, because git does not
    look into it. Here ``raw/`` and then ``!raw/keep.dat`` take ``raw/keep.dat`` back.

    Letters are compared with their case, on every system. ``?`` and ``[...]`` stand for one character of a
    name, not for one byte as in git.

    Args:
        lines: The patterns, at least one.

    Raises:
        ConfigError: There is no line, or one is no pattern; the error names the line and says why.

    Source: gitignore(5); the translation to regular expressions is pathspec's, and the tests hold the
    outcome against ``git check-ignore``.
    """

    __slots__ = ("_rules", "lines")

    def __init__(self, lines: Sequence[str]) -> None:
        if not lines:
            raise ConfigError("the list of patterns is empty", hint="give at least one pattern, as *.h5")
        self.lines = tuple(lines)
        # Last line first, as that is the one which decides.
        self._rules: list[tuple[_Search, str]] = [(_compiled(line).match, line) for line in reversed(self.lines)]

    def match(self, relative_path: str) -> str | None:
        """Return the line by which the file at this relative POSIX path matches, or None when it does not."""
        line = self.deciding(relative_path)
        return None if line is None or line[0] == "!" else line

    def deciding(self, relative_path: str) -> str | None:
        """Return the line that decides about a path; one that begins with ``!`` when it takes the path back."""
        by_folder = None
        for match, line in self._rules:
            found = match(relative_path)
            if found is None:
                continue
            # The only group of a translated line marks that it matched a folder above the file.
            if found.lastindex is None:
                return line
            by_folder = by_folder or line
        return by_folder


def only_takes_back(lines: Sequence[str]) -> bool:
    """Return whether every line begins with ``!``, so that the list can never match anything."""
    return all(line.startswith("!") for line in lines)


def _compiled(line: str) -> re.Pattern[str]:
    body = line.removeprefix("!")
    _check(line, body)
    if body != line and body[0] in "!#":
        body = f"\\{body}"  # behind a first "!" they mean nothing special
    # pathspec 1.1 takes "raw/**/" for "raw/**"; in git it means the folders below raw.
    if body.endswith("/**/") and body.strip("/") != "**":
        body = body.removesuffix("**/") + "**/*/"
    try:
        regex, include = GitIgnoreSpecPattern.pattern_to_regex(body)
    except ValueError as error:
        raise _no_pattern(line, "it cannot be understood") from error
    if regex is None or include is None:
        raise _no_pattern(line, "it can never match")
    # pathspec lets a class such as [!a] match "/" and "$" match in front of a line break that ends a name.
    regex = regex.replace("[^", "[^/").replace("|$)", r"|\Z)")
    if regex in {".", "/", "(?P<ps_d>/)"}:  # translated for re.search: anything, or anything in a folder
        regex = f".*?{regex}"
    try:
        return re.compile(regex, re.DOTALL)
    except (re.error, OverflowError, RecursionError) as error:
        raise _no_pattern(line, str(error)) from error


def _check(line: str, body: str) -> None:
    """Refuse what git would silently never match, and what pathspec reads in another way than git."""
    if not body.strip() or body != body.strip():
        raise _no_pattern(line, "it is empty, or has spaces at its beginning or end")
    if line.startswith("#"):
        raise _no_pattern(line, "a line that begins with # is a comment", hint=f"write \\{line} for such a name")
    if "\0" in line or "\n" in line:
        raise _no_pattern(line, "it contains a NUL character or a line break")
    parts = body.removeprefix("/").removesuffix("/").split("/")
    if any(part in {"", ".", ".."} for part in parts):
        raise _no_pattern(
            line,
            "one of its parts is empty, '.' or '..', and no path below the folder has such a part",
            hint="write the path below the watched folder, as raw/*.h5",
        )
    if _FOLDER_BY_MISTAKE.search(body):
        raise _no_pattern(
            line, "a backslash does not separate folders here", hint="write / between folders, also on Windows"
        )
    for found in _CLASS.finditer(body):
        if found[1] is not None and not (found[2] and _PLAIN_CLASS.fullmatch(found[1])):
            raise _no_pattern(
                line,
                f"{found[0]!r} is not a plain list or range of characters",
                hint="write [0-9], [!a-z] or [abc]; put a backslash before a [ that stands in a name",
            )


def _no_pattern(line: str, why: str, hint: str = "") -> ConfigError:
    return ConfigError(f"pattern {line!r}: {why}", hint=hint or "write it as in a .gitignore: *.h5, raw/**, !test*")
