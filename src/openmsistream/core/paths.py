"""Which relative paths may come out of a topic, how a path becomes bytes, and its partition.

Everything here is arithmetic on text: this module never touches a file system, so it cannot know about
symbolic links inside the output folder; the sink that writes the file looks for those.
"""

from __future__ import annotations

import re
import zlib
from functools import lru_cache

from openmsistream.errors import ConfigError, ProtocolError, SourceError

WORK_FOLDER = ".openmsistream"
"""The hidden folder of ours at the top of an output folder; no record may name a file in it."""

PATH_BYTES_MAX = 4_096  # Linux' PATH_MAX, and the limit of the wire format (docs/design.md, section 3)
PART_BYTES_MAX = 255  # NAME_MAX of ext4, XFS, APFS and NTFS alike (NTFS counts UTF-16 units: never more than bytes)

_DRIVE = re.compile(r"[A-Za-z]:")
# Names that Windows gives to devices in every folder, whatever extension or spaces follow.
# Source: Microsoft, "Naming Files, Paths, and Namespaces"; the superscript digits count as digits there.
_DEVICE = re.compile(
    r"(?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(?:COM|LPT)[1-9\u00b9\u00b2\u00b3]) *(?:\.|\Z)", re.IGNORECASE
)
_WINDOWS_FORBIDDEN = re.compile(r'[\x00-\x1f:*?"<>|]')
# NTFS may give WORK_FOLDER a second, 8.3 name: OPENMS~1, or OP, four hexadecimal digits and ~1.
_WORK_FOLDER_SHORT = re.compile(r"OP(?:ENMS|[0-9A-F]{4})~[0-9]+\Z", re.IGNORECASE)
# Characters that HFS+ leaves out when it compares names.
_HFS_IGNORED = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")

_RENAME = "rename the file on the sending side"
_REMEMBERED = 2048
"""So many paths are known to be good: a downloader asks about each several times. A path has at most 4 KB."""


@lru_cache(maxsize=_REMEMBERED)
def check_relative(path: str, *, windows: bool = False) -> str:
    """
    Return ``path`` unchanged when it names a file below whatever folder it is joined to.

    Refused everywhere: nothing at all, absolute paths, ``.``, ``..`` and empty parts, drive letters,
    backslashes, NUL, the names of Windows devices (``NUL``, ``aux.csv``), parts longer than 255 bytes, paths
    longer than 4,096 bytes, and our own work folder at the top. Everything else that POSIX allows stays
    allowed: spaces, ``;``, a colon, a line break, bytes that are not UTF-8.

    Args:
        path: Relative POSIX path as it came from a record.
        windows: Also refuse what Windows cannot store, or would store under another name: control
            characters, ``: * ? " < > |``, a part that ends in a dot or a space.

    Raises:
        ProtocolError: The path is refused; the text begins with it, shortened.
    """
    if not path:
        raise _invalid(path, "it is empty")
    if "\0" in path:
        raise _invalid(path, "it contains a NUL character")
    if "\\" in path:
        raise _outside(path, "it contains a backslash, which separates folders on Windows")
    if path[0] == "/":
        raise _outside(path, "it is absolute")
    if _DRIVE.match(path):
        raise _outside(path, "it begins with a drive letter")
    try:
        length = len(to_wire_bytes(path))
    except SourceError as error:
        raise _invalid(path, "it holds half a surrogate pair") from error
    if length > PATH_BYTES_MAX:
        raise _invalid(path, f"it has {length:,} bytes, the limit is {PATH_BYTES_MAX:,}")
    parts = path.split("/")
    for part in parts:
        _check_part(path, part, windows=windows)
    if _is_work_folder(parts[0], windows=windows):
        raise _invalid(path, f"{WORK_FOLDER} is the folder where downloads keep their own state")
    return path


def to_wire_bytes(path: str) -> bytes:
    """
    Return the bytes that name a file: UTF-8, with escaped bytes as they were on disk.

    Raises:
        SourceError: The text holds half a surrogate pair (possible on Windows), so no bytes stand for it.

    Source: PEP 383 for the ``surrogateescape`` rule.
    """
    try:
        return path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise SourceError(f"{_shown(path)} is not valid Unicode: {error.reason}", hint=_RENAME) from error


def from_wire_bytes(raw: bytes) -> str:
    """Return the path that ``raw`` names; the inverse of ``to_wire_bytes`` for every byte string."""
    return raw.decode("utf-8", "surrogateescape")


def partition_for(path: str, partitions: int) -> int:
    """
    Return the partition that a new path's records go to: CRC32 of its bytes modulo the count.

    Args:
        path: Relative path as it will stand in the records.
        partitions: Number of partitions of the topic; >= 1.

    Returns:
        0 to ``partitions - 1``, the same on every computer and in every version of this package.

    Raises:
        ConfigError: ``partitions`` is below 1.
        SourceError: No bytes stand for the path (see ``to_wire_bytes``).
    """
    if partitions < 1:
        raise ConfigError(f"a topic has at least 1 partition, got {partitions}", hint="check that the topic exists")
    return zlib.crc32(to_wire_bytes(path)) % partitions


def _check_part(path: str, part: str, *, windows: bool) -> None:
    if part == "..":
        raise _outside(path, "it contains '..'")
    if part in {"", "."}:
        raise _invalid(path, f"one of its parts is {part!r}")
    if (length := len(to_wire_bytes(part))) > PART_BYTES_MAX:
        raise _invalid(path, f"one of its parts has {length:,} bytes, the limit is {PART_BYTES_MAX}")
    if _DEVICE.match(part):
        raise _invalid(path, f"{_shown(part)} is the name of a device on Windows")
    if not windows:
        return
    if forbidden := _WINDOWS_FORBIDDEN.search(part):
        raise _invalid(path, f"Windows does not allow {forbidden[0]!r} in a name")
    if part[-1] in ". ":
        raise _invalid(path, f"Windows does not allow {part[-1]!r} at the end of a name")


def _is_work_folder(part: str, *, windows: bool) -> bool:
    # Windows and macOS ignore case; macOS folds it in full, so '.openm\u017fistream' is our folder there.
    if _HFS_IGNORED.sub("", part).casefold() == WORK_FOLDER:
        return True
    return windows and _WORK_FOLDER_SHORT.match(part) is not None


def _outside(path: str, why: str) -> ProtocolError:
    return ProtocolError(f"{_shown(path)} would be outside the output folder: {why}", hint=_RENAME)


def _invalid(path: str, why: str) -> ProtocolError:
    return ProtocolError(f"{_shown(path)} is not a valid name for a file: {why}", hint=_RENAME)


def _shown(path: str) -> str:
    # A path from a topic may have megabytes; an error line must not.
    return repr(path) if len(path) <= 100 else f"{path[:80]!r}...{path[-15:]!r}"
