"""The kinds of values that only the delivery of files has: permissions, an owner, a command.

Like ``config.kinds``: it knows neither an option's name nor what is done with its value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from openmsistream.config.words import command_words


@dataclass(frozen=True, slots=True)
class Mode:
    """
    Permissions as ``chmod`` takes them: three or four octal digits, up to 777.

    Attributes:
        least: What they have to allow.
    """

    metavar: str = "MODE"
    least: int = 0

    def accept(self, value: object) -> int:
        """The number; an int is one already."""
        text = f"{value:o}" if isinstance(value, int) else str(value).strip()
        mode = int(text, 8) if re.fullmatch(r"0?[0-7]{1,3}", text) else -1
        if mode < 0:
            raise ValueError("is not a mode as 640: three digits from 0 to 7")
        if mode & self.least != self.least:
            raise ValueError(f"is not a mode that this program could work with: it needs at least {self.least:o}")
        return mode

    def show(self, value: object) -> str:
        """The digits."""
        return f"{value:o}" if isinstance(value, int) else str(value)


@dataclass(frozen=True, slots=True)
class Owner:
    """A user, a group or both, by name or number: ``lab``, ``lab:xrd``, ``:xrd``."""

    metavar: str = "USER:GROUP"

    def accept(self, value: object) -> str:
        """The text."""
        text = str(value).strip()
        if not re.fullmatch(r"[^:\s]+(:[^:\s]+)?|:[^:\s]+", text):
            raise ValueError("is not an owner as lab, lab:xrd or :xrd")
        return text

    def show(self, value: object) -> str:
        """The text."""
        return str(value)


@dataclass(frozen=True, slots=True)
class Command:
    """A command with its arguments, quoted as in a shell; no shell ever sees it."""

    metavar: str = "COMMAND"

    def accept(self, value: object) -> str:
        """The text."""
        text = str(value)
        try:
            words = command_words(text)
        except ValueError as error:
            raise ValueError(f"is not a command: {str(error).lower()}") from None
        if not words or "\0" in text:
            raise ValueError("is not a command")
        return text

    def show(self, value: object) -> str:
        """The text."""
        return str(value)
