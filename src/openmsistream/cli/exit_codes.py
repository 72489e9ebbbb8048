"""How the commands end, for scripts (listed in the README)."""

OK = 0
ERROR = 1
"""Something failed; the error says what, where, and what to try."""
UNFINISHED = 3
"""Stopped before everything was done; the next start goes on."""
INTERRUPTED = 130
