"""Commands as people type them: what is shown can be pasted, on each system with its own quotation marks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmsistream.config import words
from openmsistream.config.words import command_line, command_words

posix_only = pytest.mark.skipif(words._WINDOWS, reason="Windows has quotation marks of its own")


@posix_only
@given(st.lists(st.text(st.characters(exclude_characters="\0")), min_size=1))
def test_what_is_shown_is_read_as_the_same_words(said: list[str]) -> None:
    """Whatever stands in them: spaces, quotation marks, backslashes, line ends."""
    assert command_words(command_line(*said)) == said


def test_windows_keeps_backslashes_and_knows_double_quotation_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    """cmd.exe takes ' for a letter, so a folder with a space stands between double ones."""
    monkeypatch.setattr(words, "_WINDOWS", True)
    said = ("openmsistream", "quarantine", "list", r"C:\lab data\x")
    shown = command_line(*said)
    assert shown == r'openmsistream quarantine list "C:\lab data\x"'
    assert command_words(shown) == list(said)
