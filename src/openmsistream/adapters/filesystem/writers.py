"""Who holds a root's files open for writing, asked of the system and never by opening a file.

Linux: one pass over ``/proc/*/fd``. Windows: the Restart Manager, which does not tell reading from writing.
Elsewhere nobody tells. Knows nothing of watching or settling.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from openmsistream.adapters.filesystem.mounts import ground_of, is_remote, mounts

PASS_SHARE = 20
"""A pass is followed by a pause of so many times its length: at most a twentieth of one core goes into passes."""

_Identity = tuple[int, int]
_PROC = "/proc"


class OpenWriters:
    """
    Knows the writers of the files below a root (``ports.Writers``).

    Every answer "nobody" comes from a pass that began after the question. In the pause after a pass nothing is
    known of the paths asked for, and they count as held: asked again a little later, the answer is there. A path
    whose writer was found before costs no pass as long as that writer is still there.

    On Linux only programs that this account may look at are seen: its own, or all of them for root. A file that
    is only mapped into memory, its descriptor closed, does not count as open.

    Args:
        root: The watched folder.
        proc: Where the process table is (Linux).
        monotonic: Seconds that never run backwards.
    """

    def __init__(self, root: Path, *, proc: str = _PROC, monotonic: Callable[[], float] = time.perf_counter) -> None:
        self._root, self._proc, self._monotonic = os.path.abspath(root), proc, monotonic
        self._next_pass = float("-inf")
        self._links: dict[_Identity, str] = {}

    def ready(self) -> bool:
        """True when the pause after the last pass is over."""
        return self._monotonic() >= self._next_pass

    def holding(self, paths: Collection[str]) -> frozenset[str] | None:
        """Which of these relative paths some other program holds open for writing; None: nobody can tell."""
        if sys.platform == "win32":
            return frozenset(path for path in paths if _used_on_windows(os.path.join(self._root, path)))
        if not os.path.isdir(os.path.join(self._proc, "self", "fd")):
            return None
        asked: dict[_Identity, list[str]] = {}
        for path in paths:
            try:
                found = os.stat(os.path.join(self._root, path))
            except (OSError, ValueError):
                continue  # gone: nobody will write it any more
            asked.setdefault((found.st_dev, found.st_ino), []).append(path)
        self._links = {who: link for who, link in self._links.items() if who in asked and _writes(link) == who}
        if not asked.keys() <= self._links.keys():
            began = self._monotonic()
            if began < self._next_pass:
                return frozenset(path for same in asked.values() for path in same)
            self._links.update(self._pass(asked))
            ended = self._monotonic()
            self._next_pass = ended + PASS_SHARE * (ended - began)
        return frozenset(path for who in self._links for path in asked[who])

    def _pass(self, asked: Collection[_Identity]) -> dict[_Identity, str]:
        found: dict[_Identity, str] = {}
        elsewhere = self._other_remote_mounts()
        for folder in self._descriptor_folders():
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        who = _writes(entry.path, elsewhere)
                        if who is not None and who in asked:
                            found[who] = entry.path
            except OSError:
                continue  # it ended, or is none of our business
        return found

    def _descriptor_folders(self) -> Iterator[str]:
        own = str(os.getpid())
        for name in os.listdir(self._proc):
            if name.isdigit() and name != own:
                yield f"{self._proc}/{name}/fd"

    def _other_remote_mounts(self) -> tuple[str, ...]:
        # Asking for the looks of a file on a share whose server is gone takes for ever.
        table = mounts()
        own = ground_of(self._root, table).point
        return tuple(f"{mount.point}/" for mount in table if is_remote(mount.fs_type) and mount.point != own)


def _writes(link: str, elsewhere: tuple[str, ...] = ()) -> _Identity | None:
    """
    Device and inode of the file behind a descriptor in ``/proc``, when it is open for writing.

    Source: Linux, ``fs/proc/fd.c``: the link's permissions are those that the file was opened with; the link of
    a file names it, that of a socket or pipe begins with its kind.
    """
    try:
        if not os.lstat(link).st_mode & stat.S_IWUSR:
            return None
        target = os.readlink(link)
        if not target.startswith("/") or target.startswith(("/dev/", *elsewhere)):
            return None
        found = os.stat(link)
    except OSError:
        return None
    return (found.st_dev, found.st_ino)


def _used_on_windows(path: str) -> bool:
    """
    True when another program has the file open, for reading or writing.

    Source: Windows API, ``restartmanager.h``: RmStartSession, RmRegisterResources, RmGetList, RmEndSession;
    a session key has 32 characters and a NUL, RM_PROCESS_INFO begins with the process id.
    """
    import ctypes  # noqa: PLC0415 - Windows only

    class ProcessInfo(ctypes.Structure):
        _fields_ = (
            ("process_id", ctypes.c_uint32),
            ("start_time", ctypes.c_uint32 * 2),
            ("app_name", ctypes.c_wchar * 256),
            ("service_name", ctypes.c_wchar * 64),
            ("application_type", ctypes.c_int),
            ("app_status", ctypes.c_uint32),
            ("session_id", ctypes.c_uint32),
            ("restartable", ctypes.c_int),
        )

    manager = ctypes.WinDLL("rstrtmgr")  # type: ignore[attr-defined,unused-ignore]
    session, key = ctypes.c_uint32(), ctypes.create_unicode_buffer(33)
    if manager.RmStartSession(ctypes.byref(session), 0, key) != 0:
        return False
    try:
        names = (ctypes.c_wchar_p * 1)(path)
        if manager.RmRegisterResources(session, 1, names, 0, None, 0, None) != 0:
            return False
        room = 16  # with more programs than that the call fails, and somebody else is among them for certain
        needed, count, reasons = ctypes.c_uint32(), ctypes.c_uint32(room), ctypes.c_uint32()
        users = (ProcessInfo * room)()
        status = manager.RmGetList(session, ctypes.byref(needed), ctypes.byref(count), users, ctypes.byref(reasons))
        if status != 0:
            return needed.value > room
        return any(user.process_id != os.getpid() for user in users[: count.value])
    finally:
        manager.RmEndSession(session)
