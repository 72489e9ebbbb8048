"""Bytes that were written to the output folder and are gone: removed by somebody, or never kept by the disk."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from blake3 import blake3

from openmsistream.adapters.filesystem import partials as partials_module
from openmsistream.adapters.filesystem import placing as placing_module
from openmsistream.adapters.filesystem import sink as sink_module
from openmsistream.adapters.filesystem.durable import has_sync_of_everything
from openmsistream.adapters.filesystem.partials import HAND_OVER_BYTES, OPEN_FILES, SYNC_TOGETHER, partial_name
from openmsistream.core.chunk import HashName
from openmsistream.errors import BytesLostError, ConfigError, StorageError
from openmsistream.ports import Record
from tests.integration.delivered import deliver, sink_on, version, visible, write
from tests.integration.watched import linux_only

# -- partial files that somebody removes --------------------------------------------------------------------------


def partials(root: Path) -> list[Path]:
    return list((root / ".openmsistream" / "partial").iterdir())


def test_a_lost_partial_file_is_told_and_never_taken_for_delivered(root: Path):
    """Also where another file of that size stands under the name; the others of its batch are delivered."""
    (root / "a").write_bytes(b"else")
    with sink_on(root) as sink:
        (lost,) = write(sink, version("a", b"data"))
        for file in partials(root):
            file.unlink()
        (fine,) = write(sink, version("b", b"fine", 2))
        with pytest.raises(BytesLostError, match="'a' was removed or cut") as told:
            sink.publish([lost, fine])
        assert list(told.value.keys) == [lost.key]
        assert visible(root) == {"a": b"else", "b": b"fine"}

        sink.discard(lost.key)
        sink.write(lost.key, 0, b"data")
        assert sink.publish([lost, fine]) == {}
    assert visible(root) == {"a": b"data", "b": b"fine"}


def test_what_was_received_of_a_lost_file_is_not_taken_for_written_when_more_of_it_comes(root: Path):
    """A new empty file in its place would be a file with a hole."""
    with sink_on(root) as sink:
        first = version("a", b"data")[0]
        sink.write(first.key, 0, b"da")
        for file in partials(root):
            file.unlink()
        for number in range(2, OPEN_FILES + 2):
            sink.write(version(str(number), b"x", number)[0].key, 0, b"x")
        with pytest.raises(BytesLostError):
            sink.write(first.key, 2, b"ta")
        with pytest.raises(BytesLostError):
            list(sink.read(first.key, 0, 2))


def test_a_partial_file_that_was_cut_is_told(root: Path):
    """It ends before the bytes that were written."""
    with sink_on(root) as sink:
        (one,) = write(sink, version("a", b"data"))
        os.truncate(partials(root)[0], 2)
        with pytest.raises(BytesLostError):
            list(sink.read(one.key, 0, 4))
        assert sink.restore([one.key]) == set()  # else a restart would go on with it, and find the same again


@pytest.mark.parametrize("whose", ["", "xrd-1"])
def test_new_files_come_in_when_the_folder_of_partial_files_was_removed(root: Path, whose: str):
    """It is made again, unless the whole work folder is gone: the disk may not be mounted any more."""
    with sink_on(root, whose=whose) as sink:
        shutil.rmtree(root / ".openmsistream" / "partial")
        deliver(sink, version("a", b"1"))
        assert visible(root) == {"a": b"1"}

        shutil.rmtree(root / ".openmsistream")
        with pytest.raises(StorageError, match="cannot be written") as told:
            sink.write(version("b", b"2", 2)[0].key, 0, b"2")
        assert not isinstance(told.value, BytesLostError)
        assert not (root / ".openmsistream").exists()


@pytest.mark.parametrize("by_descriptor", [True, False])
def test_two_sinks_on_one_folder_leave_the_partial_files_of_the_other_alone(root: Path, by_descriptor: bool):
    """Each knows its own open versions only; also one without a name, whose folder the others stand in."""
    file = version("a", b"data")
    for name, other in [("xrd-1", "xrd-2"), ("xrd-1", ""), ("", "xrd-2")]:
        with sink_on(root, whose=name, by_descriptor=by_descriptor) as one:
            one.write(file[0].key, 0, b"da")
            with sink_on(root, whose=other, by_descriptor=by_descriptor) as two:
                assert two.restore([file[0].key]) == set()
                deliver(two, version("b", b"else", 2))
            assert one.restore([file[0].key]) == {file[0].key}
            one.write(file[0].key, 2, b"ta")
            assert one.publish([file[0]]) == {}
        assert visible(root) == {"a": b"data", "b": b"else"}
        (root / "a").unlink()


def test_a_sink_removes_what_it_does_not_know_of_its_own(root: Path):
    """The control: under one name they would be taken for left behind."""
    with sink_on(root) as one:
        (file,) = write(one, version("a", b"data"))
        with sink_on(root) as two:
            assert two.restore([]) == set()
        with pytest.raises(BytesLostError):
            one.publish([file])
    assert visible(root) == {}


def test_of_sinks_with_one_name_one_at_a_time_may_be_on_a_folder(root: Path):
    """The other is told so; one that ended, or could not begin, leaves the place free."""
    with sink_on(root, whose="xrd-1") as one:
        with (
            pytest.raises(ConfigError, match="a downloader of this topic to this folder is running already"),
            sink_on(root, whose="xrd-1"),
        ):
            pytest.fail("two on one folder")
        deliver(one, version("a", b"data"))
    (root / ".openmsistream" / "partial" / "xrd-1").rmdir()
    (root / ".openmsistream" / "partial" / "xrd-1").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(StorageError), sink_on(root, whose="xrd-1"):
            pytest.fail("a file is where its folder should be")
    (root / ".openmsistream" / "partial" / "xrd-1").unlink()
    with sink_on(root, whose="xrd-1"):
        assert visible(root) == {"a": b"data"}


@linux_only
def test_who_shares_the_folder_by_its_group_may_be_the_next(root: Path):
    """A service may follow a person."""
    root.mkdir(exist_ok=True)
    root.chmod(0o2775)
    with sink_on(root, whose="xrd-1"):
        assert (root / ".openmsistream" / "xrd-1.lock").stat().st_mode & 0o777 == 0o664


@linux_only
def test_where_a_share_has_no_locks_nobody_is_kept_out(root: Path, monkeypatch: pytest.MonkeyPatch):
    """As NFS without its lock daemon: what cannot be seen must not be in the way."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", no_locks)
    with sink_on(root, whose="xrd-1") as one, sink_on(root, whose="xrd-1"):
        deliver(one, version("a", b"data"))
    assert visible(root) == {"a": b"data"}


# -- what the disk does not keep ------------------------------------------------------------------------------------


def refused(_: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_large_file_is_handed_to_the_disk_while_it_comes_in(root: Path, monkeypatch: pytest.MonkeyPatch):
    """Once for every so many bytes, also where its descriptor was needed for others; a small one never."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(partials_module, "begin_to_sync", lambda _, begin, length: asked.append((begin, length)))
    piece = bytes(HAND_OVER_BYTES // 4 + 1)
    with sink_on(root) as sink:
        large, small = version("large", b"")[0].key, [version(str(n), b"1", n) for n in range(2, OPEN_FILES + 2)]
        for number in range(5):
            sink.write(large, number * len(piece), piece)
        write(sink, *small)
        for number in range(5, 9):
            sink.write(large, number * len(piece), piece)
    assert asked == [(0, 4 * len(piece)), (4 * len(piece), 4 * len(piece))]


def test_what_the_disk_did_not_keep_is_lost_and_not_only_late(root: Path, monkeypatch: pytest.MonkeyPatch):
    """The system tells it once: the versions are named, and are to be read again."""
    with sink_on(root) as sink:
        few = write(sink, version("a", b"1"))
        monkeypatch.setattr(partials_module, "sync_data", refused)
        with pytest.raises(BytesLostError, match="did not take what was written") as told:
            sink.sync([few[0].key])
        assert list(told.value.keys) == [few[0].key]

        many = write(sink, *(version(str(n), b"1", n) for n in range(2, SYNC_TOGETHER + 2)))
        monkeypatch.setattr(partials_module, "sync_everything_on_the_disk_of", refused)
        with pytest.raises(BytesLostError) as told:
            sink.sync([each.key for each in many])
        assert list(told.value.keys) == [each.key for each in many]

        monkeypatch.setattr(partials_module, "begin_to_sync", lambda *_: refused(_))
        with pytest.raises(BytesLostError) as told:
            sink.write(few[0].key, 0, bytes(HAND_OVER_BYTES))
        assert list(told.value.keys) == [few[0].key]


def test_what_the_disk_does_not_give_back_is_not_asked_for_again(root: Path, monkeypatch: pytest.MonkeyPatch):
    """A damaged place on it: the version begins anew, in a file of its own."""
    with sink_on(root) as sink:
        (one,) = write(sink, version("a", b"data"))
        monkeypatch.setattr(os, "read", lambda *_: refused(_))
        with pytest.raises(BytesLostError, match="does not give back") as told:
            list(sink.read(one.key, 0, 4))
        monkeypatch.undo()
        assert list(told.value.keys) == [one.key]
        assert sink.restore([one.key]) == set()

        deliver(sink, version("a", b"data"))
    assert visible(root) == {"a": b"data"}


def test_a_share_that_says_only_at_closing_that_it_is_full_is_heard(root: Path, monkeypatch: pytest.MonkeyPatch):
    """With many versions open at once, files are closed before they are synced."""
    with sink_on(root) as sink:
        first = write(sink, *(version(str(n), b"1", n) for n in range(1, OPEN_FILES + 1)))[0]
        monkeypatch.setattr(os, "close", refused)
        with pytest.raises(BytesLostError) as told:
            sink.write(version("more", b"1", OPEN_FILES + 1)[0].key, 0, b"1")
        monkeypatch.undo()
        assert list(told.value.keys) == [first.key]


@pytest.mark.parametrize("fs_type", ["ext4", "cifs", "fuseblk", "nfs4", "overlay", ""])
def test_one_sync_of_everything_is_trusted_only_where_it_does_the_same(fs_type: str, monkeypatch: pytest.MonkeyPatch):
    """Shares and drivers outside the kernel want to be asked file by file; old kernels do not tell that it failed."""
    assert has_sync_of_everything(fs_type) == (fs_type == "ext4" and sys.platform == "linux")
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release="5.7.19-generic"))
    assert not has_sync_of_everything(fs_type)


def test_a_file_that_is_recognised_is_synced_with_its_folder_before_it_counts(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    """A kill came before its name was on the disk for certain."""
    synced: list[str] = []
    with sink_on(root) as sink:
        deliver(sink, version("f/a", b"data"))
    with sink_on(root) as sink:
        monkeypatch.setattr(partials_module, "sync_file", synced.append)
        monkeypatch.setattr(
            placing_module, "sync_folder", lambda fd: synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        )
        assert sink.holds("f/a", 4, HashName.BLAKE3, blake3(b"data").digest())
        sink.sync([])
        sink.publish([])
        assert synced[0] == str(root / "f" / "a")
        assert set(synced[1:]) == {str(root), str(root / "f")}
        synced.clear()
        sink.sync([])
        sink.publish([])
        assert synced == []


def test_a_recognised_file_that_the_disk_did_not_keep_is_looked_at_anew(root: Path, monkeypatch: pytest.MonkeyPatch):
    """Not in memory, where it still looks as it should: what is there is dropped."""
    dropped: list[str] = []
    with sink_on(root) as sink:
        deliver(sink, version("a", b"data"))
        assert sink.holds("a", 4, HashName.BLAKE3, blake3(b"data").digest())
        monkeypatch.setattr(partials_module, "sync_file", refused)
        monkeypatch.setattr(partials_module, "drop_cached", dropped.append)
        with pytest.raises(BytesLostError):
            sink.sync([])
    assert dropped == [str(root / "a")]


def test_what_goes_to_quarantine_is_on_the_disk_before_its_record_counts_as_handled(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    """Bytes and note, of records and of whole versions, and then the folder."""
    synced: list[str] = []

    def note(target: int | str) -> None:
        synced.append(Path(target if isinstance(target, str) else f"/proc/self/fd/{target}").resolve().name)

    with sink_on(root) as sink:
        (bad,) = write(sink, version("a", b"data"))
        for name in ("sync_data", "sync_file", "sync_folder"):
            monkeypatch.setattr(sink_module, name, note)
        sink.quarantine("topic", Record(0, 7, 0, None, b"nonsense", None), "no header")
        assert synced == ["topic-0-7.value", "topic-0-7.json", "quarantine"]
        synced.clear()
        sink.set_aside(bad.key, "its hash is wrong")
        part = partial_name(bad.key)
        assert synced == [part, f"{part}.json", "quarantine"]
