"""What our downloader does with nobody beside it: a restart when very many files were delivered before.

Makes the ledger, starts the program and takes times and resources from outside.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bench import targets
from bench.alone import END_SECONDS, SECONDS, Finding, Stage, judged, played
from openmsistream.adapters.sqlite.downloads import SqliteDownloadLedger
from openmsistream.core.paths import WORK_FOLDER
from openmsistream.core.versions import VersionKey, VersionOrder
from openmsistream.errors import IntegrityError
from openmsistream.ports import Barrier, Delivered

KNOWN = "down-known"
SCENARIOS = (KNOWN,)
LONG_SCENARIOS = frozenset(SCENARIOS)
_AT_ONCE = ("--once", "--upload_existing", "--watchdog_lag_time", "0")
_BATCH = 10_000
_DIGEST_BYTES, _ID_BYTES = 32, 16
_FOLDERS = 1000


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many files were delivered before."""

    known: int = 1_000_000


FULL = Sizes()
QUICK = Sizes(known=10_000)


def measure(
    bootstrap: str, work: Path, wanted: Collection[str], sizes: Sizes, say: Callable[[str], None]
) -> list[Finding]:
    """Run the wanted scenarios; as ``alone.played``, with the sizes of what is moved."""
    return played({KNOWN: lambda stage: _known(stage, sizes.known)}, bootstrap, work, wanted, say)


def _known(stage: Stage, known: int) -> list[Finding]:
    """Start beside a ledger of very many delivered files, with one new file on the topic."""
    _send(stage, "first.dat")
    with stage.download() as running:  # the program itself makes its ledger, in the place it will look for it
        running.wait_until(lambda: running.counted >= 1, SECONDS)
        running.quit()
        running.finish(END_SECONDS)
    _remember_as_delivered(stage, known)
    _send(stage, "new.dat")
    os.sync()
    with stage.download() as running:
        running.wait_until(lambda: running.counted >= 1, SECONDS)
        running.quit()
        usage = running.finish(END_SECONDS)
        delivered = running.times_of("file_delivered")
    if len(delivered) != 1:
        raise IntegrityError(f"{len(delivered)} files were delivered of {known:,} known ones and a new one")
    return [
        judged(KNOWN, targets.KNOWN_FIRST, delivered[0] - usage.began),
        Finding(KNOWN, "peak memory", usage.rss_bytes / 1e6, "MB"),
    ]


def _send(stage: Stage, name: str) -> None:
    (stage.watched / name).write_bytes(name.encode())
    with stage.watch(*_AT_ONCE) as running:
        running.finish(SECONDS)


def _remember_as_delivered(stage: Stage, known: int) -> None:
    """Write so many files into the downloader's ledger as delivered, through the ledger's own code."""
    (path,) = (stage.output / WORK_FOLDER).glob("download-*.sqlite")
    with closing(SqliteDownloadLedger(path, _topic_id(path))) as ledger:
        position = ledger.position(0) or 0
        for first in range(0, known, _BATCH):
            ledger.barrier(
                Barrier(
                    positions={0: position},
                    delivered=list(_delivered(range(first, min(first + _BATCH, known)))),
                    finished=[],
                    open=[],
                )
            )


def _delivered(numbers: range) -> Iterator[Delivered]:
    for number in numbers:
        path = f"run {number % _FOLDERS:04}/scan {number:07}.dat"
        order = VersionOrder(b"s" * _ID_BYTES, number, time.time_ns(), time.time_ns() // 1_000_000)
        key = VersionKey(path, os.urandom(_ID_BYTES))
        yield Delivered(key, path, 10_000, os.urandom(_DIGEST_BYTES), order)


def _topic_id(path: Path) -> str:
    """The topic that the ledger is about, as it says itself: another one would make it forget its positions."""
    with closing(sqlite3.connect(path)) as database:
        ((value,),) = database.execute("SELECT value FROM meta WHERE key = 'topic_id'").fetchall()
    return str(value)
