"""The kinds of values an option can have: what is allowed, how it is read and how it is shown.

Each kind takes a text (command line, config file) or a Python value (a program's own arguments) and
gives the value in its final type. It knows neither the option's name nor where the text comes from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from openmsistream.errors import ConfigError

_LEVELS = {"notset": 0, "debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


class Kind(Protocol):
    """What one kind of value has to say; ``accept`` raises ValueError("is not ...")."""

    @property
    def metavar(self) -> str:
        """What stands for the value in a help text."""
        ...

    def accept(self, value: object) -> object:
        """The value in its final type; ValueError says what it is not, to be put behind the value."""
        ...

    def show(self, value: object) -> str:
        """The value as a user would write it."""
        ...


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number from ``low`` to ``high``."""

    low: int
    high: int
    metavar: str = "N"

    def accept(self, value: object) -> int:
        """An int in the range."""
        text = str(value).strip()
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text) or not self.low <= int(text) <= self.high:
            raise ValueError(f"is not a whole number from {self.low} to {self.high}")
        return int(text)

    def show(self, value: object) -> str:
        """The digits."""
        return str(value)


@dataclass(frozen=True, slots=True)
class Number:
    """A number from ``low`` to ``high``, with decimals if need be."""

    low: float
    high: float
    metavar: str = "SECONDS"

    def accept(self, value: object) -> float:
        """A float in the range; NaN is in no range."""
        problem = f"is not a number from {self.low:.12g} to {self.high:.12g}"
        try:
            number = float(str(value))
        except ValueError:
            raise ValueError(problem) from None
        if not self.low <= number <= self.high:
            raise ValueError(problem)
        return number

    def show(self, value: object) -> str:
        """Without ".0" at the end."""
        return f"{value:.12g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, slots=True)
class Text:
    """Any text that is not empty."""

    metavar: str = "TEXT"

    def accept(self, value: object) -> str:
        """The text as it is."""
        if not isinstance(value, str) or not value.strip():
            raise ValueError("is not a text with at least one character")
        return value

    def show(self, value: object) -> str:
        """The text."""
        return str(value)


@dataclass(frozen=True, slots=True)
class Topic:
    """The name of a Kafka topic. Source: Kafka, ``org.apache.kafka.common.internals.Topic``."""

    metavar: str = "TOPIC"

    def accept(self, value: object) -> str:
        """The name, when Kafka would take it."""
        text = str(value)
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", text) or text in {".", ".."}:
            raise ValueError(
                'is not a topic name: 1 to 249 letters without accents, digits, ".", "_" and "-" are allowed'
            )
        return text

    def show(self, value: object) -> str:
        """The name."""
        return str(value)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def metavar(self) -> str:
        """The words to choose from."""
        return "{" + ",".join(self.words) + "}"

    def accept(self, value: object) -> str:
        """The word in small letters."""
        text = str(value).strip().lower()
        if text not in self.words:
            raise ValueError("is not one of " + ", ".join(self.words))
        return text

    def show(self, value: object) -> str:
        """The word."""
        return str(value)


@dataclass(frozen=True, slots=True)
class Switch:
    """On or off: on the command line an option without a value."""

    metavar: str = ""

    def accept(self, value: object) -> bool:
        """True or False."""
        text = str(value).strip().lower()
        if text in {"true", "yes", "on", "1"}:
            return True
        if text in {"false", "no", "off", "0"}:
            return False
        raise ValueError("is not true or false")

    def show(self, value: object) -> str:
        """The words "on" and "off"."""
        return "on" if value else "off"


@dataclass(frozen=True, slots=True)
class Level:
    """A logging level by name, or by number as 1.x also takes it."""

    metavar: str = "LEVEL"

    def accept(self, value: object) -> int:
        """The number that Python's logging uses; 0 to 1000."""
        text = str(value).strip().lower()
        number = _LEVELS.get(text)
        if number is None and re.fullmatch(r"[0-9]{1,4}", text) and int(text) <= 1000:
            number = int(text)
        if number is None:
            raise ValueError(f"is not a level: {', '.join(_LEVELS)} or a number from 0 to 1000 are allowed")
        return number

    def show(self, value: object) -> str:
        """The name if it has one."""
        return next((name for name, number in _LEVELS.items() if number == value), str(value))


@dataclass(frozen=True, slots=True)
class Regex:
    """A Python regular expression, kept as text."""

    metavar: str = "REGEX"

    def accept(self, value: object) -> str:
        """The text, when it compiles."""
        text = value.pattern if isinstance(value, re.Pattern) else str(value)
        try:
            re.compile(text)
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from None
        if not isinstance(text, str):
            raise ValueError("is not a regular expression for text")  # noqa: TRY004 - one error for all kinds
        return text

    def show(self, value: object) -> str:
        """The text."""
        return str(value)


@dataclass(frozen=True, slots=True)
class Patterns:
    """
    One or more patterns: in a config file one per line or separated by commas, on the command line also repeated.

    Attributes:
        of_names: They are held against a file's name as in a shell, not against its path as in a ``.gitignore``.
    """

    metavar: str = "PATTERN"
    of_names: bool = False

    def accept(self, value: object) -> tuple[str, ...]:
        """The patterns in their order, at least one."""
        texts = [value] if isinstance(value, str) else list(value) if isinstance(value, list | tuple) else [""]
        parts = tuple(part for text in texts for piece in re.split(r"[,\n]", str(text)) if (part := piece.strip()))
        if not parts or any("\0" in part for part in parts):
            raise ValueError("is not a list of patterns, as *.tmp or ~*")
        if self.of_names:
            wrong = next((part for part in parts if re.search(r"^!|[/\\]", part)), None)
            if wrong is not None:
                raise ValueError(f"is not a list of names: {wrong!r} begins with ! or holds a / or \\")
            return parts
        from openmsistream.core.patterns import Patterns as Compiled  # noqa: PLC0415 - --help needs no pathspec

        try:
            Compiled(parts)
        except ConfigError as error:
            raise ValueError(f"is not a list of patterns: {error.message}; {error.hint}") from None
        return parts

    def show(self, value: object) -> str:
        """The patterns with commas between."""
        return ", ".join(value) if isinstance(value, tuple) else str(value)


_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


@dataclass(frozen=True, slots=True)
class Rate:
    """Bytes per second: ``20MB/s``, ``512 KiB/s``, ``1000000``."""

    metavar: str = "RATE"

    def accept(self, value: object) -> float:
        """Bytes per second, at least 1000."""
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([kmg]?i?b?)(?:/s|ps)?", str(value).strip().lower())
        number = float(match[1]) * _UNITS.get(match[2], 0) if match else 0.0
        if number < 1000:
            raise ValueError("is not a rate of at least 1 kB/s, as 20MB/s or 512KiB/s")
        return number

    def show(self, value: object) -> str:
        """In MB/s, with all its digits."""
        return f"{value / 1e6:.12g}MB/s" if isinstance(value, int | float) else str(value)


_SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
_NEVER = frozenset({"none", "never", "off"})


@dataclass(frozen=True, slots=True)
class Duration:
    """A time as people say it: ``30``, ``30s``, ``10m``, ``2h``, ``1d``, up to ``high`` seconds; ``none``: never."""

    high: float
    metavar: str = "TIME"

    def accept(self, value: object) -> float:
        """Seconds; 0 for "none"."""
        text = str(value).strip().lower()
        if text in _NEVER:
            return 0.0
        match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]*)?)\s*([a-z]*)", text)
        seconds = float(match[1]) * _SECONDS.get(match[2], float("nan")) if match else float("nan")
        if not 0 <= seconds <= self.high:
            raise ValueError(f"is not a time such as 30s, 10m or 2h (up to {self.show(self.high)}), or none")
        return seconds

    def show(self, value: object) -> str:
        """In the largest unit that leaves a whole number."""
        seconds = float(str(value))
        if not seconds:
            return "none"
        unit = next(unit for unit in ("d", "h", "m", "s") if unit == "s" or seconds % _SECONDS[unit] == 0)
        return f"{seconds / _SECONDS[unit]:.12g}{unit}"


@dataclass(frozen=True, slots=True)
class Marker:
    """The name of a marker file beside the file it speaks for: ``{name}.done``, ``{stem}.ok``, ``READY``."""

    metavar: str = "NAME"

    def accept(self, value: object) -> str:
        """The name with its placeholders."""
        text = str(value).strip()
        own = re.sub(r"\{(?:name|stem)\}", "", text)
        if not own or text in {".", ".."} or re.search(r"[{}/\\\0]", own):
            raise ValueError("is not the name of a marker file, as {name}.done, {stem}.done or a plain name")
        return text

    def show(self, value: object) -> str:
        """The name."""
        return str(value)


@dataclass(frozen=True, slots=True)
class Share:
    """One of several equal parts: ``1/2``, ``3/3``."""

    metavar: str = "PART/PARTS"

    def accept(self, value: object) -> tuple[int, int]:
        """The part, from 1, and how many there are."""
        text = "/".join(map(str, value)) if isinstance(value, tuple) else str(value)
        match = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", text.strip())
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError("is not a part of a whole, as 1/2 and 2/2 for two programs")
        return int(match[1]), int(match[2])

    def show(self, value: object) -> str:
        """Part and parts."""
        return "/".join(map(str, value)) if isinstance(value, tuple) else str(value)


@dataclass(frozen=True, slots=True)
class FilePath:
    """
    A path.

    Attributes:
        must_be: ``file`` or ``folder``: it has to exist. ``new folder``: it will be made, so nothing
            else may be in its place. Empty: anything.
    """

    metavar: str
    must_be: str = ""

    def accept(self, value: object) -> Path:
        """The path, as given."""
        if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
            raise ValueError("is not a path")
        path = Path(value)
        if self.must_be == "file" and not path.is_file():
            raise ValueError("is a folder, not a file" if path.is_dir() else "is not an existing file")
        if self.must_be == "folder" and not path.is_dir():
            raise ValueError("is a file, not a folder" if path.is_file() else "is not an existing folder")
        if self.must_be == "new folder" and path.exists() and not path.is_dir():
            raise ValueError("is a file, not a folder")
        return path

    def show(self, value: object) -> str:
        """The path."""
        return str(value)
