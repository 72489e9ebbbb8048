"""What OpenMSIStream 1.x sent from a folder, read from the registries it left in the folder's ``LOGS``.

Owns their names, their text format and how far they can be trusted. Only reads: nothing is ever written to
``LOGS``. It must not know what a ledger is, nor what is done about a file that 1.x sent.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TextIO

from openmsistream.core.selection import LOGS_FOLDER

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_TIME = re.compile(r"\S+ (\S+ \d{1,2}, \d{4} at \d\d:\d\d):(\d\d)")
_MINUTE = re.compile(r"(\S+) (\d+), (\d+) at (\d+):(\d+)")
# Since 1.8.5 a field that holds ';' or '"' is quoted as in a CSV file; before, and otherwise, it is Python's repr.
_CSV_FIELD = re.compile(r'"(?:[^"]|"")*"|[^;"]*')
_REPR_FIELD = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^;'"]*""")
_NS = 1_000_000_000


class SentPaths(Mapping[str, int]):
    """Times by relative path, kept by folder: about 110 bytes for each path, so 110 MB for a million of them."""

    def __init__(self) -> None:
        self._folders: dict[str, dict[str, int]] = {}

    def __getitem__(self, path: str) -> int:
        folder, _, name = path.rpartition("/")
        return self._folders[folder][name]

    def __iter__(self) -> Iterator[str]:
        for folder, names in self._folders.items():
            for name in names:
                yield f"{folder}/{name}" if folder else name

    def __len__(self) -> int:
        return sum(map(len, self._folders.values()))

    def add(self, path: str, time_ns: int) -> None:
        """The file was sent; of several times the last one counts."""
        folder, _, name = path.rpartition("/")
        names = self._folders.setdefault(folder, {})
        names[name] = max(time_ns, names.get(name, time_ns))

    def remove(self, path: str) -> None:
        """The file does not count as sent, if it did."""
        folder, _, name = path.rpartition("/")
        self._folders.get(folder, {}).pop(name, None)


@dataclass(frozen=True, slots=True)
class Registry1x:
    """
    What 1.x's registries say of a folder and a topic.

    Attributes:
        completed: The relative POSIX paths of the files that 1.x sent whole, with the time (ns since 1970) up to
            which it had seen every change of them: when it began to send the file, cut to the second, since what
            changed while it was being sent may not have gone out. Not in it: what it had begun to send once more.
        in_progress: Relative paths of files that 1.x had begun to send and not finished.
        files: The registry files that were read.
        skipped: How many of their lines could not be understood; what they meant counts as not sent.
        problems: One sentence for each registry file that could not be read or is none of 1.x's.
    """

    completed: Mapping[str, int] = field(default_factory=SentPaths, repr=False)
    in_progress: frozenset[str] = frozenset()
    files: tuple[Path, ...] = ()
    skipped: int = 0
    problems: tuple[str, ...] = ()

    def __len__(self) -> int:
        """How many files 1.x sent whole."""
        return len(self.completed)

    def as_of(self, path: str) -> int | None:
        """The time in ``completed`` of a path; None: 1.x did not send it whole."""
        return self.completed.get(path)

    def sent(self, path: str, mtime_ns: int) -> bool:
        """
        True when 1.x sent the file as it is now.

        1.x itself compared paths only, and never sent a file again that changed while it was off. Here a file
        that changed after 1.x sent it is not taken for sent.
        """
        as_of = self.as_of(path)
        return as_of is not None and mtime_ns <= as_of


def already_uploaded(root: Path, topic: str, logs: Path | None = None) -> Registry1x:
    """
    Read the registries that OpenMSIStream 1.x (and 0.9) left for a folder and a topic.

    The lines are read one by one; what cannot be understood is counted, never guessed. The times in them are
    local ones without a zone: they are taken in the zone this computer has now, and the earlier of two
    readings in the hour that a clock change repeats.

    Lines with an escaped character in a merged registry count as not understood: 1.x doubles backslashes at
    every merge, so the name cannot be told any more. (1.x itself sends such files again at each start.)

    Args:
        root: The watched folder.
        topic: The topic's name.
        logs: Another place than ``LOGS`` in the root to look in as well: a folder, or a log file in it (what 1.x
            was given as ``--logger_file_path``).

    Returns:
        What they say; nothing when there are none.

    Source: the compatibility facts of 1.x, "Registry files"; names of the parts, and how often a backslash is
    doubled, by running 1.8.8.
    """
    _minute_ns.cache_clear()  # the zone may have changed since
    _time_ns.cache_clear()
    reading = _Reading(os.path.join(os.path.abspath(root), ""))
    name_of_done, name_of_begun = _file_names(topic)
    for folder in _folders(root, logs):
        for name in reading.names_in(folder):
            path = folder / name
            if found := name_of_done.fullmatch(name):
                reading.read(path, reading.take_sent if found["part"] else reading.take_sent_merged)
            elif name_of_begun.fullmatch(name):
                reading.read(path, reading.take_begun)
    return reading.result()


def _folders(root: Path, logs: Path | None) -> list[Path]:
    folders = [root / LOGS_FOLDER]
    if logs is not None:
        # As in 1.x: a name with a dot is that of a file, unless there is a folder of that name.
        folders.append(logs.parent if "." in logs.name and not logs.is_dir() else logs)
    return list({os.path.realpath(folder): folder for folder in folders}.values())


def _file_names(topic: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    # A part is named after the address of the producer object. The rule is narrow on purpose: the registry of
    # the topic x_power is not a part of the registry of x.
    name, part = re.escape(topic), r"(?P<part>_p[0-9a-f]{7,16}(?:_[0-9]+(?:[._][0-9]+)?)?)?"
    return (
        re.compile(rf"(?:uploaded_to|files_fully_uploaded_to)_{name}{part}\.csv"),
        re.compile(rf"(?:upload_to_{name}(?:_in_progress)?|files_to_upload_to_{name})\.csv"),
    )


class _Reading:
    """What was found so far, over all files."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._files: list[Path] = []
        self._problems: list[str] = []
        self._skipped = 0
        self._begun: set[str] = set()
        self._sent = SentPaths()

    def names_in(self, folder: Path) -> list[str]:
        """The names in a folder, in order; none when it is not there."""
        try:
            return sorted(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self._problems.append(f"{folder}: it cannot be listed: {error.strerror or error}")
            return []

    def read(self, path: Path, take: Callable[[_Row], bool]) -> None:
        """Hand each line of a file to ``take``, which tells whether it understood."""
        try:
            with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
                first = file.readline()
                windows = first.startswith("sep=")
                header = (file.readline() if windows else first).rstrip("\n").split(";")
                if not {"rel_filepath", "filepath"} & set(header):
                    self._problems.append(f"{path}: its first line is not that of an OpenMSIStream registry")
                    return
                self._files.append(path)
                self._skipped += _count_refused(file, _Row(header, self._root, windows=windows), take)
        except OSError as error:
            self._problems.append(f"{path}: it cannot be read: {error.strerror or error}")

    def take_sent(self, row: _Row) -> bool:
        """A line of a file that holds what one producer sent."""
        path, completed = row.path(), row.time("completed")
        if path is None or completed is None:
            return False
        self._sent.add(path, min(completed, row.time("started") or completed))
        return True

    def take_sent_merged(self, row: _Row) -> bool:
        """The same, where a backslash in a name may be one that a merge put there."""
        path = row.path()
        return path is not None and "\\" not in path and self.take_sent(row)

    def take_begun(self, row: _Row) -> bool:
        """A line of a file that was begun and not finished."""
        path = row.path()
        if path is not None:
            self._begun.add(path)
        return path is not None

    def result(self) -> Registry1x:
        """All of it; what 1.x began to send once more is not what it sent before."""
        for path in self._begun:
            self._sent.remove(path)
        return Registry1x(self._sent, frozenset(self._begun), tuple(self._files), self._skipped, tuple(self._problems))


def _count_refused(lines: TextIO, row: _Row, take: Callable[[_Row], bool]) -> int:
    refused = 0
    for line in lines:
        text = line.rstrip("\n")
        if text and not (row.parse(text) and take(row)):
            refused += 1
    return refused


class _Row:
    """The fields of the line that was parsed last."""

    def __init__(self, header: Sequence[str], root: str, *, windows: bool) -> None:
        self._columns = {name: number for number, name in enumerate(header)}
        self._path_column = self._columns.get("rel_filepath", self._columns.get("filepath", 0))
        self._count = len(header)
        self._root, self._windows = root, windows
        self._fields: list[str] = []
        self._path = ""

    def parse(self, line: str) -> bool:
        """Take a line apart; False when it has not the fields that the header names."""
        if '"' not in line:
            self._fields = line.split(";")  # nearly every line, and ten times as fast
            if self._has_path():
                return True
        for pattern, unquote in ((_CSV_FIELD, _csv_unquoted), (_REPR_FIELD, str)):
            self._fields = [unquote(found) for found in _fields(line, pattern)]
            if self._has_path():
                return True
        return False

    def path(self) -> str | None:
        """The file's path relative to the root, or None when it lies elsewhere."""
        path = self._path
        if self._windows:
            path = re.sub(r"\\+", "/", path)  # no name holds a backslash there
        if path.startswith("/") or re.match("[A-Za-z]:/", path):
            root = self._root.replace("\\", "/") if self._windows else self._root
            if not path.startswith(root):
                return None
            path = path[len(root) :]
        return path or None

    def time(self, column: str) -> int | None:
        """The time in a column, ns since 1970; None when there is none that can be understood."""
        number = self._columns.get(column)
        return None if number is None else _time_ns(_literal(self._fields[number]))

    def _has_path(self) -> bool:
        if len(self._fields) != self._count:
            return False
        self._path = _literal(self._fields[self._path_column])
        return bool(self._path)


def _fields(line: str, pattern: re.Pattern[str]) -> Iterator[str]:
    """The fields of a line, as many as follow each other with ';' between."""
    at = 0
    while (found := pattern.match(line, at)) is not None:
        yield found[0]
        at = found.end() + 1
        if found.end() == len(line) or line[found.end()] != ";":
            return


def _csv_unquoted(text: str) -> str:
    return text[1:-1].replace('""', '"') if text.startswith('"') else text


def _literal(text: str) -> str:
    """The string whose Python repr this is; "" when it is none."""
    if len(text) < 3 or text[0] not in "'\"" or text[-1] != text[0]:
        return ""
    if "\\" not in text and text[0] not in text[1:-1]:
        return text[1:-1]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ""
    return value if isinstance(value, str) else ""


@lru_cache(maxsize=4096)  # equal times are one object then: 30 MB less for a million files
def _time_ns(text: str) -> int | None:
    found = _TIME.fullmatch(text)
    if found is None or (minute := _minute_ns(found[1])) is None:
        return None
    return minute + int(found[2]) * _NS


@lru_cache(maxsize=4096)
def _minute_ns(text: str) -> int | None:
    """The beginning of a minute of local time; asking for the zone is slow, and lines come nearly in order."""
    found = _MINUTE.fullmatch(text)
    if found is None:
        return None
    try:
        day, year, hour, minute = (int(found[group]) for group in (2, 3, 4, 5))
        local = datetime(year, _MONTHS.index(found[1]) + 1, day, hour, minute).astimezone()
        return int(local.timestamp()) * _NS
    except (ValueError, OverflowError, OSError):
        return None
