"""Which file system a folder lies on, and whether that one tells of changes that others make to it.

Network file systems tell at most of what this computer itself does, so folders on them are scanned instead.
Reads the system's table of mounts and nothing else; knows nothing of watching.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

# Source: the kernel's fs folder and the mount helpers of the named systems; then what virtual machines share with
# their host, which changes files unseen; then macOS and Windows.
_REMOTE = re.compile(
    r"""nfs\d? | cifs | smb\w* | 9p | afs | ceph | lustre | gpfs | beegfs | pvfs2 | orangefs | gfs2? | ocfs2 | coda
    | glusterfs | ncp | ncpfs | davfs2? | sshfs | ftpfs | curlftpfs | s3fs | panfs | wekafs | acfs | autofs
    | fuse | fuse\..* | vboxsf | vmhgfs | prl_fs | drvfs | virtiofs
    | webdav | afpfs | ftp | macfuse | osxfuse | network""",
    re.VERBOSE | re.IGNORECASE,
)
# autofs stands where a share is mounted once it is used; fuseblk is a local disk with a driver outside the kernel.
_OCTAL = re.compile(r"\\([0-7]{3})")
_DRIVE_REMOTE = 4  # Source: Windows API, ``fileapi.h``, GetDriveTypeW


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount: its place as an absolute path, its type; numbers of it and of the mount it stands on, if known."""

    point: str
    fs_type: str
    number: int = 0
    parent: int = 0


@dataclass(frozen=True, slots=True)
class Ground:
    """
    What a folder stands on.

    Attributes:
        point: Where the folder's file system is mounted; empty when the system does not tell.
        fs_type: Its type; empty when the system does not tell.
        remote: True when the folder itself lies on a file system that does not tell of changes.
        remote_below: Mounts below the folder that do not, by their paths relative to it (POSIX).
    """

    point: str = ""
    fs_type: str = ""
    remote: bool = False
    remote_below: tuple[tuple[str, str], ...] = ()


def is_remote(fs_type: str) -> bool:
    """True for a file system whose changes are not all made, and so not all told, by this computer's kernel."""
    return _REMOTE.fullmatch(fs_type) is not None


def parse_mountinfo(text: str) -> list[Mount]:
    """
    The mounts in ``/proc/self/mountinfo``, in its order; lines that are none are left out.

    Source: Linux, ``Documentation/filesystems/proc.rst``, 3.5: number, parent, device, root, mount point,
    options, optional fields, a hyphen, type. Blanks, tabs, line ends and backslashes in names are octal.
    """
    found = []
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        fields = before.split(" ")
        if not dash or len(fields) < 6 or not (fields[0].isdigit() and fields[1].isdigit()):
            continue
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])
        found.append(Mount(point, after.split(" ")[0], int(fields[0]), int(fields[1])))
    return found


def mounts() -> list[Mount]:
    """The mounts that this process sees; empty when the system does not tell, and on Windows."""
    if sys.platform == "win32":
        return []  # network drives that are off the net keep who asks for all drives waiting
    if sys.platform == "linux":
        try:
            text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            text = ""
        if text:
            return parse_mountinfo(text)
    return [Mount(part.mountpoint, part.fstype) for part in psutil.disk_partitions(all=True)]


def mount_of(path: str, table: Sequence[Mount]) -> Mount | None:
    """
    The mount that an absolute path without links lies on; None when the table has none for it.

    Goes down the path as the kernel does, from mount to the mount that stands on it, so that one that is hidden
    by another is not taken. Where the table has no numbers: the longest mount point, of equal ones the last.
    """
    standing = {(mount.parent, mount.point): mount for mount in table if mount.number}
    numbers = {mount.number for mount in table}
    here = next((mount for mount in table if mount.point == "/" and mount.parent not in numbers - {mount.number}), None)
    if here is None or not here.number:
        above = [mount for mount in table if _lies_in(path, mount.point)]
        return max(reversed(above), key=lambda mount: len(mount.point), default=None)
    parts = [part for part in path.split("/") if part]
    for count in range(len(parts) + 1):
        place, seen = "/" + "/".join(parts[:count]), {here.number}
        while (upon := standing.get((here.number, place))) is not None and upon.number not in seen:
            here = upon
            seen.add(here.number)
    return here


def ground_of(root: str, table: Sequence[Mount] | None = None) -> Ground:
    """
    What a folder stands on.

    Args:
        root: Absolute path of the folder; it need not be there.
        table: The mounts; those of now when left out.
    """
    if sys.platform == "win32":
        return Ground(fs_type="network", remote=True) if _on_network_drive(root) else Ground()
    table = mounts() if table is None else table
    real = os.path.realpath(root)
    under = mount_of(real, table)
    if under is None:
        return Ground()
    below = {
        os.path.relpath(mount.point, real): mount.fs_type
        for mount in table
        if mount.point != real
        and _lies_in(mount.point, real)
        and is_remote(mount.fs_type)
        and mount_of(mount.point, table) == mount
    }
    return Ground(under.point, under.fs_type, is_remote(under.fs_type), tuple(sorted(below.items())))


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _on_network_drive(path: str) -> bool:
    drive = os.path.splitdrive(os.path.realpath(path))[0]
    if drive.startswith(("\\\\?\\", "\\\\.\\")):
        drive = "\\\\" + drive[8:] if drive[4:8].upper() == "UNC\\" else drive[4:]
    if drive.startswith("\\\\"):
        return True
    import ctypes  # noqa: PLC0415 - Windows only

    kernel = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined,unused-ignore]
    return bool(kernel.GetDriveTypeW(ctypes.c_wchar_p(drive + "\\")) == _DRIVE_REMOTE)
