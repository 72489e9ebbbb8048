"""Compare two folders byte by byte: what the demo promises, checked without trusting what the programs said.

Owns reading and hashing files on disk. Knows nothing about programs, events or topics.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import blake3

_PIECE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    The comparison of one file.

    Attributes:
        path: Relative POSIX path.
        size: Size of the source in bytes.
        digest: BLAKE3 of the source, in hex: what ``b3sum`` prints. Empty when it cannot be read.
        problem: Empty when the copy is the same byte for byte; else one line.
    """

    path: str
    size: int
    digest: str
    problem: str = ""


def compare(source: Path, copy: Path, paths: list[str]) -> list[Verdict]:
    """
    Compare files of two folders by size and BLAKE3.

    Args:
        source: The folder the files were written to.
        copy: The folder they were delivered to.
        paths: Relative POSIX paths of the files that both must have.

    Returns:
        One verdict for each path, in the order given.
    """
    return [_compare_one(source, copy, path) for path in paths]


def strangers(folder: Path, expected: list[str], *, hidden: bool) -> list[str]:
    """
    Return the relative POSIX paths of files in ``folder`` that nobody expects there, sorted.

    Args:
        folder: Where to look, sub-folders included.
        expected: The paths that belong there.
        hidden: Look into hidden folders at the top as well. A download keeps its partial files in one;
            what is in there never has a final name.
    """
    found = []
    for place, folders, names in os.walk(folder):
        if not hidden and Path(place) == folder:
            folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name).relative_to(folder).as_posix() for name in names]
    return sorted(set(found) - set(expected))


def digest_of(path: Path) -> tuple[int, str]:
    """
    Return a file's size in bytes and its BLAKE3 in hex.

    Raises:
        OSError: It cannot be read.
    """
    hasher, size = blake3.blake3(), 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            hasher.update(piece)
            size += len(piece)
    return size, hasher.hexdigest()


def _compare_one(source: Path, copy: Path, path: str) -> Verdict:
    parts = PurePosixPath(path).parts
    try:
        size, digest = digest_of(source.joinpath(*parts))
    except OSError as error:
        return Verdict(path, 0, "", f"{path}: cannot read the source: {error.strerror or error}")
    try:
        copy_size, copy_digest = digest_of(copy.joinpath(*parts))
    except FileNotFoundError:
        return Verdict(path, size, digest, f"{path}: there is no copy")
    except OSError as error:
        return Verdict(path, size, digest, f"{path}: cannot read the copy: {error.strerror or error}")
    if copy_size != size:
        return Verdict(path, size, digest, f"{path}: the copy has {copy_size} bytes, the source {size}")
    if copy_digest != digest:
        return Verdict(
            path,
            size,
            digest,
            f"{path}: the copy differs: BLAKE3 {copy_digest[:12]}, the source {digest[:12]}",
        )
    return Verdict(path, size, digest)
