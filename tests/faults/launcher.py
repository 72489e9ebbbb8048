"""Starts ``openmsistream`` so that it kills itself at a chosen call, or with one of its protections taken out.

``launcher.py KILL CHANGES WORDS...``; KILL is ``module:Class.method:before|after:N`` or empty, CHANGES names from
``CHANGES`` with commas between them, or empty. Only for tests: a kill at an exact point cannot be had from outside,
and a test of a protection is worth something only if it fails without the protection.
"""

# ruff: noqa: PLC0415 - only what is exchanged is imported, so that everything else starts as usual
from __future__ import annotations

import importlib
import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any


def exchange(owner: Any, name: str, new: Any) -> Any:
    """Put something else in the place of a method or function; returns what was there, and fails when nothing was."""
    old = getattr(owner, name)
    setattr(owner, name, new)
    return old


def kill_at(place: str) -> None:
    """Wrap the method so that its N-th call ends the process, as ``kill -9`` would, before or after it."""
    module, name, when, number = place.split(":")
    owner, method = name.split(".")
    calls = itertools.count(1)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        mine = next(calls) == int(number)
        if mine and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **named)
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    original: Callable[..., Any] = exchange(getattr(importlib.import_module(module), owner), method, wrapped)


def all_in_memory() -> None:
    """Delivery to a bucket keeps every unfinished part in memory."""
    from openmsistream.adapters.s3.spill import Collecting

    exchange(Collecting, "_make_room", lambda *_: None)


def barriers_often() -> None:
    """No protection less: a barrier after every 15 files instead of 4000, so that few files see several."""
    from openmsistream.pipeline.delivery import BarrierSettings

    before = BarrierSettings.__init__.__defaults__
    assert before is not None
    assert BarrierSettings().files == before[0]
    exchange(BarrierSettings.__init__, "__defaults__", (15, *before[1:]))


def every_folder_stays_open() -> None:
    """A descriptor is kept for every folder of a batch."""
    from openmsistream.adapters.filesystem import placing

    exchange(placing, "OPEN_FOLDERS", 10**6)


def forget_parts() -> None:
    """Delivery to a bucket forgets which parts the store has."""
    from dataclasses import replace

    from openmsistream.adapters.s3.ledger import Uploads

    def recorded(self: Uploads, key: Any) -> Any:
        found = original(self, key)
        return None if found is None else replace(found, parts={})

    original = exchange(Uploads, "recorded", recorded)


def forget_uploads() -> None:
    """The uploader's ledger takes nothing in."""
    from openmsistream.adapters.sqlite.uploads import SqliteUploadLedger

    for name in ("record_sent", "record_open"):
        exchange(SqliteUploadLedger, name, lambda *_: None)


def write_in_place() -> None:
    """The sink writes under the final name from the first byte on, as a naive program does."""
    from openmsistream.adapters.filesystem.sink import FolderSink

    def write(self: FolderSink, key: Any, offset: int, data: Any) -> None:
        original(self, key, offset, data)
        path = self.root / key.path
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if path.exists() else "wb") as file:
            file.seek(offset)
            file.write(data)

    original = exchange(FolderSink, "write", write)


def commit_what_was_read() -> None:
    """Offsets are committed as they are read, and the ledger forgets them: what is open is lost at a kill."""
    import openmsistream.pipeline.download as flow
    from openmsistream.adapters.sqlite.downloads import SqliteDownloadLedger

    exchange(flow, "watermark", lambda position, _: position)
    exchange(SqliteDownloadLedger, "position", lambda *_: None)
    exchange(SqliteDownloadLedger, "open_versions", lambda _: [])


def go_on_when_full() -> None:
    """What cannot be written is left out without a word, and reading goes on."""
    from openmsistream.adapters.filesystem.sink import FolderSink
    from openmsistream.errors import StorageError

    def write(self: FolderSink, key: Any, offset: int, data: Any) -> None:
        try:
            original(self, key, offset, data)
        except StorageError:
            return

    original = exchange(FolderSink, "write", write)
    exchange(FolderSink, "read", lambda *_: ())


def grow_soon() -> None:
    """Parts double their size after every two of them, as files of more than 16 GiB see it."""
    from openmsistream.adapters.s3 import parts

    exchange(parts, "FIRST_PARTS", 2)
    exchange(parts, "SAME_SIZE_PARTS", 2)


def ledger_refuses_twice() -> None:
    """No protection less: the first two barriers find the ledger's disk full, behind the renames."""
    from openmsistream.adapters.sqlite.downloads import SqliteDownloadLedger
    from openmsistream.errors import StorageError

    calls = itertools.count()

    def barrier(self: SqliteDownloadLedger, values: Any) -> None:
        if next(calls) < 2:
            raise StorageError("the ledger cannot be used: database or disk is full")
        original(self, values)

    original = exchange(SqliteDownloadLedger, "barrier", barrier)


def refuse(owner: Any, name: str, error: Exception, which: range) -> None:
    """These calls of a method raise an error, counted from 0."""
    calls = itertools.count()

    def refusing(*given: Any, **more: Any) -> Any:
        if next(calls) in which:
            raise error
        return original(*given, **more)

    original = exchange(owner, name, refusing)


def share_away_when_partitions_come() -> None:
    """No protection less: the output folder cannot be read in the moment in which partitions are given."""
    from openmsistream.adapters.filesystem.sink import FolderSink
    from openmsistream.errors import StorageError

    refuse(FolderSink, "restore", StorageError("the share is away"), range(2))


def ledger_unreadable_in_between() -> None:
    """No protection less: the ledger's disk does not give back what is asked for a record."""
    from openmsistream.adapters.sqlite.downloads import SqliteDownloadLedger
    from openmsistream.errors import StorageError

    refuse(SqliteDownloadLedger, "is_finished", StorageError("the ledger: disk I/O error"), range(1, 3))


def ledger_closed_for_a_while() -> None:
    """The same, and then it cannot be opened anew."""
    from openmsistream.adapters.sqlite.downloads import SqliteDownloadLedger
    from openmsistream.errors import StorageError

    ledger_unreadable_in_between()
    refuse(SqliteDownloadLedger, "__init__", StorageError("the ledger: cannot be opened"), range(1, 3))


def broker_does_not_say_what_it_has() -> None:
    """No protection less: a partition has no leader for long when it is given."""
    from openmsistream.adapters.kafka.consumer import KafkaConsumer
    from openmsistream.errors import UnavailableError

    refuse(KafkaConsumer, "bounds", UnavailableError("no leader"), range(2))


def never_read_again() -> None:
    """What was sent of a growing file is taken to be still in it: its end goes with the hash of what was sent."""
    from openmsistream.pipeline.sending import Sending, State

    def begin(self: Any, file: Any, path: str) -> None:
        self._file.close()
        self._file, self.stat, self._settled = file, file.stat, None
        file.seek(self._position)
        self._growing, self.state = False, State.SENDING

    exchange(Sending, "_begin_verifying", begin)


def never_lose_count() -> None:
    """Nobody is told that the system dropped events."""
    from openmsistream.adapters.filesystem.hints import HintBox

    exchange(HintBox, "lost_count", lambda _: None)


def one_partial_folder() -> None:
    """The partial files of all topics stand in one folder."""
    import openmsistream.programs.downloading as program

    exchange(program, "partials_of", lambda _: "")


def sync_once_more() -> None:
    """What could not be synced is synced again, and believed then."""
    from openmsistream.adapters.filesystem.sink import FolderSink
    from openmsistream.errors import BytesLostError, StorageError

    def sync(self: FolderSink, keys: Any) -> None:
        try:
            original(self, keys)
        except BytesLostError as error:
            raise StorageError(error.message) from error

    original = exchange(FolderSink, "sync", sync)


def trust_files() -> None:
    """The uploader never looks whether a file changed while it was read."""
    from openmsistream.adapters.filesystem.reading import OpenDiskFile

    exchange(OpenDiskFile, "unchanged", lambda _: True)


def trust_paths() -> None:
    """The downloader takes every path as it comes, and writes to it by name."""
    from openmsistream.core.names import Naming

    exchange(Naming, "stored", lambda _, path: path)
    write_in_place()


def refuse_at_once() -> None:
    """The downloader blames the sender of a file for what it reads back from its own disk."""
    from openmsistream.pipeline.delivery import Delivery

    exchange(Delivery, "_read_again", lambda *_: None)


CHANGES: dict[str, Callable[[], None]] = {
    one.__name__: one
    for one in (
        all_in_memory,
        barriers_often,
        commit_what_was_read,
        every_folder_stays_open,
        forget_parts,
        forget_uploads,
        go_on_when_full,
        grow_soon,
        ledger_refuses_twice,
        broker_does_not_say_what_it_has,
        ledger_closed_for_a_while,
        ledger_unreadable_in_between,
        never_lose_count,
        never_read_again,
        one_partial_folder,
        refuse_at_once,
        share_away_when_partitions_come,
        sync_once_more,
        trust_files,
        trust_paths,
        write_in_place,
    )
}


if __name__ == "__main__":
    kill, changes, *words = sys.argv[1:]
    if kill:
        kill_at(kill)
    for change in filter(None, changes.split(",")):
        CHANGES[change]()
    from openmsistream.cli.main import main

    sys.exit(main(words))
