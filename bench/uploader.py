"""Which scenarios our uploader is put through with nobody beside it, and how much each moves.

Owns the sizes, of the full run and of the quick one, and the order; what is done and measured is ``soon``'s and
``crowd``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.alone import Finding, Play, played
from bench.crowd import BURST, FOLDER, SCALE, SMALL_MANY, burst, folder, scale, small_many
from bench.soon import GROWING, LATENCY, growing, latency

SCENARIOS = (SMALL_MANY, LATENCY, GROWING, BURST, FOLDER, SCALE)
LONG_SCENARIOS = frozenset({SCALE})
"""Left out unless asked for: they take minutes to prepare."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is moved, and for how long."""

    small_count: int = 100_000
    small_bytes: int = 10_000
    latency_files: int = 1000
    growing_bytes: int = 2_000_000_000
    growing_seconds: float = 60.0
    burst_files: int = 20_000
    folder_files: int = 200_000
    scale_folders: int = 1000
    scale_files_a_folder: int = 1000
    idle_seconds: float = 60.0


FULL = Sizes()
QUICK = Sizes(
    small_count=10_000,
    latency_files=100,
    growing_bytes=100_000_000,
    growing_seconds=6.0,
    burst_files=2000,
    folder_files=5000,
    scale_folders=100,
    scale_files_a_folder=100,
    idle_seconds=5.0,
)


def measure(
    bootstrap: str, work: Path, wanted: Collection[str], sizes: Sizes, say: Callable[[str], None]
) -> list[Finding]:
    """Run the wanted scenarios; as ``alone.played``, with the sizes of what is moved."""
    plays: dict[str, Play] = {
        SMALL_MANY: partial(small_many, files=sizes.small_count, file_bytes=sizes.small_bytes),
        LATENCY: partial(latency, files=sizes.latency_files),
        GROWING: partial(growing, total_bytes=sizes.growing_bytes, seconds=sizes.growing_seconds),
        BURST: partial(burst, files=sizes.burst_files),
        FOLDER: partial(folder, files=sizes.folder_files),
        SCALE: partial(
            scale,
            folders=sizes.scale_folders,
            files_a_folder=sizes.scale_files_a_folder,
            idle_seconds=sizes.idle_seconds,
        ),
    }
    return played(plays, bootstrap, work, wanted, say)
