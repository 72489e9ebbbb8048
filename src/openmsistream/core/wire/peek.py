"""The path that a record names, from its first bytes alone, for lists of records that nobody could handle.

Owns nothing but this glance: what it returns is hostile and unchecked, good for showing and for nothing else. It must
not know why a record was refused.
"""

from __future__ import annotations

from typing import Any

import msgpack

from openmsistream.core.paths import PATH_BYTES_MAX, from_wire_bytes
from openmsistream.core.wire import v2

HEAD_BYTES = 16 * 1024 + 6
"""So many bytes hold everything in front of the payload: v2's largest header, and more than v1 writes there."""
_V1_FIRST = (0x99, 0x9A)
_V1_FOLDER = 6


def path_in(head: bytes) -> str:
    """
    The path that a record value names, "" when none can be made out.

    Args:
        head: The first ``HEAD_BYTES`` of the value, or all of it.

    Returns:
        At most 4,096 characters, of any kind: escape them before they are shown.
    """
    try:
        found = _v2_path(head) if head.startswith(v2.MAGIC) else _v1_path(head)
    except (ValueError, TypeError, msgpack.UnpackException):
        return ""
    return found[:PATH_BYTES_MAX]


def _v2_path(head: bytes) -> str:
    stop = 6 + int.from_bytes(head[4:6], "big")
    header = msgpack.unpackb(head[6:stop], max_array_len=256, max_map_len=256, max_ext_len=0)
    path = (header.get("name") or header.get("path")) if isinstance(header, dict) else None
    return from_wire_bytes(path) if isinstance(path, bytes) else path if isinstance(path, str) else ""


def _v1_path(head: bytes) -> str:
    if not head or head[0] not in _V1_FIRST:
        return ""
    unpacker = msgpack.Unpacker(max_buffer_size=HEAD_BYTES, max_array_len=0, max_map_len=0, max_ext_len=0)
    unpacker.feed(head[1:HEAD_BYTES])
    fields: list[Any] = [unpacker.unpack() for _ in range(_V1_FOLDER + 1)]
    name, folder = fields[0], fields[_V1_FOLDER]
    if not isinstance(name, str) or not isinstance(folder, str):
        return ""
    return f"{folder}/{name}" if folder else name
