"""Promises of ``core.selection``: which files are sent, and why one is not."""

from __future__ import annotations

import re

import pytest

from openmsistream.core.selection import DEFAULT_REGEX_1X, Selection
from openmsistream.errors import ConfigError


@pytest.mark.parametrize(
    "path",
    [
        "catalog.csv",
        "blog.dat",
        "dialog_1.csv",
        "sub/logbook.txt",
        "prologue/x.dat",
        "log.txt",
        "x.log.gz",
        "LOGS",
        "sub/LOGS/x.csv",
        "logs/x.csv",
        "line\nbreak.csv",
        "\udcff.raw",
    ],
)
@pytest.mark.parametrize("regex", [None, DEFAULT_REGEX_1X])
def test_a_name_with_log_somewhere_in_it_is_sent(path, regex):
    """Only what really is a log file stays behind, also when a script hands over 1.x's default text."""
    assert Selection(regex).accepts(path)
    assert Selection(regex).why(path) == ""


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (".hidden", "begins with a dot"),
        ("sub/.hidden.csv", "begins with a dot"),
        (".git/config", "hidden folder"),
        ("sub/.cache/x.csv", "hidden folder"),
        ("run.log", "ends in .log"),
        ("sub/RUN.LOG", "ends in .log"),
        ("LOGS/uploaded_to_x.csv", "folder LOGS"),
        ("LOGS/deep/x.csv", "folder LOGS"),
    ],
)
@pytest.mark.parametrize("regex", [None, DEFAULT_REGEX_1X])
def test_hidden_files_and_logs_are_not_sent_and_the_reason_is_told(path, reason, regex):
    """The default rule leaves out hidden files and folders, logs, and the LOGS folder."""
    assert not Selection(regex).accepts(path)
    assert reason in Selection(regex).why(path)


def test_the_default_text_of_1x_would_drop_a_catalog_if_it_were_taken_literally():
    """Control: this is why that text is understood as "the default rule"."""
    assert re.match(DEFAULT_REGEX_1X, "catalog.csv") is None


def test_a_regular_expression_decides_from_the_beginning_of_the_relative_path():
    """As in 1.x: ``re.match`` on the path with its folders, open at the end."""
    selection = Selection(r"run\d+/.*\.csv")

    assert selection.accepts("run7/scan.csv")
    assert selection.accepts("run7/scan.csv.part")
    assert not selection.accepts("old/run7/scan.csv")
    assert "does not match the regular expression" in selection.why("old/run7/scan.csv")


def test_a_regular_expression_can_ask_for_logs_and_hidden_folders():
    """What only the default rule leaves out can be had by naming it."""
    assert Selection(".*").accepts("run.log")
    assert Selection(".*").accepts("sub/.cache/x.csv")


@pytest.mark.parametrize("path", [".hidden", "sub/.hidden", "LOGS/x.csv"])
def test_hidden_names_and_the_logs_folder_stay_behind_under_any_expression(path):
    """As in 1.x: no regular expression sends a hidden file or the program's own logs."""
    assert not Selection(".*").accepts(path)


@pytest.mark.parametrize("path", [".hidden", "a.log", "LOGS/x", ".git/x", "scan.csv"])
def test_a_download_without_expression_takes_everything(path):
    """What was sent is delivered: the exclusions belong to the sending side."""
    assert Selection.for_download().accepts(path)


def test_a_download_expression_alone_decides():
    """A download filter sees hidden names and logs like any other path."""
    selection = Selection.for_download(r".*\.log$")

    assert selection.accepts("LOGS/a.log")
    assert selection.accepts(".hidden.log")
    assert not selection.accepts("a.csv")


def test_a_download_takes_the_default_text_of_1x_literally():
    """It was never the default of a download, so whoever writes it there means it."""
    assert not Selection.for_download(DEFAULT_REGEX_1X).accepts("catalog.csv")


@pytest.mark.parametrize("make", [Selection, Selection.for_download])
def test_an_expression_that_does_not_compile_is_told_with_its_position(make):
    """The technician learns which expression, what is wrong, and where."""
    with pytest.raises(ConfigError, match=r"'a\(b': .*unterminated.* at position 1"):
        make("a(b")


def test_an_expression_with_an_absurd_count_is_told_too():
    """``re`` reports numbers beyond its limits in a way of its own."""
    with pytest.raises(ConfigError, match="regular expression"):
        Selection("a{99999999999999999999}")
