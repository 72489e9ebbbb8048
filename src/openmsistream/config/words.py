"""Commands as people type them in this system's terminal: their words from a text, and back.

The only place that knows how systems differ in quotation marks. It runs nothing.
"""

from __future__ import annotations

import os
import shlex
import subprocess

_WINDOWS = os.name == "nt"


def command_words(text: str) -> list[str]:
    """
    The program and its arguments.

    On Windows a backslash is a backslash, as it separates folders there.

    Raises:
        ValueError: A quotation mark is never closed.
    """
    if not _WINDOWS:
        return shlex.split(text)
    words = shlex.split(text, posix=False)
    return [word[1:-1] if len(word) > 1 and word[0] == word[-1] and word[0] in "\"'" else word for word in words]


def command_line(*words: str) -> str:
    """A command as it is typed or pasted, with quotation marks where they are needed."""
    return subprocess.list2cmdline(words) if _WINDOWS else shlex.join(words)
