"""Symbolic links in a watched folder: left out, or followed within it, and never out of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from openmsistream.adapters.filesystem.reading import FolderReader, is_open_within, open_shared
from openmsistream.errors import SourceError
from tests.conformance.suites_kafka import wait_until
from tests.integration.watched import linux_only, watching

pytestmark = linux_only


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two real files; links to a file, to a folder, to nothing, to itself and to the outside."""
    outside, root = tmp_path / "outside", tmp_path / "root"
    (root / "real").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "a").write_bytes(b"inside")
    (root / "real" / "b").write_bytes(b"1")
    (root / "to file").symlink_to(root / "a")
    (root / "to folder").symlink_to("real")
    (root / "to nothing").symlink_to("nothing")
    (root / "to itself").symlink_to("to itself")
    (root / "to secret").symlink_to(outside / "secret")
    (root / "to outside").symlink_to("../outside")
    return root


def test_links_are_left_out_unless_asked_for(root: Path):
    """The default: nothing but what is really there, and no word about it."""
    with watching(root) as watched:
        assert watched.scan() == {"a", "real/b"}
        assert watched.notes == []
        for link in ("to folder", "to outside"):
            with pytest.raises(SourceError, match="symbolic link"):
                list(watched.watcher.scan(link))


def test_links_within_the_root_are_followed_under_their_own_path(root: Path):
    """Links outside are left out and told of once each; links to nothing are nothing."""
    with watching(root, follow_symlinks=True) as watched:
        assert watched.scan() == {"a", "real/b", "to file", "to folder/b"}
        watched.scan()
        assert sorted(note.text for note in watched.notes) == [
            "to outside: this link leads outside the watched folder and is left out",
            "to secret: this link leads outside the watched folder and is left out",
        ]
        with pytest.raises(SourceError, match="outside"):
            list(watched.watcher.scan("to outside"))


def test_links_that_lead_in_circles_end(root: Path):
    """No folder is listed below itself, whichever way it is come by."""
    (root / "real" / "up").symlink_to("..")
    (root / "other").mkdir()
    (root / "other" / "c").write_bytes(b"1")
    (root / "other" / "across").symlink_to("../real")
    (root / "real" / "across").symlink_to("../other")
    with watching(root, follow_symlinks=True) as watched:
        assert watched.scan() >= {"real/b", "real/across/c", "other/c", "other/across/b"}
        assert not any("across/across" in path or "up/" in path for path in watched.scan())


def test_a_linked_folder_gives_hints_under_both_its_names(root: Path):
    """One folder, two paths; a link that is made later, and one that is removed, count from then on."""
    with watching(root, follow_symlinks=True) as watched:
        (root / "real" / "c").write_bytes(b"1")
        watched.until_hints(lambda hints: {"real/c", "to folder/c"} <= hints.closed)
        (root / "later").symlink_to("real")
        watched.until(lambda: "later/b" in watched.seen)
        (root / "to folder").unlink()
        watched.settle()
        (root / "real" / "d").write_bytes(b"1")
        hints = watched.until_hints(lambda hints: {"real/d", "later/d"} <= hints.closed)
        assert "to folder/d" not in hints.files


def test_a_followed_link_is_read_like_the_file_it_leads_to(root: Path):
    """And is a changed file once it leads elsewhere."""
    reader = FolderReader(root, follow_symlinks=True)
    assert reader.stat("to file") == reader.stat("a")
    file, buffer = reader.open("to file"), bytearray(8)
    assert bytes(buffer[: file.read_into(memoryview(buffer))]) == b"inside"
    assert file.unchanged()
    (root / "to file").unlink()
    (root / "to file").symlink_to("real/b")
    assert not file.unchanged()
    assert file.look() == file.stat
    file.close()


@pytest.mark.parametrize("path", ["to secret", "to outside/secret", "to nothing", "to itself", "to folder"])
def test_what_is_no_file_within_the_root_is_not_read(root: Path, path: str):
    """Not even by name: links out of the root, to nothing, and to folders."""
    reader = FolderReader(root, follow_symlinks=True)
    assert reader.stat(path) is None
    with pytest.raises(SourceError):
        reader.open(path)


def test_an_opened_file_that_lies_elsewhere_is_recognised(root: Path):
    """The look after the open: a folder was swapped for a link between looking a path up and opening it."""
    through = str(root / "to outside" / "secret")
    for path, within in ((through, False), (str(root / "real" / "b"), True)):
        fd = open_shared(path)
        assert is_open_within(fd, path, str(root)) is within
        os.close(fd)


SWAP = """
import os, sys
os.chdir(sys.argv[1])
while True:
    os.rename("real", "kept")
    os.symlink("../outside", "real")
    os.unlink("real")
    os.rename("kept", "real")
"""


def test_a_folder_that_is_swapped_for_a_link_all_the_time_never_leads_out(root: Path, tmp_path: Path):
    """Whatever another program does between looking a path up and opening it, only the file within is ever read."""
    (tmp_path / "outside" / "b").write_bytes(b"secret")
    reader, buffer, opened = FolderReader(root, follow_symlinks=True), bytearray(8), 0
    swapping = subprocess.Popen([sys.executable, "-c", SWAP, str(root)])
    try:
        wait_until((root / "real").is_symlink, lambda: None)
        for _ in range(10_000):
            try:
                file = reader.open("real/b")
            except SourceError:
                continue
            assert bytes(buffer[: file.read_into(memoryview(buffer))]) == b"1"
            file.close()
            opened += 1
    finally:
        swapping.kill()
        swapping.wait()
    assert opened > 0
