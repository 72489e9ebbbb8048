"""What a topic really holds, and what a group has committed, read and written with a bare Kafka client.

Uses MessagePack and not our own decoder, so that a bug of ours cannot hide itself.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgpack
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from tests.faults.support import PATIENCE_SECONDS


@dataclass
class OnTopic:
    """What the topic holds of one version: its bytes (each chunk counted as often as it is there) and ends."""

    path: bytes
    partition: int
    first_offset: int
    bytes: int = 0
    chunks: int = 0
    lasts: int = 0
    aborts: int = 0


def raw_records(bootstrap: str, topic: str, seconds: float = PATIENCE_SECONDS) -> Iterator[Any]:
    """Every record of a topic, oldest first in each partition, read by a bare client."""
    client = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "test-raw", "enable.auto.commit": False, "log_level": 0}
    )
    try:
        partitions = client.list_topics(topic, timeout=seconds).topics[topic].partitions
        ends = {p: _end(client, TopicPartition(topic, p), seconds) for p in partitions}
        missing = {p for p, end in ends.items() if end > 0}
        client.assign([TopicPartition(topic, p, 0) for p in missing])
        deadline = time.monotonic() + seconds
        while missing:
            assert time.monotonic() < deadline, f"topic {topic} was not read to its end"
            message = client.poll(0.2)
            if message is None or message.error() is not None:
                continue
            yield message
            partition, offset = message.partition() or 0, message.offset() or 0
            if offset >= ends[partition] - 1:
                missing.discard(partition)
    finally:
        client.close()


def _end(client: Consumer, where: TopicPartition, seconds: float) -> int:
    """The offset behind the last record; a broker that was started again has no leader for a partition at first."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return int(client.get_watermark_offsets(where, timeout=seconds)[1])
        except KafkaException:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def on_topic(bootstrap: str, topic: str) -> dict[bytes, OnTopic]:
    """What a topic holds of each v2 version, by version id."""
    found: dict[bytes, OnTopic] = {}
    for message in raw_records(bootstrap, topic):
        value = message.value()
        assert value[:4] == b"OMS2"
        stop = 6 + int.from_bytes(value[4:6], "big")
        header = msgpack.unpackb(value[6:stop], unicode_errors="surrogateescape")
        path = header["path"] if isinstance(header["path"], bytes) else header["path"].encode()
        version = found.setdefault(header["id"], OnTopic(path, message.partition(), message.offset()))
        version.bytes += len(value) - stop
        version.chunks += 1
        version.lasts += bool(header.get("last"))
        version.aborts += "abort" in header
    return found


def by_path(versions: Iterable[OnTopic]) -> dict[bytes, list[OnTopic]]:
    """The versions of each path, oldest first."""
    found: dict[bytes, list[OnTopic]] = defaultdict(list)
    for version in versions:
        found[version.path].append(version)
    return dict(found)


def produce(bootstrap: str, topic: str, values: Iterable[tuple[bytes | None, bytes | None]], **more: Any) -> None:
    """Put (key, value) records on a topic with a bare client; returns when the broker has them."""
    client = Producer({"bootstrap.servers": bootstrap, "message.max.bytes": 8_388_608, "log_level": 0})
    for key, value in values:
        while not _queued(client, topic, key=key, value=value, **more):
            client.poll(0.1)
    assert client.flush(PATIENCE_SECONDS) == 0


def _queued(client: Producer, topic: str, **record: Any) -> bool:
    try:
        client.produce(topic, **record)
    except BufferError:
        return False
    return True


def committed(bootstrap: str, topic: str, group: str, partitions: int = 1) -> dict[int, int]:
    """The offsets that a group has committed."""
    client = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "log_level": 0})
    try:
        found = client.committed([TopicPartition(topic, p) for p in range(partitions)], timeout=PATIENCE_SECONDS)
    except KafkaException as exception:
        raise AssertionError(f"group {group}: {exception}") from exception
    finally:
        client.close()
    offsets = {place.partition: int(place.offset or 0) for place in found}
    return {partition: offset for partition, offset in offsets.items() if offset >= 0}
