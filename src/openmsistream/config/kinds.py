"""The kinds of values an option can have: what is allowed, how it is read and how it is shown.

Each kind takes a text (command line, config file) or a Python value (a program's own arguments) and
gives the value in its final type. It knows neither the option's name nor where the text comes from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

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
