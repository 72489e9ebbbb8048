"""What a downloader put into quarantine below its output folder: listing it, looking at it, removing it.

``FolderSink`` writes it: for a record ``TOPIC-PARTITION-OFFSET.value`` and a note beside it, for a file ``HASH.part``
and its note. Entries are read one at a time, so that memory does not grow with their number. Everything in them came
from a topic and is hostile. Must not know what becomes of an entry that can be handled now.

Notes of earlier versions of this package say less; every key but ``reason`` may be missing.
"""

from __future__ import annotations

import base64
import heapq
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from openmsistream.core.chunk import HashName
from openmsistream.core.paths import WORK_FOLDER, from_wire_bytes, to_wire_bytes
from openmsistream.core.versions import VersionKey
from openmsistream.core.wire.peek import HEAD_BYTES, path_in
from openmsistream.core.wire.v1 import DIGEST_BYTES
from openmsistream.errors import ConfigError, SourceError, StorageError
from openmsistream.ports import Headers, Record

FOLDER = "quarantine"
NOTE_BYTES_MAX = 4 * 1024 * 1024
"""A note is small, unless a record has huge headers: those are only kept beside it, and not shown."""
SHORT_ID = 12
_RECORD, _FILE, _NOTE = ".value", ".part", ".json"
_ID = re.compile(r"[A-Za-z0-9._-]{1,300}")
_LETTERS = re.compile(r"[0-9a-f]{4,39}")  # of a file's id, which has 40
_ORIGIN = re.compile(r"(?P<topic>.+)-(?P<partition>\d{1,10})-(?P<offset>\d{1,19})")
_UNFINISHED = "the program was ended while it put this here: its record is read and put here again"


@dataclass(frozen=True, slots=True)
class Entry:
    """
    One thing in quarantine.

    Attributes:
        id: What it is called here, unique in its folder.
        is_file: A whole file that could not be delivered; else one record.
        when_ns: When it was put here, ns since 1970.
        size: Bytes kept; None when they are gone.
        reason: Why it is here.
        topic, partition, offset: Where its record stood; of a file the record that completed it, "" and None where
            that is not known.
        path: Relative path that it names, unchecked; "" when none can be made out.
        timestamp_ms: The record's.
        version: Of a file: its version id (v2) or digest (v1).
        hash_name, digest: Of a file: what its sender said it has; None where that is not known.
        found: The digest that its bytes had when it was put here; None where that is not known.
        exact_path: False when ``path`` is only how the file's name looks, and not the name itself.
        mtime_ns: Of a file, where known.
    """

    id: str
    is_file: bool
    when_ns: int
    size: int | None
    reason: str
    topic: str = ""
    partition: int | None = None
    offset: int | None = None
    path: str = ""
    timestamp_ms: int | None = None
    version: bytes = b""
    hash_name: HashName | None = None
    digest: bytes | None = None
    exact_path: bool = True
    mtime_ns: int | None = None
    found: bytes | None = None

    @property
    def short_id(self) -> str:
        """The id as people type it."""
        return self.id[:SHORT_ID] if self.is_file else self.id


@dataclass(frozen=True, slots=True)
class Total:
    """How much is kept."""

    records: int
    files: int
    size: int


class Quarantine:
    """
    The quarantine of one output folder; nothing is made or changed but by ``drop``.

    Args:
        root: The output folder of a downloader.

    Raises:
        ConfigError: No downloader has written to this folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work = root / WORK_FOLDER
        self.folder = self.work / FOLDER
        self._prefix = os.path.join(self.folder, "")  # pathlib would keep every name it ever saw
        if not self.work.is_dir():
            raise ConfigError(
                f"{root}: no downloader has written to this folder (there is no {WORK_FOLDER} in it)",
                hint="give the folder that was given to openmsistream download",
            )

    def ids(self) -> Iterator[str]:
        """The id of every entry, in no order."""
        for name in self._names():
            yield name.removesuffix(_FILE)

    def entries(self) -> Iterator[Entry]:
        """Every entry, in no order; one that goes away meanwhile is left out."""
        for name in self._names():
            entry = self._read(name)
            if entry is not None:
                yield entry

    def newest(self, count: int) -> list[Entry]:
        """The entries that were put here last, oldest of them first."""
        with self._told():
            latest = heapq.nlargest(count, ((self._when(name), name) for name in self._names()))
        found = (self._read(name) for _, name in reversed(latest))
        return [entry for entry in found if entry is not None]

    def total(self) -> Total:
        """How many entries there are, and their bytes."""
        records = files = size = 0
        for name in self._names():
            if name.endswith(_FILE):
                files += 1
            else:
                records += 1
            size += self._size(name) or 0
        return Total(records, files, size)

    def get(self, typed: str) -> Entry:
        """
        The entry of that id; of a file the first letters are enough when no other begins with them.

        Raises:
            ConfigError: There is none, or there are several.
        """
        entry = self.find(typed)
        if entry is not None:
            return entry
        if _LETTERS.fullmatch(typed):
            names = [name for name in self._names() if name.endswith(_FILE) and name.startswith(typed)]
            if len(names) == 1 and (entry := self._read(names[0])) is not None:
                return entry
            if len(names) > 1:
                raise ConfigError(f"{typed}: {len(names)} entries begin with it", hint="give more letters of the id")
        raise ConfigError(
            f"{typed}: there is no such entry in {self.folder}",
            hint=f"openmsistream quarantine list {self.root} --all shows every id",
        )

    def find(self, full_id: str) -> Entry | None:
        """The entry of exactly that id; None when there is none, or not any more."""
        if not _ID.fullmatch(full_id):
            return None
        return self._read(full_id) or self._read(full_id + _FILE)

    def bytes_path(self, entry: Entry) -> Path:
        """The file that holds an entry's bytes."""
        return self.folder / (entry.id + (_FILE if entry.is_file else _RECORD))

    def head(self, entry: Entry, count: int) -> bytes:
        """The first bytes of an entry; none when they are gone."""
        return self._head(str(self.bytes_path(entry)), count)

    def record(self, entry: Entry) -> Record | None:
        """
        A record as it was read from its topic; None when its bytes or its note are gone.

        Raises:
            StorageError: It cannot be read.
        """
        note = self._note(entry.id)
        if entry.is_file or note is None or entry.partition is None or entry.offset is None:
            return None
        with self._told():
            try:
                value: bytes | None = self.bytes_path(entry).read_bytes()
            except FileNotFoundError:
                return None
        # A tombstone is kept as an empty value: neither can ever be handled.
        return Record(
            entry.partition, entry.offset, entry.timestamp_ms or 0, _unpacked(note.get("key")), value, _headers(note)
        )

    def key_and_headers(self, entry: Entry) -> tuple[bytes | None, Headers]:
        """What a record had beside its value."""
        note = self._note(entry.id) or {}
        return _unpacked(note.get("key")), _headers(note)

    def drop(self, entry: Entry) -> None:
        """Remove an entry for good; the note goes last, so that what is left always says where it came from."""
        name = entry.id + (_FILE if entry.is_file else "")
        with self._told():
            self.bytes_path(entry).unlink(missing_ok=True)
            (self.folder / (name + _NOTE)).unlink(missing_ok=True)

    # -- reading ------------------------------------------------------------------------------------------------

    def _names(self) -> Iterator[str]:
        """Of every entry its name without what its note, or the bytes of a record, have behind it."""
        with self._told():
            try:
                entries = os.scandir(self.folder)
            except FileNotFoundError:
                return
            with entries:
                for entry in entries:
                    if entry.name.endswith(_NOTE):
                        yield entry.name.removesuffix(_NOTE)
                        continue
                    name = entry.name.removesuffix(_RECORD)
                    # Its bytes may be gone as well: dropped since the system read this part of the folder.
                    if (name != entry.name or name.endswith(_FILE)) and self._has_no_note(name, entry.path):
                        yield name

    def _has_no_note(self, name: str, bytes_path: str) -> bool:
        return not os.path.lexists(self._prefix + name + _NOTE) and os.path.lexists(bytes_path)

    def _read(self, name: str) -> Entry | None:
        """The entry of that name; None when there is none, or not any more."""
        is_file = name.endswith(_FILE)
        size = self._size(name)
        note = self._note(name)
        if note is None:
            if size is None:
                return None
            note = {"reason": _UNFINISHED}
        values = _file_values(note, name) if is_file else self._record_values(note, name)
        when_ns = note.get("at_ns")
        return Entry(
            id=name.removesuffix(_FILE),
            is_file=is_file,
            when_ns=when_ns if type(when_ns) is int else self._when(name),
            size=size,
            reason=str(note.get("reason", "")),
            **values,
        )

    def _record_values(self, note: dict[str, Any], name: str) -> dict[str, Any]:
        found = _ORIGIN.fullmatch(name)
        origin = found.groupdict() if found else {}
        path = note.get("path")
        if not isinstance(path, str):
            path = path_in(self._head(self._prefix + name + _RECORD, HEAD_BYTES))
        return {
            "topic": _text(note.get("topic", origin.get("topic", ""))),
            "partition": _whole(note.get("partition", origin.get("partition"))),
            "offset": _whole(note.get("offset", origin.get("offset"))),
            "timestamp_ms": _whole(note.get("timestamp_ms")),
            "path": path,
        }

    def _note(self, name: str) -> dict[str, Any] | None:
        """The note of an entry; one that cannot be read says so."""
        try:
            with open(self._prefix + name + _NOTE, "rb") as file:
                too_long = os.fstat(file.fileno()).st_size > NOTE_BYTES_MAX
                text = b"" if too_long else file.read()
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                return None
            return {"reason": f"its note cannot be read: {error.strerror or error}"}
        if too_long:
            return {"reason": "its note is too long to be shown: look at the file itself"}
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return {"reason": _UNFINISHED}
        return found if isinstance(found, dict) else {"reason": _UNFINISHED}

    def _head(self, path: str, count: int) -> bytes:
        try:
            with open(path, "rb") as file:
                return file.read(count)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise _unreadable(path, error) from error

    def _size(self, name: str) -> int | None:
        try:
            return os.stat(self._prefix + (name if name.endswith(_FILE) else name + _RECORD)).st_size
        except OSError:
            return None

    def _when(self, name: str) -> int:
        for suffix in (_NOTE, "", _RECORD):
            try:
                return os.stat(self._prefix + name + suffix).st_mtime_ns
            except OSError:
                continue
        return 0

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _unreadable(self.folder, error) from error


def part_name(key: VersionKey) -> str:
    """The id under which a version's bytes are kept."""
    return blake2b(key.version + b"/" + to_wire_bytes(key.path), digest_size=20).hexdigest()


def _file_values(note: dict[str, Any], name: str) -> dict[str, Any]:
    announced, version = note.get("path"), _from_hex(note.get("version"))
    announced = announced if isinstance(announced, str) else ""
    raw = _unpacked(note.get("final_path"))
    path = announced if raw is None else from_wire_bytes(raw)
    digest = _from_hex(note.get("digest"))
    hash_name = next((each for each in HashName if each.value == note.get("hash")), None)
    if not digest and len(version) == DIGEST_BYTES:
        digest, hash_name = version, HashName.SHA512  # v1: the version is its digest
    exact = raw is not None or _is_named(name, announced, version)
    return {
        "topic": _text(note.get("topic", "")),
        "partition": _whole(note.get("partition")),
        "offset": _whole(note.get("offset")),
        "path": path,
        "version": version,
        "hash_name": hash_name if digest else None,
        "digest": digest or None,
        "exact_path": exact,
        "mtime_ns": _whole(note.get("mtime_ns")),
        "found": _from_hex(note.get("found")) or None,
    }


def _is_named(name: str, path: str, version: bytes) -> bool:
    try:
        return part_name(VersionKey(path, version)) + _FILE == name
    except SourceError:
        return False


def _text(value: object) -> str:
    return str(value).encode("utf-8", "backslashreplace").decode()


def _headers(note: dict[str, Any]) -> list[tuple[str, bytes | None]]:
    found = note.get("headers")
    pairs = found if isinstance(found, list) else []
    return [(str(pair[0]), _unpacked(pair[1])) for pair in pairs if isinstance(pair, list) and len(pair) == 2]


def _unpacked(text: object) -> bytes | None:
    try:
        return base64.b64decode(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _from_hex(text: object) -> bytes:
    try:
        return bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        return b""


def _whole(value: object) -> int | None:
    try:
        return int(value) if isinstance(value, (int, str)) else None
    except ValueError:
        return None


def _unreadable(path: Path | str, error: OSError) -> StorageError:
    return StorageError(
        f"{path}: the quarantine cannot be used: {error.strerror or error}",
        hint="run this under the account that the downloader runs under",
    )
