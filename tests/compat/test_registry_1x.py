"""Promises of ``adapters.filesystem.registry_1x``: what 1.x sent is known, and never more than that."""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from openmsistream.adapters.filesystem.registry_1x import already_uploaded

DATA = Path(__file__).parents[1] / "data"
SECOND = 1_000_000_000
HEADER = "filename;rel_filepath;n_chunks;started;completed"


def at(text: str) -> int:
    return int(datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp()) * SECOND


@pytest.fixture
def utc(monkeypatch):
    """Local time is UTC, so that expected times can be written down."""
    if not hasattr(time, "tzset"):
        pytest.skip("this system cannot change its time zone for one process")
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def logs(root: Path, name: str, *lines: str) -> Path:
    folder = root / "LOGS"
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes("\n".join(lines).encode())
    return path


def row(path: str, started: str = "09:00:44", completed: str = "09:00:44") -> str:
    return f"{path.rpartition('/')[2]!r};{path!r};2;'Sat Nov 21, 2026 at {started}';'Sat Nov 21, 2026 at {completed}'"


def test_a_registry_of_188_tells_every_file_that_it_sent(tmp_path, utc):
    """The golden registry names the golden tree, with the times in it, and is not changed by being read."""
    shutil.copytree(DATA / "golden" / "registry_v1.8.8", tmp_path / "LOGS")
    before = {path: path.read_bytes() for path in (tmp_path / "LOGS").iterdir()}

    found = already_uploaded(tmp_path, "gold188")

    tree = DATA / "golden" / "tree"
    assert set(found.completed) == {
        path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file() and path.stat().st_size
    }
    assert set(found.completed.values()) == {at("2026-11-21 09:00:44")}
    assert (found.skipped, found.problems, found.in_progress) == (0, (), frozenset())
    assert [path.name for path in found.files] == ["upload_to_gold188_in_progress.csv", "uploaded_to_gold188.csv"]
    assert {path: path.read_bytes() for path in (tmp_path / "LOGS").iterdir()} == before


def test_the_parts_that_a_killed_188_left_are_read_with_all_their_names(tmp_path):
    """Four producers' files; quotes, semicolons, a tab, a backslash and line separators in names."""
    found = already_uploaded(tmp_path, "gold_1.x-y", DATA / "registry_1x" / "parts")

    assert len(found.files) == 5
    assert found.skipped == 0
    assert len(found) == len(found.completed) == 33
    assert {
        "it's.dat",
        'a"q.dat',
        "both'\".dat",
        "semi;colon.dat",
        "sub x/y's; z.dat",
        "back\\slash.dat",
        "tab\t.dat",
        "nel\x85\u2028.dat",
        "µ ü.dat",
    } <= set(found.completed)


def test_names_that_a_merge_of_188_garbled_are_counted_and_not_guessed(tmp_path):
    """1.x doubles backslashes when it merges: those names are known from parts alone, never from the merged file."""
    folder = DATA / "registry_1x" / "merged"
    everything = already_uploaded(tmp_path, "gold_1.x-y", folder)
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(folder / "uploaded_to_gold_1.x-y.csv", alone)

    merged = already_uploaded(tmp_path, "gold_1.x-y", alone)

    assert "back\\slash.dat" in everything.completed
    assert not [path for path in everything.completed if "\\\\" in path]
    assert not [path for path in merged.completed if "\\" in path or "\t" in path]
    assert merged.skipped == sum(
        b"\\\\" in line for line in (alone / "uploaded_to_gold_1.x-y.csv").read_bytes().splitlines()
    )
    assert merged.skipped > 0
    assert {"it's.dat", 'a"q.dat', "semi;colon.dat", "f017.dat"} <= set(merged.completed)


def test_a_file_that_188_had_begun_is_in_progress_and_not_sent(tmp_path):
    """The row of a large file that 1.x was killed in the middle of."""
    found = already_uploaded(tmp_path, "t", DATA / "registry_1x" / "begun")

    assert found.in_progress == {"big; x.bin"}
    assert not found.completed


def test_what_was_begun_once_more_does_not_count_as_sent(tmp_path):
    """A path in both registries: its newest content did not go out whole."""
    logs(tmp_path, "uploaded_to_t.csv", HEADER, row("a.dat"), row("b.dat"))
    logs(tmp_path, "upload_to_t_in_progress.csv", "filename;rel_filepath;chunks_to_send", "'a.dat';'a.dat';{1, 2}")

    found = already_uploaded(tmp_path, "t")

    assert list(found.completed) == ["b.dat"]
    assert found.in_progress == {"a.dat"}


def test_a_file_that_changed_after_1x_sent_it_is_not_taken_for_sent(tmp_path, utc):
    """1.x compared paths alone and left such files stale; here the file's time decides, against the start."""
    logs(tmp_path, "uploaded_to_t.csv", HEADER, row("run/a.dat", started="09:00:44", completed="09:05:00"))

    found = already_uploaded(tmp_path, "t")

    began = at("2026-11-21 09:00:44")
    assert (found.as_of("run/a.dat"), found.as_of("run/b.dat")) == (began, None)
    assert found.sent("run/a.dat", began - SECOND)
    assert found.sent("run/a.dat", began)
    assert not found.sent("run/a.dat", began + 1)
    assert not found.sent("a.dat", began)


def test_the_last_of_several_rows_of_a_path_counts(tmp_path, utc):
    """1.x adds a row each time that it sends a file."""
    logs(tmp_path, "uploaded_to_t.csv", HEADER, row("a", "10:00:00", "10:00:01"), row("a", "09:00:00", "09:00:01"))

    assert already_uploaded(tmp_path, "t").completed == {"a": at("2026-11-21 10:00:00")}


@pytest.mark.parametrize(
    "bad",
    [
        "'a;b.dat';'a;b.dat'",
        "'torn.dat';'torn.dat';2;'Sat Nov 21, 2026 at 09:00:44';'Sat Nov 21, 2026 at 09:0",
        "'torn.dat';'tor",
        "no.dat;no.dat;2;'Sat Nov 21, 2026 at 09:00:44';'Sat Nov 21, 2026 at 09:00:44'",
        "'x';'x';2;'soon';'later'",
        "'x';'x';2;'Sat Foo 21, 2026 at 09:00:44';'Sat Foo 21, 2026 at 09:00:44'",
        "'x';'x';2;'Sat Nov 99, 2026 at 09:00:44';'Sat Nov 99, 2026 at 09:00:44'",
        "'x';'';2;'Sat Nov 21, 2026 at 09:00:44';'Sat Nov 21, 2026 at 09:00:44'",
        "'x';'\\x';2;'Sat Nov 21, 2026 at 09:00:44';'Sat Nov 21, 2026 at 09:00:44'",
        "'x';'/elsewhere/x';2;'Sat Nov 21, 2026 at 09:00:44';'Sat Nov 21, 2026 at 09:00:44'",
        ";;;;",
        '"',
        "\0\1\2",
        "'\\" * 5000,
    ],
)
def test_a_line_that_cannot_be_understood_is_counted_and_the_others_are_read(tmp_path, bad):
    """A torn or foreign line makes no file count as sent, and hides none."""
    logs(tmp_path, "uploaded_to_t.csv", HEADER, row("first"), bad, row("last"))

    found = already_uploaded(tmp_path, "t")

    assert sorted(found.completed) == ["first", "last"]
    assert found.skipped == 1


def test_names_with_semicolons_and_quotes_are_read_as_versions_before_185_wrote_them(tmp_path):
    """Those wrote Python's repr without any further quoting."""
    logs(tmp_path, "uploaded_to_t.csv", HEADER, row("sub/semi;colon.dat"), row("it's; so.dat"), row("d'oh.dat"))

    found = already_uploaded(tmp_path, "t")

    assert sorted(found.completed) == ["d'oh.dat", "it's; so.dat", "sub/semi;colon.dat"]
    assert found.skipped == 0


def test_a_registry_from_windows_is_read(tmp_path):
    """A first line for spreadsheets, line ends of two characters, and backslashes, doubled by merges."""
    lines = ["sep=;", HEADER, row("run 1\\a.dat"), row("run 1\\\\b.dat"), row("c.dat"), ""]
    logs(tmp_path, "uploaded_to_t.csv").write_bytes("\r\n".join(lines).encode("utf-8-sig"))

    assert sorted(already_uploaded(tmp_path, "t").completed) == ["c.dat", "run 1/a.dat", "run 1/b.dat"]


def test_the_names_of_09_are_known_and_absolute_paths_are_made_relative(tmp_path):
    """Registries of the first releases; a path outside the folder is none of ours."""
    header = "filename;filepath;n_chunks;started;completed"
    logs(
        tmp_path,
        "files_fully_uploaded_to_t.csv",
        header,
        row(f"{tmp_path.as_posix()}/run/a.dat"),
        row("b.dat"),
        row("/elsewhere/c.dat"),
    )
    logs(tmp_path, "files_to_upload_to_t.csv", "filename;rel_filepath", "'d.dat';'d.dat'")

    found = already_uploaded(tmp_path, "t")

    assert sorted(found.completed) == ["b.dat", "run/a.dat"]
    assert found.in_progress == {"d.dat"}
    assert found.skipped == 1


@pytest.mark.parametrize(
    ("name", "is_ours"),
    [
        ("uploaded_to_x.csv", True),
        ("uploaded_to_x_p7f3d8857a110.csv", True),
        ("uploaded_to_x_p7f3d8857a110_1795270073_026914.csv", True),
        ("uploaded_to_x_power.csv", False),
        ("uploaded_to_x_p1.csv", False),
        ("uploaded_to_y.csv", False),
        ("uploaded_to_x.csv.bak", False),
        ("processed_from_x_by_group.csv", False),
    ],
)
def test_only_the_registries_of_the_topic_are_read(tmp_path, name, is_ours):
    """Another topic's registry never makes a file count as sent to this one."""
    logs(tmp_path, name, HEADER, row("a.dat"))

    assert ("a.dat" in already_uploaded(tmp_path, "x").completed) is is_ours


def test_a_folder_without_registries_gives_nothing(tmp_path):
    """No LOGS folder, a file of that name, or an empty one."""
    assert not already_uploaded(tmp_path, "t").completed
    (tmp_path / "LOGS").write_text("a file")
    assert already_uploaded(tmp_path, "t", tmp_path / "nowhere" / "x.log").problems == ()


def test_registries_beside_a_log_file_elsewhere_are_read_too(tmp_path):
    """With --logger_file_path 1.x kept them there."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    (root / "LOGS").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "uploaded_to_t.csv").write_text(f"{HEADER}\n{row('a.dat')}")
    logs(root, "uploaded_to_t.csv", HEADER, row("b.dat"))

    assert sorted(already_uploaded(root, "t", elsewhere / "upload.log").completed) == ["a.dat", "b.dat"]
    assert sorted(already_uploaded(root, "t", elsewhere).completed) == ["a.dat", "b.dat"]


def test_a_file_that_is_no_registry_is_told_and_not_read(tmp_path):
    """Something else under a registry's name is a problem to show, not a reason to stop."""
    path = logs(tmp_path, "uploaded_to_t.csv", "name,size", "a.dat,1")

    found = already_uploaded(tmp_path, "t")

    assert found.files == ()
    assert found.problems == (f"{path}: its first line is not that of an OpenMSIStream registry",)


def test_a_registry_that_cannot_be_read_is_told(tmp_path):
    """What cannot be opened as a file is a problem to show; the others are read."""
    (tmp_path / "LOGS" / "uploaded_to_t.csv").mkdir(parents=True)
    logs(tmp_path, "uploaded_to_t_p7f3d8857a110.csv", HEADER, row("a.dat"))

    found = already_uploaded(tmp_path, "t")

    assert [
        problem.startswith(f"{tmp_path / 'LOGS' / 'uploaded_to_t.csv'}: it cannot be read: ")
        for problem in found.problems
    ] == [True]
    assert list(found.completed) == ["a.dat"]


def test_times_are_local_and_a_repeated_hour_counts_as_its_first(tmp_path, monkeypatch, utc):
    """On the night the clocks go back, 02:30 is taken as the earlier one: at worst a file is sent once more."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    night = "'Sun Oct 25, 2026 at 02:30:00'"
    logs(tmp_path, "uploaded_to_t.csv", HEADER, f"'a';'a';1;{night};{night}", row("b"))

    completed = already_uploaded(tmp_path, "t").completed

    assert completed == {"a": at("2026-10-25 00:30:00"), "b": at("2026-11-21 08:00:44")}
