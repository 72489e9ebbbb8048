"""Watching what is mounted: shares are recognised by their file system; one that is gone is no empty folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from openmsistream.adapters.filesystem.mounts import ground_of, is_remote, mount_of, mounts, parse_mountinfo
from openmsistream.adapters.filesystem.reading import FolderReader
from openmsistream.errors import SourceError
from openmsistream.ports import Hints
from tests.integration.watched import linux_only, mounted, root_only, unmount, watching

RECORDED = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
25 27 0:23 / /dev/shm rw,relatime shared:4 - tmpfs tmpfs rw,size=24684092k
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
40 27 0:50 / /mnt/lab\040data rw,relatime shared:9 master:2 - nfs4 server:/export/lab\040data rw,vers=4.2
41 40 0:51 / /mnt/lab\040data/scratch rw - xfs /dev/vdb rw
42 27 254:0 /srv/real /mnt/bound rw,relatime - ext4 /dev/vda rw,discard
43 27 0:52 / /mnt/stacked rw - cifs //server/share rw
44 43 0:53 / /mnt/stacked rw - ext4 /dev/vdc rw
45 27 0:54 / /mnt/hidden/below rw - nfs server:/x rw
46 27 0:55 / /mnt/hidden rw - ext4 /dev/vdd rw
47 27 0:56 / /home/u/drive rw,nosuid - fuse.sshfs u@server: rw
48 27 8:1 / /media/usb rw - fuseblk /dev/sdb1 rw
49 27 0:57 / /mnt/tab\011and\134slash rw - 9p host rw
not a mount
"""


@pytest.mark.parametrize(
    ("path", "point", "fs_type", "remote"),
    [
        ("/srv/data", "/", "ext4", False),
        ("/mnt/lab data", "/mnt/lab data", "nfs4", True),
        ("/mnt/lab data/run 1/x", "/mnt/lab data", "nfs4", True),
        ("/mnt/lab database", "/", "ext4", False),
        ("/mnt/lab data/scratch/a", "/mnt/lab data/scratch", "xfs", False),
        ("/mnt/bound/a", "/mnt/bound", "ext4", False),
        ("/mnt/stacked/a", "/mnt/stacked", "ext4", False),
        ("/mnt/hidden/below/a", "/mnt/hidden", "ext4", False),
        ("/home/u/drive", "/home/u/drive", "fuse.sshfs", True),
        ("/media/usb/a", "/media/usb", "fuseblk", False),
        ("/mnt/tab\tand\\slash", "/mnt/tab\tand\\slash", "9p", True),
    ],
)
def test_a_path_stands_on_the_mount_that_the_kernel_would_find(path: str, point: str, fs_type: str, remote: bool):
    """Names with blanks, mounts on mounts, mounts hidden by others, folders that merely begin with the same name."""
    found = mount_of(path, parse_mountinfo(RECORDED))
    assert found is not None
    assert (found.point, found.fs_type, is_remote(found.fs_type)) == (point, fs_type, remote)


def test_shares_below_a_folder_are_known_unless_they_are_hidden():
    """Only what does not tell of changes counts, by its path below the folder."""
    found = ground_of("/mnt", parse_mountinfo(RECORDED))
    assert (found.point, found.remote) == ("/", False)
    assert dict(found.remote_below) == {"lab data": "nfs4", "tab\tand\\slash": "9p"}


def test_file_systems_that_others_change_are_known_by_name():
    """Everything else is taken to be this computer's own."""
    shared = "nfs nfs4 cifs smb3 SMBFS fuse fuse.rclone 9p ceph lustre glusterfs vboxsf virtiofs drvfs davfs autofs"
    own = "ext4 xfs btrfs zfs tmpfs overlay fuseblk vfat exfat ntfs3 apfs hfs nfsd"
    assert [name for name in f"{shared} {own}".split() if is_remote(name)] == shared.split()


@linux_only
def test_the_mounts_of_this_system_are_read():
    """The real table has at least a root, and /proc on a mount of its own."""
    assert mount_of("/proc/self", mounts()) is not None
    assert getattr(mount_of("/proc", mounts()), "fs_type", "") == "proc"


@root_only
def test_a_folder_mounted_at_another_place_is_local(tmp_path: Path):
    """A bind mount of a local disk tells of changes, whichever of its names they are made under."""
    real, point = tmp_path / "real", tmp_path / "point"
    real.mkdir()
    point.mkdir()
    with mounted(point, options="size=1m"):  # hidden by the next one
        subprocess.run(["mount", "--bind", str(real), str(point)], check=True)
        try:
            with watching(point) as watched:
                assert not watched.watcher.polls
                (real / "a").write_bytes(b"1")
                watched.until_hints(lambda hints: "a" in hints.closed)
        finally:
            unmount(point)


@contextmanager
def share(point: Path, folder: Path) -> Iterator[None]:
    """The files of ``folder`` on a FUSE file system at ``point``."""
    program = Path(__file__).with_name("fuse_share.py")
    served = subprocess.Popen(
        [sys.executable, str(program), str(point), str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert served.stdout is not None
    try:
        if served.stdout.readline() != "mounted\n":
            pytest.skip("this kernel has no FUSE")
        yield
    finally:
        unmount(point)
        served.communicate(timeout=10)


@root_only
def test_a_fuse_file_system_is_polled_without_being_told(tmp_path: Path):
    """A real FUSE mount: no hints are tried, it is said once, and scans find what the kernel knows nothing of."""
    point, elsewhere = tmp_path / "point", tmp_path / "elsewhere"
    point.mkdir()
    elsewhere.mkdir()
    (elsewhere / "a").write_bytes(b"1")
    with share(point, elsewhere), watching(point) as watched:
        assert watched.watcher.polls
        (elsewhere / "b").write_bytes(b"12345")
        assert watched.scan() == {"a", "b"}
        file, buffer = FolderReader(point).open("b"), bytearray(8)
        assert (file.read_into(memoryview(buffer)), file.look().size) == (5, 5)
        file.close()
        watched.scan()
        assert watched.watcher.hints() == Hints()
        assert [note.text for note in watched.notes] == [
            f"{point}: it lies on a file system that does not tell of changes (fuse.labshare)"
        ]


@root_only
def test_a_share_below_a_local_folder_makes_it_polled_and_the_rest_keeps_its_hints(tmp_path: Path):
    """Told once; and when the share is gone, nothing needs polling any more."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    (root / "run" / "share").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "a").write_bytes(b"1")
    with watching(root) as watched:
        assert not watched.watcher.polls
        with share(root / "run" / "share", elsewhere):
            assert watched.scan() == {"run/share/a"}
            assert watched.scan() == {"run/share/a"}
            assert watched.watcher.polls
            (root / "run" / "b").write_bytes(b"1")
            watched.until_hints(lambda hints: "run/b" in hints.closed)
        assert watched.scan() == {"run/b"}
        assert not watched.watcher.polls
        assert [note.text for note in watched.notes] == [
            "run/share: this folder does not tell of changes (fuse.labshare)"
        ]


@root_only
def test_an_unmounted_root_is_an_error_and_never_an_empty_folder(tmp_path: Path):
    """The mount point stays behind, empty; the control lists it. Mounted again it is watched again."""
    point = tmp_path / "point"
    point.mkdir()
    with mounted(point):
        (point / "run").mkdir()
        (point / "run" / "a").write_bytes(b"1")
        with watching(point) as watched:
            assert watched.scan() == {"run/a"}
            unmount(point)
            watched.until_hints(lambda hints: hints.everything)
            assert list(point.iterdir()) == []
            for _ in range(2):
                with pytest.raises(SourceError, match="is not mounted any more"):
                    watched.scan()
            assert watched.watcher.polls
            with mounted(point):
                (point / "run").mkdir()
                (point / "run" / "b").write_bytes(b"1")
                assert watched.scan() == {"run/b"}
                assert not watched.watcher.polls
                (point / "run" / "c").write_bytes(b"1")
                watched.until_hints(lambda hints: "run/c" in hints.closed)


@root_only
def test_a_root_on_an_unmounted_share_is_an_error_even_if_its_folder_is_there(tmp_path: Path):
    """The root lies below the mount point, and the disk beneath has a folder of the same name."""
    (tmp_path / "point" / "root").mkdir(parents=True)
    with mounted(tmp_path / "point"):
        (tmp_path / "point" / "root").mkdir()
        (tmp_path / "point" / "root" / "a").write_bytes(b"1")
        with watching(tmp_path / "point" / "root") as watched:
            unmount(tmp_path / "point")
            with pytest.raises(SourceError, match="is not mounted any more"):
                watched.scan()


@root_only
def test_a_read_only_file_system_is_watched_and_read(tmp_path: Path):
    """Nothing of ours is written; what is written through another mount of it is hinted all the same."""
    real, point = tmp_path / "real", tmp_path / "point"
    real.mkdir()
    point.mkdir()
    subprocess.run(["mount", "--bind", "-o", "ro", str(real), str(point)], check=True)
    try:
        with pytest.raises(OSError, match="Read-only"):
            (point / "x").touch()
        with watching(point) as watched:
            (real / "a").write_bytes(b"12345")
            watched.until_hints(lambda hints: "a" in hints.closed)
            file, buffer = FolderReader(point).open("a"), bytearray(8)
            assert file.read_into(memoryview(buffer)) == 5
            file.close()
    finally:
        unmount(point)
