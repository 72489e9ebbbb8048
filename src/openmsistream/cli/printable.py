"""Text as it may be shown on a terminal or stand in a log: one line, valid Unicode, no control characters.

File names come from instruments and from topics: a line break in one would make two lines of one, and an escape
sequence would be obeyed by the terminal.
"""

from __future__ import annotations

_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
    0x2028: "\\u2028",  # line and paragraph separator: str.splitlines and some viewers break lines there
    0x2029: "\\u2029",
}


def printable(text: str) -> str:
    """The text with everything escaped that a terminal would not simply show."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").translate(_ESCAPES)
