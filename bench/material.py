"""What is moved in a benchmark, and the proof that it arrived: files of random bytes, their hashes, checks.

Knows files and records; not who moves them, nor how fast. Random bytes, because what an instrument has
already compressed is the hard case for everybody.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3
from confluent_kafka import Consumer, TopicPartition

from openmsistream.core.wire.recognise import decode_record
from openmsistream.errors import IntegrityError, StorageError

_BLOCK_BYTES = 4 * 1024 * 1024
_FILES_A_FOLDER = 100
_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Material:
    """
    A folder of files to send.

    Attributes:
        root: The folder; there is nothing else in it.
        digests: BLAKE3 of every file by its relative path.
        file_bytes: The size of each.
    """

    root: Path
    digests: Mapping[str, bytes]
    file_bytes: int

    @property
    def paths(self) -> list[Path]:
        """Every file, in the order of its name."""
        return [self.root / name for name in self.digests]

    @property
    def total_bytes(self) -> int:
        """All sizes together."""
        return self.file_bytes * len(self.digests)

    def freshen(self) -> None:
        """
        Make the kernel note the next read of each file as its access time.

        It does so only when that is older than the last change (Linux: mount option relatime).
        """
        for path in self.paths:
            os.utime(path, ns=(0, time.time_ns()))

    def first_read(self) -> float:
        """
        When the first byte of any file was read since ``freshen``, s since 1970, to some 4 ms.

        Raises:
            StorageError: The file system does not keep access times.
        """
        times = [when for when in (path.stat().st_atime for path in self.paths) if when > 0]
        if not times:
            raise StorageError(
                f"{self.root}: the file system notes no access times, so the start of work is not known",
                hint="give another --folder, on a file system that is not mounted with noatime",
            )
        return min(times)


def make(root: Path, count: int, file_bytes: int) -> Material:
    """Write ``count`` files of ``file_bytes`` random bytes; they are in the page cache afterwards."""
    digests = {}
    for number in range(count):
        name = f"batch {number // _FILES_A_FOLDER:03}/scan {number:05}.dat" if count > 1 else "scan.dat"
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = blake3()
        with path.open("wb") as file:
            for start in range(0, file_bytes, _BLOCK_BYTES):
                block = os.urandom(min(_BLOCK_BYTES, file_bytes - start))
                digest.update(block)
                file.write(block)
        digests[name] = digest.digest()
    return Material(root, digests, file_bytes)


def check_topic(material: Material, bootstrap: str, topic: str, *, raw: bool = False) -> int:
    """
    Compare every record of a topic of one partition with the files it was made from.

    Args:
        material: What was sent.
        bootstrap: The broker's address.
        topic: Where it was sent to.
        raw: The records are the bare client's: pieces of files, in order, the key being the path.

    Returns:
        How many records there are.

    Raises:
        IntegrityError: A byte differs, or one is missing.
    """
    seen: dict[str, set[tuple[int, int]]] = {}
    place: dict[str, int] = {}
    count = 0
    for key, value in _all_records(bootstrap, topic):
        count += 1
        if raw:
            name = os.path.relpath(os.fsdecode(key), material.root)
            offset, payload, digest = place.get(name, 0), memoryview(value), None
            place[name] = offset + len(payload)
        else:
            chunk = decode_record(value)
            name, offset, payload = chunk.path, chunk.offset, memoryview(chunk.payload)
            digest = chunk.digest if chunk.last else None
        if name not in material.digests or digest not in (None, material.digests[name]):
            raise IntegrityError(f"topic {topic}: {name} is not what was sent")
        with (material.root / name).open("rb", buffering=0) as file:
            if os.pread(file.fileno(), len(payload), offset) != payload:
                raise IntegrityError(f"topic {topic}: {name} differs in the chunk at byte {offset}")
        seen.setdefault(name, set()).add((offset, len(payload)))
    for name in material.digests:
        if sum(length for _, length in seen.get(name, ())) != material.file_bytes:
            raise IntegrityError(f"topic {topic}: {name} is not there whole")
    return count


def check_folder(material: Material, folder: Path, *, names: bool = True) -> None:
    """
    Compare the files that arrived in a folder with the ones that were sent, by their hashes.

    Args:
        material: What was sent.
        folder: Where it arrived.
        names: The names must be the same too; the floors do not know them.

    Raises:
        IntegrityError: A file is missing, differs, or is too many.
    """
    found = {path.relative_to(folder).as_posix(): digest_of(path) for path in output_files(folder)}
    if found == material.digests or (not names and sorted(found.values()) == sorted(material.digests.values())):
        return
    wrong = [name for name, digest in material.digests.items() if found.get(name) != digest]
    raise IntegrityError(
        f"{folder}: {len(wrong)} of {len(material.digests)} files are not what was sent, e.g. {wrong[:3]};"
        f" {len(found)} files are there"
    )


def output_files(folder: Path) -> Iterator[Path]:
    """Every file that a downloading program delivered, without its own log files and work folder."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in {".openmsistream", "ENCRYPTED_MESSAGES"}]
        yield from (Path(parent, name) for name in files if not name.endswith(".log"))


def has_bytes(folder: Path) -> bool:
    """True when the first byte of a file stands below a folder, under whatever name."""
    for parent, _, files in os.walk(folder):
        for name in files:
            if not name.endswith((".log", ".lock")) and Path(parent, name).stat().st_size > 0:
                return True
    return False


def digest_of(path: Path) -> bytes:
    """BLAKE3 of a file, read in blocks: this process must stay small."""
    digest = blake3()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.digest()


def _all_records(bootstrap: str, topic: str) -> Iterator[tuple[bytes, bytes]]:
    settings: dict[str, Any] = {
        "bootstrap.servers": bootstrap,
        "group.id": "bench-check",
        "enable.auto.commit": False,
        "queued.max.messages.kbytes": 16_384,
        "max.partition.fetch.bytes": 4 * 1024 * 1024,
    }
    consumer = Consumer(settings)
    try:
        place = TopicPartition(topic, 0, 0)
        consumer.assign([place])
        _, end = consumer.get_watermark_offsets(place, timeout=_SECONDS)
        position = 0
        while position < end:
            message = consumer.poll(_SECONDS)
            if message is None or message.error() is not None:
                raise IntegrityError(f"topic {topic}: record {position} of {end} did not come")
            offset: Any = message.offset()
            position = offset + 1
            key: Any = message.key()
            value: Any = message.value()
            yield key, value
    finally:
        consumer.close()
