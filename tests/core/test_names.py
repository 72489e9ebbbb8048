"""Names at a destination: mapped there and back, and names of further versions."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from openmsistream.core.names import (
    VERSION_NAMES,
    NameRule,
    Naming,
    escaped,
    letters_in,
    naming_for,
    unescaped,
    version_name,
)
from openmsistream.core.paths import check_relative, from_wire_bytes, to_wire_bytes
from openmsistream.core.versions import VersionKey
from openmsistream.errors import OpenMSIStreamError, ProtocolError

MAP = Naming(NameRule.MAP)
KEY = VersionKey("scan.csv", b"V" * 16)

# Every POSIX name, and often what is special.
letters = st.one_of(
    st.binary(min_size=1, max_size=3), st.sampled_from([b"%", b":", b"\\", b".", b" ", b"A", b"a", b"2", b"5", b"\xe9"])
)
special = st.sampled_from([b"aux", b"CON.txt", b"com1 .x", b"LPT9", b"a.", b"b ", b"%41", b"%%3A", b"%2525", b"nul"])
part_bytes = st.one_of(st.lists(letters, min_size=1, max_size=8).map(b"".join), special)
parts = part_bytes.map(lambda raw: from_wire_bytes(raw.replace(b"/", b"_").replace(b"\0", b"_")))
paths = st.lists(parts.filter(lambda part: part not in {".", ".."}), min_size=1, max_size=3).map("/".join)


def stored(naming: Naming, path: str) -> str:
    try:
        return naming.stored(path)
    except ProtocolError:
        assume(False)
        raise


@given(path=paths)
def test_a_mapped_path_leads_back_to_the_path_it_came_from(path: str):
    """Whatever a POSIX system may call a file."""
    assert MAP.original(stored(MAP, path)) == path


@given(path=paths)
def test_a_mapped_path_is_one_that_windows_takes(path: str):
    """Mapping leaves nothing to be refused but the names of our own work folder, at the top."""
    mapped = "in/" + "/".join(escaped(part) for part in path.split("/"))
    assert check_relative(mapped, windows=True) == mapped


@given(first=paths, second=paths)
def test_no_two_paths_are_mapped_to_one(first: str, second: str):
    """Also where one of them looks like the mapped name of the other."""
    assume(to_wire_bytes(first) != to_wire_bytes(second))
    assert stored(MAP, first) != stored(MAP, second)


@given(part=parts, count=st.integers(0, 5), forbidden=st.booleans())
def test_escaped_letters_lead_back_to_the_name_they_came_from(part: str, count: int, forbidden: bool):
    """However many of them are escaped."""
    assert unescaped(escaped(part, letters=count, forbidden=forbidden)) == part


@given(part=st.text(alphabet="aAbBzZ%4:", min_size=1, max_size=6), other=st.text(alphabet="aAbBzZ%4:", max_size=6))
def test_with_all_letters_escaped_names_differ_in_more_than_case(part: str, other: str):
    """So there is a name for each spelling where upper and lower case count for the same."""
    assume(part != other)
    both = [escaped(name, letters=letters_in(name)).casefold() for name in (part, other)]
    assert both[0] != both[1]


@pytest.mark.parametrize(
    ("path", "mapped"),
    [
        ("scan 12:30.csv", "scan 12%3A30.csv"),
        ("aux.csv", "%61ux.csv"),
        ("a./b ", "a%2E/b%20"),
        ("C:\\data", "C%3A%5Cdata"),
        ("100%.csv", "100%.csv"),
        ("100%25.csv", "100%2525.csv"),
        (from_wire_bytes(b"caf\xe9.csv"), "caf%E9.csv"),
        ("plain/µ.csv", "plain/µ.csv"),
    ],
)
def test_what_windows_cannot_have_is_written_as_an_escape(path: str, mapped: str):
    """And nothing else changes."""
    assert MAP.stored(path) == mapped


@pytest.mark.parametrize("path", ["..", "a/../b", "/abs", "", "a//b", "a\0b", ".openmsistream/x", ":" * 90])
def test_mapping_makes_no_path_safe_that_is_not(path: str):
    """What leads outside is refused, and so is a name that would be longer than 255 bytes."""
    with pytest.raises(ProtocolError):
        MAP.check(path)


@pytest.mark.parametrize(
    ("rule", "windows", "refused"), [("keep", False, False), ("keep", True, True), ("refuse", False, True)]
)
def test_kept_and_refused_names(rule: str, windows: bool, refused: bool):
    """KEEP leaves a name as it is unless the destination cannot have it; REFUSE refuses it everywhere."""
    naming = naming_for(rule, windows=windows, folds=False)
    if refused:
        with pytest.raises(ProtocolError, match="Windows does not allow ':'"):
            naming.stored("ab:c")
    else:
        assert naming.stored("ab:c") == "ab:c" == naming.original("ab:c")


def test_by_default_names_are_mapped_on_windows_and_kept_elsewhere():
    """The rule ``auto``."""
    assert naming_for("auto", windows=True, folds=True).stored("ab:c") == "ab%3Ac"
    assert naming_for("auto", windows=False, folds=False).stored("ab:c%41") == "ab:c%41"
    assert naming_for("auto", windows=False, folds=True).stored("ab:c%41") == "ab:c%2541"


def test_a_further_version_is_named_by_its_time_and_by_what_only_it_has():
    """Before the extension, in UTC."""
    name = version_name("run 1/scan.csv", KEY, 1_769_881_501_999_999_999)
    assert name.startswith("run 1/scan~20260131-174501-")
    assert name.endswith(".csv")
    assert name == version_name("run 1/scan.csv", KEY, 1_769_881_501_999_999_999)
    assert name != version_name("run 1/scan.csv", KEY._replace(version=b"W" * 16), 1_769_881_501_999_999_999)


@given(
    path=st.text(alphabet="ab.µ~ ", min_size=1, max_size=260),
    mtime_ns=st.one_of(st.none(), st.integers(-(2**70), 2**70)),
)
def test_names_of_further_versions_are_never_too_long_and_never_the_same(path: str, mtime_ns: int | None):
    """Whatever the file is called and whatever time its sender claims."""
    try:
        check_relative(path)
    except OpenMSIStreamError:
        assume(False)
    names = [version_name(path, KEY, mtime_ns, attempt) for attempt in range(VERSION_NAMES)]
    assert len({path, *names}) == VERSION_NAMES + 1
    assert all(len(to_wire_bytes(name)) <= 255 for name in names)
    assert all(check_relative(name) for name in names)
