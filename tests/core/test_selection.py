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


def test_include_takes_only_what_matches_and_tells_why_not():
    """With include, a file must match; the reason names the patterns, or the line that took it back."""
    selection = Selection(include=["*.h5", "raw/**", "!test*"])

    assert selection.accepts("a.h5")
    assert selection.accepts("raw/x/a.dat")
    assert selection.why("a.dat") == "no pattern of include matches its path (*.h5, raw/**, !test*)"
    assert selection.why("test1.h5") == "the pattern '!test*' of include takes it back"


def test_exclude_leaves_out_what_matches_and_names_the_line():
    """The default rule still counts beside exclude."""
    selection = Selection(exclude=["*.bak", "scratch/", "!scratch/keep.dat"])

    assert selection.accepts("a.dat")
    assert selection.accepts("scratch/keep.dat")
    assert selection.why("a.bak") == "the pattern '*.bak' of exclude matches its path"
    assert "'scratch/'" in selection.why("scratch/x.dat")
    assert "ends in .log" in selection.why("run.log")


def test_regex_include_and_exclude_all_have_to_agree():
    """A file is sent when no rule that was given is against it."""
    selection = Selection(r"run\d+/", include=["*.dat"], exclude=["*_old.dat"])

    assert selection.accepts("run1/a.dat")
    assert "regular expression" in selection.why("other/a.dat")
    assert "include" in selection.why("run1/a.csv")
    assert "exclude" in selection.why("run1/a_old.dat")


def test_include_can_ask_for_logs_and_hidden_folders_but_not_for_hidden_files():
    """What only the default rule leaves out can be had by naming it; hidden names and LOGS stay behind."""
    selection = Selection(include=["*"])

    assert selection.accepts("run.log")
    assert selection.accepts("sub/.cache/x.csv")
    assert not selection.accepts(".hidden")
    assert not selection.accepts("LOGS/uploaded_to_x.csv")


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_every_file_is_in_exactly_one_part_and_the_parts_are_alike_in_size(parts):
    """Programs that share a folder send every file once between them, each about as many."""
    selections = [Selection(share=(part + 1, parts)) for part in range(parts)]
    paths = [f"run {number // 50}/détecteur_{number}.dat" for number in range(2_000)]

    takers = [[part for part, selection in enumerate(selections) if selection.accepts(path)] for path in paths]

    assert {len(each) for each in takers} == {1}
    counts = [sum(each == [part] for each in takers) for part in range(parts)]
    assert min(counts) > 0.8 * 2_000 / parts


def test_a_files_part_is_the_crc32_of_its_bytes_so_it_never_changes():
    """Fixed values: two computers, or two versions of this package, must agree."""
    paths = ["run1/a.dat", "détecteur.raw", "\udcff.raw", "a", "b"]

    assert [[part for part in (1, 2, 3) if Selection(share=(part, 3)).accepts(path)] for path in paths] == [
        [1],
        [1],
        [1],
        [1],
        [3],
    ]
    assert Selection(share=(1, 3)).why("b") == "it is in part 3/3 of the files, and this program sends part 1"


def test_a_name_that_no_bytes_stand_for_belongs_to_the_first_part():
    """Half a surrogate pair cannot be sent; one program has to report it, and only one."""
    assert Selection(share=(1, 2)).accepts("\ud800.dat")
    assert not Selection(share=(2, 2)).accepts("\ud800.dat")


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_list_of_patterns_that_can_never_match_is_refused(option):
    """Only lines with "!" would send nothing, or leave out nothing: surely not what was meant."""
    with pytest.raises(ConfigError, match=f"{option} !a, !b: every pattern begins with '!'"):
        Selection(**{option: ["!a", "!b"]})


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_line_that_is_no_pattern_is_told_with_its_option(option):
    """The technician learns which option holds the bad line."""
    with pytest.raises(ConfigError, match=rf"{option}: pattern 'x\[': .*not a plain list"):
        Selection(**{option: ["*.h5", "x["]})


@pytest.mark.parametrize("share", [(0, 2), (3, 2), (1, 0)])
def test_a_part_that_does_not_exist_is_refused(share):
    """Parts are counted from 1."""
    with pytest.raises(ConfigError, match="no such part"):
        Selection(share=share)
