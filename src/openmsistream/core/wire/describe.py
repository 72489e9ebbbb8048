"""Put a value from a hostile record into an error text: short, and without ever failing.

This module knows MessagePack's types by their Python names only; it must not know any wire format.
"""

from __future__ import annotations

_SHOWN_MAX = 60


def describe(value: object) -> str:
    """
    Return ``value`` as an error text shows it: numbers, truth values and text by value, the rest by type.

    At most about 100 characters, or 60 escapes, whatever the value is. Lists and maps are not looked into:
    a few thousand bytes can nest them deeper than ``repr`` follows.
    """
    match value:
        case None | bool() | float():
            return repr(value)
        case int():
            return str(value)  # MessagePack integers have 64 bits, so at most 20 digits
        case str() if len(value) <= _SHOWN_MAX:
            return repr(value)
        case str():
            return f"a text of {len(value):,} characters that begins {value[:_SHOWN_MAX]!r}"
        case bytes():
            return f"{len(value):,} bytes"
        case list():
            return f"a list of {len(value):,}"
        case dict():
            return f"a map of {len(value):,}"
        case _:
            return f"a value of type {type(value).__name__}"
