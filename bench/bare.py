"""The floors: what a bare Kafka client does with our settings, in a process of its own.

Sends the bytes of files, or takes records off a topic, and nothing else: no hash, no ledger, no wire format,
no watching, no verification. It prints one JSON line when it has begun and one when all is done,
with its own time: what a floor does may be over before another process sees that it began.
Usage: ``python -m bench.bare {up,poll,write} BOOTSTRAP TOPIC ...``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from openmsistream.config.librdkafka import consumer_defaults, producer_defaults

PIECE_BYTES = 524_288
_SECONDS = 300.0
# Of a v2 record: "OMS2" and the length of the header's map (uint16, big-endian).
_PREFIX_BYTES = 6


def main() -> int:
    what, bootstrap, topic, *rest = sys.argv[1:]
    if what == "up":
        return up(bootstrap, topic, [Path(path) for path in Path(rest[0]).read_text("utf-8").splitlines()])
    folder, count, payload_bytes = Path(rest[0]), int(rest[1]), int(rest[2])
    return down(bootstrap, topic, folder if what == "write" else None, count, payload_bytes)


def up(bootstrap: str, topic: str, paths: list[Path]) -> int:
    """Produce every file in pieces and wait until all are acknowledged; 1 when one was refused."""
    producer = Producer(producer_defaults() | {"bootstrap.servers": bootstrap})
    refused: list[str] = []

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            refused.append(error.str())

    producer.list_topics(topic, timeout=_SECONDS)
    _say("begun")
    for path in paths:
        key = str(path).encode()
        for piece in _pieces(path):
            _produce(producer, topic, key, piece, delivered)
        producer.poll(0)
    producer.flush(_SECONDS)
    _say("done")
    return 1 if refused else 0


def down(bootstrap: str, topic: str, folder: Path | None, count: int, payload_bytes: int) -> int:
    """
    Take ``count`` records of a topic of one partition; with a folder, write their payloads there.

    One file of ``payload_bytes``, preallocated, with one sync at its end; or, when the payloads are as many
    small files, each into a file of its own, with one sync at the end of all.
    """
    consumer = Consumer(consumer_defaults() | {"bootstrap.servers": bootstrap, "group.id": "bench-floor"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    records = _records(consumer, count)
    if folder is None:
        received = sum(len(value) - _header_bytes(value) for value in records)
    elif payload_bytes // count >= PIECE_BYTES // 2:
        received = _write_one(records, folder / "floor.bin", payload_bytes)
    else:
        received = _write_many(records, folder)
    _say("done")
    consumer.close()
    return 0 if received == payload_bytes else 1


def _write_one(records: Iterator[bytes], path: Path, payload_bytes: int) -> int:
    written = 0
    file = -1
    for value in records:
        if file < 0:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            os.posix_fallocate(file, 0, payload_bytes)
        written += os.pwrite(file, memoryview(value)[_header_bytes(value) :], written)
    os.fsync(file)
    os.close(file)
    return written


def _write_many(records: Iterator[bytes], folder: Path) -> int:
    written = 0
    for number, value in enumerate(records):
        file = os.open(folder / str(number), os.O_WRONLY | os.O_CREAT, 0o644)
        written += os.write(file, memoryview(value)[_header_bytes(value) :])
        os.close(file)
    os.sync()
    return written


def _records(consumer: Consumer, count: int) -> Iterator[bytes]:
    for number in range(count):
        message = consumer.poll(_SECONDS)
        if message is None or message.error() is not None:
            raise SystemExit(f"record {number} of {count} did not come: {message and message.error()}")
        if number == 0:
            _say("begun")
        value: Any = message.value()
        yield value


def _header_bytes(value: bytes) -> int:
    return _PREFIX_BYTES + int.from_bytes(value[4:_PREFIX_BYTES], "big")


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def _produce(producer: Producer, topic: str, key: bytes, piece: bytes, delivered: Any) -> None:
    while True:
        try:
            producer.produce(topic, piece, key, on_delivery=delivered)
        except BufferError:
            # The queue is full: that is how librdkafka says "slower".
            producer.poll(0.05)
        else:
            return


def _say(what: str) -> None:
    print(json.dumps({"event": what, "at": time.time()}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
