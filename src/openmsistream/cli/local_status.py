"""``openmsistream local status``: what runs on this computer and what is on it, for people and for scripts.

Owns the words and the JSON of that command. It must not know how a broker or a store is run.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmsistream.local.broker import LocalBroker
from openmsistream.local.buckets import BucketStatus, bucket_statuses
from openmsistream.local.place import CONFIG_FILE, store_folder
from openmsistream.local.state import how_it_ended
from openmsistream.local.store import LocalStore
from openmsistream.local.store_state import how_store_ended, read_store_state
from openmsistream.local.topics import topic_statuses

if TYPE_CHECKING:
    from openmsistream.local.topics import TopicStatus

_ANSWER_SECONDS = 5.0


def show_status(folder: Path, *, as_json: bool, start: str) -> int:
    """
    Print what runs on a broker's folder and return the exit code.

    Args:
        folder: The broker's folder.
        as_json: Print one JSON object.
        start: The command that starts the broker there.

    Returns:
        0 when the broker answers, and the object store too if it was started and not stopped; else 1.
    """
    broker = LocalBroker.find(folder)
    answers = broker is not None and broker.is_ready(_ANSWER_SECONDS)
    topics: list[TopicStatus] = []
    if broker is not None and answers:
        topics = topic_statuses(broker.bootstrap, broker.data_folder)
    store = LocalStore.find(store_folder(folder))
    store_answers = store is not None and store.is_ready(_ANSWER_SECONDS)
    buckets: list[BucketStatus] = []
    if store is not None and store_answers:
        with contextlib.closing(store.client()) as client:
            buckets = bucket_statuses(client)
    if as_json:
        values = _broker_values(folder, broker, answers, topics)
        values["store"] = _store_values(folder, store, store_answers, buckets)
        print(json.dumps(values, indent=2))
    else:
        _print_broker(folder, broker, answers, topics, start)
        _print_store(folder, store, store_answers, buckets, start)
    return 0 if answers and (store_answers or not _store_is_wanted(folder)) else 1


def _store_is_wanted(folder: Path) -> bool:
    """True when the store was started and nobody stopped it."""
    state = read_store_state(store_folder(folder))
    return state is not None and state.process is not None


def _print_broker(
    folder: Path, broker: LocalBroker | None, answers: bool, topics: list[TopicStatus], start: str
) -> None:
    if broker is None:
        print(f"Not running: {how_it_ended(folder)}")
        print(f"  data    {folder}")
        print(f"  start   {start}")
        return
    print(f"Running at {broker.bootstrap} (process {broker.pid}).")
    print(f"  data    {broker.folder}")
    print(f"  config  {folder / CONFIG_FILE}")
    print(f"  log     {broker.log_file}")
    if not answers:
        print("  It does not answer: it may be starting, frozen or out of memory. See its log.")
    elif not topics:
        print("  no topics")
    else:
        rows = [("topic", "partitions", "messages", "size")]
        _print_table(
            rows + [(one.name, str(one.partitions), str(one.messages), _size(one.size_bytes)) for one in topics]
        )


def _print_store(
    folder: Path, store: LocalStore | None, answers: bool, buckets: list[BucketStatus], start: str
) -> None:
    if store is None:
        if read_store_state(store_folder(folder)) is not None:
            print(f"\nObject store: not running: {how_store_ended(store_folder(folder))}")
            print(f"  data    {store_folder(folder)}")
            print(f"  start   {start} --s3")
        return
    print(f"\nObject store: running at {store.endpoint} (process {store.pid}).")
    print(f"  data    {store.folder}")
    print(f"  log     {store.log_file}")
    for name, value in store.access.environment().items():
        print(f"  {name}={value}")
    if not answers:
        print("  It does not answer: it may be starting, frozen or out of memory. See its log.")
    elif not buckets:
        print("  no buckets")
    else:
        rows = [("bucket", "objects", "unfinished", "size")]
        _print_table(
            rows + [(one.name, str(one.objects), str(one.unfinished), _size(one.size_bytes)) for one in buckets]
        )


def _print_table(rows: list[tuple[str, str, str, str]]) -> None:
    width = max(len(row[0]) for row in rows)
    print()
    for name, first, second, size in rows:
        print(f"  {name:<{width}}  {first:>10}  {second:>10}  {size:>10}")


def _broker_values(
    folder: Path, broker: LocalBroker | None, answers: bool, topics: list[TopicStatus]
) -> dict[str, Any]:
    return {
        "running": broker is not None,
        "answers": answers,
        "bootstrap": None if broker is None else broker.bootstrap,
        "pid": None if broker is None else broker.pid,
        "folder": str(folder),
        "ended": "" if broker is not None else how_it_ended(folder),
        "topics": [asdict(one) for one in topics],
    }


def _store_values(folder: Path, store: LocalStore | None, answers: bool, buckets: list[BucketStatus]) -> dict[str, Any]:
    return {
        "running": store is not None,
        "answers": answers,
        "pid": None if store is None else store.pid,
        "folder": str(store_folder(folder)),
        "ended": "" if store is not None else how_store_ended(store_folder(folder)),
        "environment": {} if store is None else store.access.environment(),
        "buckets": [asdict(one) for one in buckets],
    }


def _size(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
