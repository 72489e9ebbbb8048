"""One path that the output folder refuses: it alone fails, and every other file of its batch is delivered."""

from __future__ import annotations

import errno
import io
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from openmsistream.adapters.filesystem import sink as sink_module
from openmsistream.adapters.filesystem.rules import Existing
from openmsistream.adapters.filesystem.sink import FolderSink
from openmsistream.adapters.filesystem.spelling import Spelling
from openmsistream.adapters.filesystem.staging import FreeNames
from openmsistream.core.chunk import HashName
from openmsistream.core.names import Naming
from openmsistream.errors import DeliveryError, StorageError
from tests.faults.disks import disk_in_memory
from tests.faults.typed import as_any_user, as_root, linux
from tests.integration.delivered import deliver, sink_on, version, visible, write

by_both = pytest.mark.parametrize("by_descriptor", [True, False])


@pytest.fixture
def rights() -> Iterator[None]:
    """Even root may write only what the rights of files and folders allow."""
    with as_any_user():
        yield


# -- what may not be written ----------------------------------------------------------------------------------------


@linux
@pytest.mark.usefixtures("rights")
@by_both
@pytest.mark.parametrize("existing", list(Existing))
@pytest.mark.parametrize("mode", [0, 0o300, 0o500])
def test_a_folder_that_may_not_be_entered_or_written_costs_its_own_files_alone(
    root: Path, by_descriptor: bool, existing: Existing, mode: int
):
    """As a lost+found: whoever names it in a record does not stop the others."""
    (root / "closed").mkdir(mode=mode)
    with sink_on(root, by_descriptor=by_descriptor, existing=existing) as sink:
        files = [version(p, p.encode(), n) for n, p in enumerate(("closed/a", "b", "closed/deep/c", "d/e"), 1)]
        batch = write(sink, *files)
        failed = sink.publish(batch)
        for key, error in failed.items():
            sink.set_aside(key, error.message)
        (root / "closed").chmod(0o700)

        if mode == 0o300 and not by_descriptor:
            assert failed == {}  # a name can be given there without reading the folder
        else:
            assert [key.path for key in failed] == ["closed/a", "closed/deep/c"]
            assert visible(root) == {"b": b"b", "d/e": b"d/e"}
        deliver(sink, version("closed/later", b"later", 9))
    assert sorted(each.name for each in root.iterdir()) == [".openmsistream", "b", "closed", "d"]


@linux
@pytest.mark.usefixtures("rights")
def test_what_is_refused_is_named_with_its_folder_and_what_to_do(root: Path):
    """Its sender can do nothing about it, and the user can."""
    (root / "closed").mkdir(mode=0)
    with sink_on(root) as sink:
        (batch,) = write(sink, version("closed/deep/a", b"1"))
        (error,) = sink.publish([batch]).values()
    assert isinstance(error, DeliveryError)
    assert error.message == f"'closed/deep/a': it may not be put into {root}/closed/deep: Permission denied"
    assert "openmsistream quarantine retry" in error.hint


@linux
@pytest.mark.usefixtures("rights")
@by_both
@pytest.mark.parametrize("closed", [".", ".openmsistream/partial"])
def test_when_nothing_can_be_written_it_waits_and_nothing_fails(root: Path, by_descriptor: bool, closed: str):
    """The control: the output folder itself lost its rights for a while."""
    with sink_on(root, by_descriptor=by_descriptor) as sink:
        deliver(sink, version("sub/old", b"old", 7))
        batch = write(sink, version("a", b"1"), version("sub/b", b"2", 2))
        (root / closed).chmod(0o500)
        with pytest.raises(StorageError, match="cannot be written: Permission denied") as told:
            sink.publish(batch)
        assert "the right to write" in told.value.hint
        (root / closed).chmod(0o700)
        assert sink.publish(batch) == {}
    assert visible(root) == {"sub/old": b"old", "a": b"1", "sub/b": b"2"}


@linux
@pytest.mark.usefixtures("rights")
def test_a_folder_that_may_not_be_listed_costs_its_own_files_alone_where_case_is_not_told_apart(root: Path):
    """There it is looked at before names are given in it."""

    def names(folder: str) -> list[str]:
        return [each.name for each in (root / folder).iterdir()]

    (root / "closed").mkdir(mode=0o300)
    sink = FolderSink(root, spelling=Spelling(Naming(folds=True), lambda _: True, names))
    (root / "b").touch()
    batch = write(sink, version("closed/a", b"1"), version("b", b"2", 2))
    assert [key.path for key in sink.publish(batch)] == ["closed/a"]
    sink.close()
    (root / "closed").chmod(0o700)
    assert visible(root) == {"b": b"2"}


@linux
@pytest.mark.usefixtures("rights")
def test_what_is_tried_again_from_quarantine_says_that_it_is_refused_and_does_not_end_the_others(
    root: Path, tmp_path: Path
):
    """As for the downloader: a reason for one file, and a stop only when nothing can be written."""
    file = tmp_path / "file"
    file.write_bytes(b"data")
    (root / "closed").mkdir(mode=0)
    names = FreeNames(root)
    with pytest.raises(DeliveryError, match="may not be put into"):
        names.add(file, version("closed/a", b"data")[0])
    root.chmod(0o500)
    with pytest.raises(StorageError, match="Permission denied"):
        names.add(file, version("a", b"data")[0])
    root.chmod(0o700)
    assert names.add(file, version("a", b"data")[0])
    (root / "closed").chmod(0o700)


@by_both
def test_what_another_program_has_in_use_is_tried_for_some_seconds(
    root: Path, by_descriptor: bool, monkeypatch: pytest.MonkeyPatch
):
    """On Windows and on shares a file that somebody reads cannot be replaced; the others do not wait for it."""

    def busy(*arguments: Any, **named: Any) -> None:
        if arguments[1] == "a" or arguments[1] == root / "a":
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        real(*arguments, **named)

    with sink_on(root, by_descriptor=by_descriptor) as sink:
        batch = write(sink, version("a", b"1"), version("b", b"2", 2))
        name = "rename" if by_descriptor and os.name != "nt" else "replace"
        real = getattr(os, name)
        monkeypatch.setattr(os, name, busy)
        for _ in range(sink_module.IN_USE_TRIES - 1):
            with pytest.raises(StorageError, match="busy"):
                sink.publish(batch)
            assert visible(root) == {"b": b"2"}
        assert [key.path for key in sink.publish(batch)] == ["a"]


@linux
@pytest.mark.usefixtures("rights")
def test_a_recognised_file_whose_folder_may_not_be_opened_stops_nothing(root: Path):
    """A name in a folder that was closed behind it is made safe with everything else on that disk."""
    (root / "f").mkdir()
    (root / "f" / "a").write_bytes(b"data")
    (root / "f").chmod(0o100)
    with sink_on(root) as sink:
        assert sink.holds("f/a", 4, HashName.BLAKE3, blake3(b"data").digest())
        sink.sync([])
        deliver(sink, version("b", b"fine", 2))
    (root / "f").chmod(0o700)
    assert visible(root) == {"f/a": b"data", "b": b"fine"}


# -- what may not be read -------------------------------------------------------------------------------------------


@linux
@pytest.mark.usefixtures("rights")
@by_both
def test_a_file_that_may_not_be_read_is_not_taken_for_the_version_and_is_replaced(root: Path, by_descriptor: bool):
    """It cannot be known what is in it; to give a name asks for rights in the folder alone."""
    (root / "a").write_bytes(b"else")
    (root / "a").chmod(0)
    with sink_on(root, by_descriptor=by_descriptor) as sink:
        assert not sink.holds("a", 4, HashName.BLAKE3, blake3(b"data").digest())
        deliver(sink, version("a", b"data"))
    assert visible(root) == {"a": b"data"}


class BadFile(io.RawIOBase):
    """A file of which the disk gives nothing back."""

    def read(self, size: int = -1) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_file_that_the_disk_does_not_give_back_is_not_taken_for_the_version(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    """To wait for it would stop everything; what else the system says is waited for, as a share may be away."""
    (root / "a").write_bytes(b"data")
    digest = blake3(b"data").digest()
    with sink_on(root) as sink:
        monkeypatch.setattr(sink_module, "open", lambda *_, **__: BadFile(), raising=False)
        assert not sink.holds("a", 4, HashName.BLAKE3, digest)

        def gone(*_: Any, **__: Any) -> None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

        monkeypatch.setattr(sink_module, "open", gone)
        with pytest.raises(StorageError):
            sink.holds("a", 4, HashName.BLAKE3, digest)


@by_both
def test_a_file_in_the_way_that_the_disk_does_not_give_back_is_another_one(
    root: Path, by_descriptor: bool, monkeypatch: pytest.MonkeyPatch
):
    """With keep-both it is left alone, and the newer version stands beside it."""
    (root / "a").write_bytes(b"data")
    there, real = (root / "a").stat().st_ino, os.read

    def read(fd: int, size: int) -> bytes:
        if os.fstat(fd).st_ino == there:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd, size)

    with sink_on(root, existing=Existing.KEEP_BOTH, by_descriptor=by_descriptor) as sink:
        monkeypatch.setattr(os, "read", read)
        (name,) = deliver(sink, version("a", b"data"))
    assert name.startswith("a~")


@as_root
@by_both
def test_a_disk_that_is_read_only_for_a_while_is_waited_for(tmp_path: Path, by_descriptor: bool):
    """Nothing is taken for refused for good, and what is tried again once it can be written is delivered."""
    root = tmp_path / "disk"
    with disk_in_memory(root), sink_on(root, by_descriptor=by_descriptor) as sink:
        deliver(sink, version("a", b"1"))
        later = version("b", b"2", 2)
        subprocess.run(["mount", "-o", "remount,ro", root], check=True)
        with pytest.raises(StorageError, match="cannot be written: Read-only") as told:
            sink.write(later[0].key, 0, later[1])
        assert "goes on by itself once it can be written" in told.value.hint
        subprocess.run(["mount", "-o", "remount,rw", root], check=True)

        deliver(sink, later)
        assert visible(root) == {"a": b"1", "b": b"2"}


@as_root
@by_both
@pytest.mark.parametrize("existing", list(Existing))
def test_another_disk_below_the_output_folder_costs_its_own_files_alone(
    root: Path, by_descriptor: bool, existing: Existing
):
    """A file cannot be renamed to it, however often that is tried."""
    with (
        disk_in_memory(root / "disk"),
        sink_on(root, by_descriptor=by_descriptor, existing=existing) as sink,
    ):
        batch = write(sink, version("disk/a", b"1"), version("b", b"2", 2))
        failed = sink.publish(batch)
    assert [key.path for key in failed] == ["disk/a"]
    assert "another disk is mounted there" in failed[batch[0].key].hint
    assert visible(root) == {"b": b"2"}
