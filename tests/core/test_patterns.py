"""Promises of ``core.patterns``: the syntax of a ``.gitignore``, held against git itself."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openmsistream.core.patterns import Patterns, only_takes_back
from openmsistream.errors import ConfigError


@pytest.mark.parametrize(
    ("line", "matches", "leaves"),
    [
        ("*.h5", ["a.h5", "raw/a.h5", "x.h5/inside.txt"], ["a.H5", "a.h5x", "h5"]),
        ("raw/", ["raw/a", "x/raw/y/z"], ["raw", "x/raw", "rawer/a"]),
        ("/raw", ["raw", "raw/a"], ["x/raw"]),
        ("raw/*.dat", ["raw/a.dat"], ["raw/x/a.dat", "x/raw/a.dat"]),
        ("raw/**/*.dat", ["raw/a.dat", "raw/x/y/a.dat"], ["x/raw/a.dat"]),
        ("raw/**", ["raw/a", "raw/x/a"], ["raw"]),
        ("raw/**/", ["raw/x/a"], ["raw", "raw/a"]),
        ("**/tmp/x", ["tmp/x", "a/b/tmp/x"], ["tmp/y"]),
        ("scan?.csv", ["scan1.csv", "scané.csv"], ["scan.csv", "scan10.csv", "scan/.csv"]),
        ("[0-9]*", ["1.dat", "x/7y"], ["a1"]),
        ("a[!b]c", ["axc", "a-c"], ["abc", "a/c"]),
        (r"\!x", ["!x"], ["x"]),
        (r"\#x", ["#x"], ["x"]),
        ("a b;c", ["a b;c"], ["a"]),
        ("(1)+.h5", ["(1)+.h5"], ["11.h5"]),
        ("*.dat", ["line\nbreak.dat", "\udcff.dat", "a\nb/c.dat"], ["a.dat\n"]),
        ("*", ["a", "a/b"], []),
        ("*/", ["a/b"], ["a"]),
    ],
)
def test_a_line_means_what_it_means_in_a_gitignore(line, matches, leaves):
    """Each construct of the syntax, with paths that it matches and near ones that it does not."""
    patterns = Patterns([line])

    assert [path for path in matches if patterns.match(path) != line] == []
    assert [path for path in leaves if patterns.match(path) is not None] == []


def test_the_last_matching_line_decides_and_is_told():
    """A later line overrules an earlier one, and the answer is the line that decided."""
    patterns = Patterns(["*.dat", "!test*", "*_keep.dat"])

    assert patterns.match("a.dat") == "*.dat"
    assert patterns.match("test_a.dat") is None
    assert patterns.deciding("test_a.dat") == "!test*"
    assert patterns.match("test_keep.dat") == "*_keep.dat"
    assert patterns.deciding("a.csv") is None


def test_a_file_below_a_matched_folder_can_be_taken_back():
    """The one stated difference to git, which does not look into an excluded folder."""
    patterns = Patterns(["raw/", "!raw/keep.dat"])

    assert patterns.match("raw/a.dat") == "raw/"
    assert patterns.match("raw/keep.dat") is None


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "is empty"),
        ("!", "is empty"),
        (" x", "spaces"),
        ("# scans", "comment"),
        ("/", "one of its parts is empty"),
        ("a//b", "one of its parts is empty"),
        ("./raw", "one of its parts"),
        ("../raw", "one of its parts"),
        ("raw\\scan", "backslash does not separate folders"),
        ("x\\", "cannot be understood"),
        ("[abc", "not a plain list"),
        ("[]a]", "not a plain list"),
        ("[[:digit:]]", "not a plain list"),
        ("[a\\]]", "not a plain list"),
        ("[+-9]", "not a plain list"),
        ("[z-a]", "bad character range"),
        ("a\nb", "line break"),
        ("a\0b", "NUL"),
    ],
)
def test_a_line_that_is_no_pattern_is_refused_with_the_reason(line, why):
    """What could never match, or means something else than it seems to, is told at once."""
    with pytest.raises(ConfigError, match=why) as told:
        Patterns(["*.h5", line])
    assert repr(line) in told.value.message
    assert told.value.hint


def test_an_empty_list_is_refused():
    """A list without a line is a mistake of the caller's."""
    with pytest.raises(ConfigError, match="empty"):
        Patterns([])


def test_a_list_of_lines_that_only_take_back_is_recognised():
    """Such a list can never match anything."""
    assert only_takes_back(["!a", "!b"])
    assert not only_takes_back(["!a", "b"])


_NAMES = ("a", "b", "ab", "a.h5", "a-b", "!a", "#a")
_PATHS = ["/".join(parts) for depth in (1, 2, 3) for parts in itertools.product(_NAMES, repeat=depth)]
_FOLDERS = sorted({path.rpartition("/")[0] for path in _PATHS} - {""})
_pieces = st.sampled_from(
    ["a", "b", "ab", "*", "**", "a*", "*b", "?", "*.h5", "[ab]", "[!a]*", "a[!x]b", "[a-b]?", "a**b", r"\*", r"\#a"]
)
_bodies = st.builds(
    lambda first, parts, last: first + "/".join(parts) + last,
    st.sampled_from(["", "", "/"]),
    st.lists(_pieces, min_size=1, max_size=3),
    st.sampled_from(["", "", "/"]),
)
_lines = st.lists(
    st.builds(lambda no, body: no + body, st.sampled_from(["", "", "!"]), _bodies), min_size=1, max_size=4
)


class Git:
    """A repository with nothing but these folders, whose ``.gitignore`` can be asked about."""

    def __init__(self, folder: Path, folders: list[str]) -> None:
        self._folder = folder
        for each in folders:
            (folder / each).mkdir(parents=True, exist_ok=True)
        self._run("init", "-q")
        self._run("config", "core.ignoreCase", "false")
        self._run("config", "core.excludesFile", "")

    def deciding(self, lines: list[str], paths: list[str]) -> dict[str, str]:
        """The line that decides about each path, by ``git check-ignore``; "" when none does."""
        (self._folder / ".gitignore").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        told = self._run("check-ignore", "--no-index", "-v", "-n", "-z", "--stdin", text="\0".join([*paths, ""]))
        fields = told.split("\0")
        return {fields[at + 3]: fields[at + 2] for at in range(0, len(fields) - 1, 4)}

    def _run(self, *arguments: str, text: str = "") -> str:
        done = subprocess.run(
            ["git", "-C", str(self._folder), *arguments], input=text, capture_output=True, text=True, check=False
        )
        assert done.returncode <= 1, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def git(tmp_path_factory):
    if shutil.which("git") is None:
        pytest.skip("git is not installed, so there is nothing to compare with")
    # git takes a path that does not exist for a file's; whether a path is a folder it sees on disk.
    return Git(tmp_path_factory.mktemp("files"), []), Git(tmp_path_factory.mktemp("folders"), _FOLDERS)


def _only_ignored(deciding: dict[str, str]) -> dict[str, str]:
    return {path: line for path, line in deciding.items() if line and not line.startswith("!")}


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=_lines)
def test_git_decides_in_the_same_way(git, lines):
    """Same verdict by the same line as ``git check-ignore``; below a folder that git excludes, only "!" may differ."""
    of_files, of_folders = git
    ignored = _only_ignored(of_files.deciding(lines, _PATHS))
    excluded = _only_ignored(of_folders.deciding(lines, _FOLDERS))
    patterns = Patterns(lines)

    for path in _PATHS:
        parents = [path[:at] for at, letter in enumerate(path) if letter == "/"]
        if any(parent in excluded for parent in parents):
            assert path in ignored
            assert patterns.match(path) or patterns.deciding(path).startswith("!"), path
        else:
            assert patterns.match(path) == ignored.get(path), path


@given(lines=st.lists(st.text("ab*?[]!#\\/-^. \n\0é(+|&~$", max_size=12), min_size=1, max_size=4))
def test_any_text_is_a_pattern_or_refused_and_never_warns(lines):
    """Whatever a user types ends in a pattern that can be asked, or in an error that names the line."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused = ""
        try:
            answer = Patterns(lines).deciding("a/b.é")
        except ConfigError as error:
            refused = error.message
    if refused:
        assert any(repr(line) in refused for line in lines)
    else:
        assert answer is None or answer in lines
