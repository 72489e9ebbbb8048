"""Numbers of bytes in the words of people. Knows nothing else, so that every command can import it at no cost."""

from __future__ import annotations

_UNITS = ("B", "kB", "MB", "GB")


def size(count: float) -> str:
    """A number of bytes as people read it: 512 B, 1.2 MB."""
    for unit in _UNITS:
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
