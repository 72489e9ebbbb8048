"""Versions for a folder sink, and what it makes of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blake3 import blake3

from openmsistream.adapters.filesystem.rules import DeliveryRules
from openmsistream.adapters.filesystem.sink import FolderSink
from openmsistream.core.versions import VersionKey
from openmsistream.ports import Publication

NAMED = 1_769_881_501_000_000_000  # 2026-01-31 17:45:01 UTC


def version(path: str, data: bytes, number: int = 1, mtime_ns: int | None = NAMED) -> tuple[Publication, bytes]:
    key = VersionKey(path, bytes([number]) * 16)
    return Publication(key, path, len(data), mtime_ns, blake3(data).digest()), data


def write(sink: FolderSink, *versions: tuple[Publication, bytes]) -> list[Publication]:
    for publication, data in versions:
        sink.write(publication.key, 0, data)
    sink.sync([publication.key for publication, _ in versions])
    return [publication for publication, _ in versions]


def deliver(sink: FolderSink, *versions: tuple[Publication, bytes]) -> list[str]:
    """Where they stand; fails when one of them cannot be delivered."""
    batch = write(sink, *versions)
    assert sink.publish(batch) == {}
    return [Path(sink.where(p.key)).relative_to(sink.root).as_posix() for p in batch]


def visible(root: Path) -> dict[str, bytes]:
    files = {file.relative_to(root).as_posix(): file for file in root.rglob("*") if file.is_file()}
    return {path: file.read_bytes() for path, file in files.items() if not path.startswith(".openmsistream/")}


@contextmanager
def sink_on(root: Path, *, by_descriptor: bool = True, whose: str = "", **rules: object) -> Iterator[FolderSink]:
    wanted = DeliveryRules(**rules)  # type: ignore[arg-type]
    made = FolderSink(root, by_descriptor=by_descriptor and os.name != "nt", rules=wanted, whose=whose)
    try:
        yield made
    finally:
        made.close()
