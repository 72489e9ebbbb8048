"""A file system of the FUSE kind, served by this program: ``python fuse_share.py MOUNT_POINT FOLDER``.

Shows the files of FOLDER, read only, and nothing of its sub-folders. What changes in FOLDER changes here without the
kernel knowing, as on a share that another computer writes to. Speaks the kernel's protocol itself, so that no
library is needed; needs root. Source: Linux, ``include/uapi/linux/fuse.h``, version 7.31.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
from pathlib import Path

_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _STATFS = 1, 2, 3, 14, 15, 17
_RELEASE, _FLUSH, _INIT, _OPENDIR, _READDIR, _RELEASEDIR, _BATCH_FORGET = 18, 25, 26, 27, 28, 29, 42
_ROOT = 1


def attributes(node: int, looks: os.stat_result, mode: int) -> bytes:
    seconds, nanoseconds = divmod(looks.st_mtime_ns, 10**9)
    sizes = (node, looks.st_size, (looks.st_size + 511) // 512)
    return struct.pack("<6Q10I", *sizes, *(seconds,) * 3, *(nanoseconds,) * 3, mode, 1, 0, 0, 0, 4096, 0)


class Share:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: dict[int, str] = {}

    def attributes_of(self, node: int) -> bytes:
        if node == _ROOT:
            return attributes(node, self.folder.stat(), stat.S_IFDIR | 0o755)
        return attributes(node, (self.folder / self.nodes[node]).stat(), stat.S_IFREG | 0o644)

    def entries(self) -> list[tuple[int, str]]:
        found = []
        for entry in sorted(os.scandir(self.folder), key=lambda entry: entry.name):
            if entry.is_file():
                self.nodes[entry.inode() + 2] = entry.name
                found.append((entry.inode() + 2, entry.name))
        return found

    def answer(self, operation: int, node: int, data: bytes) -> bytes:
        """The body of the reply; OSError for a refusal."""
        if operation == _INIT:
            return struct.pack("<4I2H2I2H2I6I", 7, 31, 65536, 0, 12, 9, 65536, 1, 0, 0, 0, 0, *(0,) * 6)
        if operation == _GETATTR:
            return struct.pack("<QII", 0, 0, 0) + self.attributes_of(node)
        if operation == _LOOKUP:
            wanted = os.fsdecode(data.rstrip(b"\0"))
            for number, name in self.entries():
                if name == wanted:
                    return struct.pack("<4QII", number, 0, 0, 0, 0, 0) + self.attributes_of(number)
            raise OSError(errno.ENOENT, wanted)
        if operation in (_OPEN, _OPENDIR):
            return struct.pack("<QII", 0, 0, 0)
        if operation == _READ:
            offset, size = struct.unpack_from("<QI", data, 8)
            return (self.folder / self.nodes[node]).read_bytes()[offset : offset + size]
        if operation == _READDIR:
            offset = struct.unpack_from("<Q", data, 8)[0]
            reply = b""
            for place, (number, name) in enumerate(self.entries(), 1):
                entry = struct.pack("<QQII", number, place, len(os.fsencode(name)), stat.S_IFREG >> 12)
                entry += os.fsencode(name)
                if place > offset:
                    reply += entry + b"\0" * (-len(entry) % 8)
            return reply
        if operation == _STATFS:
            return bytes(80)
        if operation in (_RELEASE, _RELEASEDIR, _FLUSH):
            return b""
        raise OSError(errno.ENOSYS, "not here")

    def serve(self, device: int) -> None:
        while True:
            try:
                request = os.read(device, 1 << 20)
            except OSError as error:
                if error.errno == errno.ENODEV:  # it was unmounted
                    return
                raise
            _, operation, unique, node = struct.unpack_from("<IIQQ", request)
            if operation in (_FORGET, _BATCH_FORGET):
                continue
            try:
                body, refusal = self.answer(operation, node, request[40:]), 0
            except OSError as error:
                body, refusal = b"", -(error.errno or errno.EIO)
            os.write(device, struct.pack("<IiQ", 16 + len(body), refusal, unique) + body)


def main(point: str, folder: str) -> None:
    device = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    if libc.mount(b"labshare", os.fsencode(point), b"fuse.labshare", 0, options) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    print("mounted", flush=True)
    Share(Path(folder)).serve(device)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
