"""What an object is called, and what it says about the version it holds.

Pure text: keys from paths, and user metadata and tags from versions and back. This module never sees a store.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from openmsistream.core.chunk import HashName
from openmsistream.core.paths import check_relative
from openmsistream.core.versions import VersionKey, VersionOrder, is_newer
from openmsistream.errors import ProtocolError

KEY_BYTES_MAX = 1024
"""Source: "Naming Amazon S3 objects"."""
VERSION, SOURCE, GEN, PATH, MTIME, TIME = "oms-version", "oms-source", "oms-gen", "oms-path", "mtime", "oms-time"
"""
Names of user metadata. ``mtime`` is as rclone has it (seconds since 1970, with nine decimals), so that rclone gives it
back; the digest stands under the name of its hash function, ``blake3`` or ``sha512``.
"""
_PATH_BYTES_SHOWN = 1024  # all user metadata together may have 2 KB
_ID_BYTES = 16  # of a UUIDv7, which begins with ms since 1970
_BILLION = 1_000_000_000
_SLASHES = re.compile("/{2,}")


def object_key(template: str, topic: str, path: str) -> str:
    """
    Return the key of a path's object.

    Args:
        template: With ``{topic}``, ``{path}``, ``{folder}`` and ``{name}``.
        topic: Its topic.
        path: Relative path, as it is to be delivered.

    Raises:
        ProtocolError: The path leads elsewhere, is not valid Unicode, or makes too long a key.
    """
    check_relative(path)
    folder, _, name = path.rpartition("/")
    made = template.format(topic=topic, path=path, folder=folder, name=name)
    key = _SLASHES.sub("/", made).lstrip("/")
    try:
        length = len(key.encode())
    except UnicodeEncodeError as error:
        raise ProtocolError(
            f"{path!r} is not a valid name for an object: it is not Unicode", hint="rename the file on the sending side"
        ) from error
    if length > KEY_BYTES_MAX:
        raise ProtocolError(
            f"{path!r} is not a valid name for an object: its key would have {length:,} bytes, the limit is"
            f" {KEY_BYTES_MAX:,}",
            hint="rename the file on the sending side, or choose a shorter --key-template",
        )
    return key


def metadata_of(
    key: VersionKey, path: str, order: VersionOrder | None, digest: bytes = b"", hash_name: HashName = HashName.BLAKE3
) -> dict[str, str]:
    """
    Return what an object says about its version: ASCII, as headers have it.

    Args:
        key: The version.
        path: The path it is delivered under.
        order: What is known of its place among the versions of the path.
        digest: Of the whole file, where it is known already.
        hash_name: What the digest was made with.
    """
    said = {VERSION: key.version.hex()}
    shown = quote(path.encode("utf-8", "surrogateescape"), safe="/ ")
    if len(shown) <= _PATH_BYTES_SHOWN:
        said[PATH] = shown
    if digest:
        said[hash_name.value] = digest.hex()
    if order is not None:
        if order.src is not None:
            said[SOURCE] = order.src.hex()
        if order.gen is not None:
            said[GEN] = str(order.gen)
        if order.mtime_ns is not None:
            said[MTIME] = _seconds(order.mtime_ns)
        if order.timestamp_ms:
            said[TIME] = str(order.timestamp_ms)
    return said


def tags_of(
    key: VersionKey, order: VersionOrder | None, digest: bytes, hash_name: HashName = HashName.BLAKE3
) -> dict[str, str]:
    """Return what was not known when a multipart upload began, as tags; empty when it is not known now either."""
    if not digest:
        return {}
    said = {hash_name.value: digest.hex(), VERSION: key.version.hex()}
    if order is not None and order.timestamp_ms:
        said[TIME] = str(order.timestamp_ms)
    return said


@dataclass(frozen=True, slots=True)
class Found:
    """An object as it stands in the bucket; ``said`` is its user metadata and, once asked for, its tags."""

    etag: str
    size: int
    said: Mapping[str, str]
    modified_ms: int = 0
    version_id: str | None = None

    @property
    def version(self) -> bytes:
        """The id of the version that it holds; empty for an object that is not ours."""
        return _from_hex(self.said.get(VERSION, ""))

    def with_tags(self, tags: Mapping[str, str]) -> Found:
        """The same object with what its tags say; those of another version count for nothing."""
        if tags.get(VERSION) != self.said.get(VERSION):
            return self
        return Found(self.etag, self.size, {**tags, **self.said}, self.modified_ms, self.version_id)

    def digest(self, hash_name: HashName) -> bytes:
        """The digest of its bytes; empty when it is not known."""
        return _from_hex(self.said.get(hash_name.value, ""))

    def is_newer_than(self, order: VersionOrder | None) -> bool:
        """True when it holds a version of ours that is to stay where one with ``order`` is to be delivered."""
        if order is None or not self.version:
            return False
        return not is_newer(order, self._order())

    def _order(self) -> VersionOrder:
        gen, time = self.said.get(GEN, ""), self.said.get(TIME, "")
        # A multipart object gets its tags a moment after it appears: until then the id says when it was made.
        made_ms = int.from_bytes(self.version[:6], "big") if len(self.version) == _ID_BYTES else self.modified_ms
        timestamp = int(time) if time.isdecimal() else made_ms
        return VersionOrder(
            _from_hex(self.said.get(SOURCE, "")) or None,
            int(gen) if gen.isdecimal() else None,
            _nanoseconds(self.said.get(MTIME, "")),
            timestamp,
        )


def _seconds(ns: int) -> str:
    sign, rest = ("-", -ns) if ns < 0 else ("", ns)
    return f"{sign}{rest // _BILLION}.{rest % _BILLION:09}"


def _nanoseconds(text: str) -> int | None:
    match = re.fullmatch(r"(-?)([0-9]{1,12})\.([0-9]{9})", text)
    if match is None:
        return None
    ns = int(match[2]) * _BILLION + int(match[3])
    return -ns if match[1] else ns


def _from_hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""
