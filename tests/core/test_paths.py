"""Promises of ``core.paths``: what a topic may name, and where a path's records go."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmsistream.core.paths import (
    WORK_FOLDER,
    check_relative,
    from_wire_bytes,
    partition_for,
    to_wire_bytes,
)
from openmsistream.errors import ConfigError, ProtocolError, SourceError

REFUSED = "outside the output folder|not a valid name"
HOSTILE_PARTS = st.sampled_from(
    ["..", ".", "", "/", "a", "b.txt", "C:", "nul", "COM1.x", "\\", "\0", "~", "OPENMS~1", ".OpenMSIStream"]
)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "//server/share",
        "..",
        "../up",
        "a/../../b",
        "a/..",
        ".",
        "./a",
        "a/./b",
        "a//b",
        "a/",
        "C:\\x",
        "C:x",
        "c:/x",
        "\\\\server\\share\\x",
        "a\\b",
        "..\\up",
        "NUL",
        "nul.txt",
        "a/CON",
        "aux.tar.gz",
        "prn .csv",
        "COM1",
        "lpt9.dat",
        "com\u00b9",
        "LPT\u00b3.x",
        "CONIN$",
        "conout$.log",
        "a\x00b",
        "\ud800",
        "x" * 256,
        "é" * 128,
        "a/" * 2048 + "b",
        WORK_FOLDER,
        f"{WORK_FOLDER}/ledger.db",
        ".OpenMSIStream/x",
        ".openm\u017fistream/x",
        ".open\u200cmsistream/x",
    ],
)
@pytest.mark.parametrize("windows", [False, True])
def test_paths_that_leave_the_output_folder_are_refused_everywhere(path, windows):
    """A topic cannot name a file outside the folder it is delivered to, on any platform."""
    with pytest.raises(ProtocolError, match=REFUSED) as caught:
        check_relative(path, windows=windows)
    assert len(str(caught.value)) < 1_500


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/..", "C:x", "a\\b"])
def test_a_path_that_points_elsewhere_is_told_from_a_bad_name(path):
    """An attempt to leave the folder reads differently in the quarantine than an odd name."""
    with pytest.raises(ProtocolError, match="outside the output folder"):
        check_relative(path)


@pytest.mark.parametrize(
    "path",
    [
        "scan.csv",
        "run 01/détecteur/scan;0001 (\u03b1).csv",
        "ab:c",
        "12:30:05.dat",
        "line\nbreak",
        "tab\tbell\x07",
        "trailing dot.",
        "trailing space ",
        "...",
        "..a/b..",
        ".hidden/x",
        "what?*<>|\"'",
        "null",
        "console.log",
        "COM0",
        "com10.txt",
        "x.nul",
        "-rf",
        "~",
        "$HOME",
        "\udcff\udc80.raw",
        "x" * 255,
        "a/" + WORK_FOLDER,
        "OPENMS~1/x",
    ],
)
def test_names_with_anything_else_in_them_survive_on_posix(path):
    """Whatever an instrument calls its files, it arrives under that name."""
    assert check_relative(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "ab:c",
        "scan.csv:stream",
        "what?",
        "a*b",
        'say "x"',
        "<x>",
        "a|b",
        "line\nbreak",
        "bell\x07",
        "dot.",
        "space ",
        "sub./x",
        "...",
        "OPENMS~1/x",
        "opa1B2~12/x",
    ],
)
def test_windows_also_refuses_what_it_would_store_under_another_name(path):
    """A consumer on Windows never delivers a file under a name that was not sent."""
    assert check_relative(path) == path
    with pytest.raises(ProtocolError, match="not a valid name"):
        check_relative(path, windows=True)


def test_ordinary_names_are_fine_on_windows_too():
    """The stricter rules leave usual names alone."""
    path = "run 01/détecteur/scan;0001 (\u03b1) [b] 'c' & d.csv"
    assert check_relative(path, windows=True) == path


@given(path=st.one_of(st.text(max_size=30), st.lists(HOSTILE_PARTS, max_size=5).map("/".join)))
def test_an_accepted_path_stays_below_the_folder_by_the_rules_of_pathlib(path):
    """Whatever is accepted, joining it to a folder gives something strictly inside that folder."""
    for windows, flavour, root in (
        (False, PurePosixPath, "/out"),
        (False, PureWindowsPath, "D:/out"),
        (True, PureWindowsPath, "D:/out"),
    ):
        try:
            check_relative(path, windows=windows)
        except ProtocolError:
            continue
        joined = flavour(root) / path
        assert flavour(root) in joined.parents
        assert ".." not in joined.parts
        assert joined.relative_to(root).parts[0].lower() != WORK_FOLDER


def test_the_error_of_an_endless_path_is_short_and_names_it():
    """A megabyte of path does not become a megabyte of log."""
    with pytest.raises(ProtocolError, match="aaaa") as caught:
        check_relative("a" * 1_000_000)
    assert len(str(caught.value)) < 300


@given(raw=st.binary())
def test_any_bytes_of_a_name_come_back(raw):
    """A POSIX name is bytes; as text and back it stays what it was."""
    assert to_wire_bytes(from_wire_bytes(raw)) == raw


def test_a_name_that_no_bytes_stand_for_is_an_error_of_the_source():
    """Half a surrogate pair, possible on Windows, is told with a way out."""
    with pytest.raises(SourceError, match="not valid Unicode") as caught:
        to_wire_bytes("a\ud83d.csv")
    assert "rename" in caught.value.hint


def test_the_partition_is_the_crc32_of_the_path():
    """The choice is part of the wire contract: fixed values, the same on every computer."""
    # 0xCBF43926 is the published check value of CRC-32 for the nine digits.
    assert partition_for("123456789", 2**32) == 0xCBF43926
    assert partition_for("123456789", 7) == 0xCBF43926 % 7
    assert partition_for("\udcff", 1000) == 0xFF000000 % 1000


@given(path=st.binary().map(from_wire_bytes), partitions=st.integers(1, 10_000))
def test_every_path_has_a_partition_that_exists(path, partitions):
    """Any name, any count: the number lies in the topic, and asking twice gives the same."""
    chosen = partition_for(path, partitions)
    assert 0 <= chosen < partitions
    assert partition_for(path, partitions) == chosen


def test_a_topic_without_partitions_is_refused():
    """There is nowhere to send to."""
    with pytest.raises(ConfigError, match="at least 1 partition, got 0"):
        partition_for("a", 0)
