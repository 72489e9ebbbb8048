"""Topics of the local broker: make one, and say what is in each.

Talks to any broker through the client library; the sizes are read from the local broker's data folder.
It knows nothing about processes, files to send or chunks.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec  # type: ignore[attr-defined]

from openmsistream.errors import ConfigError, DeliveryError, UnavailableError
from openmsistream.local.settings import MIB

_SECONDS = 15.0
_RETRY_SECONDS = 0.02
_NAME_HINT = "a topic's name has letters, digits, '.', '_' and '-'; its settings are Kafka's topic settings"
_LEADER_CODES = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.KAFKA_STORAGE_ERROR,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError._NOENT,  # noqa: SLF001  the client's own "no leaders found"
)


@dataclass(frozen=True, slots=True)
class TopicStatus:
    """
    What a topic holds now.

    Attributes:
        name: The topic's name.
        partitions: How many partitions it has.
        messages: Last minus first offset, over all partitions; counts the marks of transactions too.
        size_bytes: What its records take on disk.
    """

    name: str
    partitions: int
    messages: int
    size_bytes: int


def create_topic(bootstrap: str, name: str, *, partitions: int = 1, config: Mapping[str, str] | None = None) -> bool:
    """
    Make a topic and return when it can be used.

    Args:
        bootstrap: The broker's address.
        name: The topic's name: letters, digits, ``.``, ``_`` and ``-``, at most 249.
        partitions: How many; >= 1.
        config: Kafka's topic settings, e.g. ``{"retention.ms": "60000"}``.

    Returns:
        True when it was made, False when a topic of this name was there already (it is left as it is).

    Raises:
        ConfigError: The name, the number of partitions or a setting is refused.
        UnavailableError: The broker does not answer.
    """
    if partitions < 1:
        raise ConfigError(f"topic {name}: {partitions} partitions", hint="give at least 1 partition")
    admin = admin_client(bootstrap)
    new = NewTopic(name, num_partitions=partitions, replication_factor=1, config=dict(config or {}))
    try:
        made = admin.create_topics([new], operation_timeout=_SECONDS, request_timeout=_SECONDS)[name]
        _result(made)
        # Kafka answers when the topic is written down, a moment before its partitions can be written to.
        _offsets(admin, [TopicPartition(name, number) for number in range(partitions)], latest=True)
    except ValueError as error:
        raise ConfigError(f"topic {name!r}: {error}", hint=_NAME_HINT) from error
    except KafkaException as error:
        reason: KafkaError = error.args[0]
        if reason.code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        refused = (
            KafkaError.TOPIC_EXCEPTION,
            KafkaError.INVALID_CONFIG,
            KafkaError.INVALID_REQUEST,
            KafkaError._INVALID_ARG,  # noqa: SLF001  the library's own name for it
        )
        if reason.code() in refused:
            raise ConfigError(f"topic {name!r}: {reason.str()}", hint=_NAME_HINT) from error
        raise _unavailable(bootstrap, reason) from error
    return True


def topic_statuses(bootstrap: str, data_folder: Path) -> list[TopicStatus]:
    """
    Return every topic users made, by name, with what it holds; Kafka's own topics are left out.

    Args:
        bootstrap: The local broker's address.
        data_folder: ``LocalBroker.data_folder``.

    Raises:
        UnavailableError: The broker does not answer.
    """
    admin = admin_client(bootstrap)
    try:
        topics = {
            name: sorted(topic.partitions)
            for name, topic in admin.list_topics(timeout=_SECONDS).topics.items()
            if not name.startswith("__")
        }
        places = [TopicPartition(name, number) for name, numbers in topics.items() for number in numbers]
        first = _offsets(admin, places, latest=False)
        end = _offsets(admin, places, latest=True)
    except KafkaException as error:
        raise _unavailable(bootstrap, error.args[0]) from error
    return [
        TopicStatus(
            name=name,
            partitions=len(numbers),
            messages=sum(end[name, number] - first[name, number] for number in numbers),
            size_bytes=sum(_size_on_disk(data_folder / f"{name}-{number}") for number in numbers),
        )
        for name, numbers in sorted(topics.items())
    ]


def admin_client(bootstrap: str) -> Any:
    """Return the client library's ``AdminClient``, quiet about a broker that is not up yet."""
    return AdminClient(
        {
            "bootstrap.servers": bootstrap,
            "log_level": 0,
            "reconnect.backoff.ms": 20,
            "reconnect.backoff.max.ms": 100,
            "socket.timeout.ms": 5000,
        }
    )


def answers(admin: Any, seconds: float) -> bool:
    """Ask the broker for its metadata, as any client does; True when it answers within ``seconds``."""
    try:
        return len(admin.list_topics(timeout=seconds).brokers) == 1
    except KafkaException:
        return False


def make_offsets_topic(admin: Any, partitions: int) -> None:
    """
    Make Kafka's own topic of committed offsets now, as Kafka would when the first consumer comes.

    That first consumer would wait 3 s for it. Only a courtesy, so a refusal (it is there already, after
    the first start) is no failure. Asking for a group's coordinator would do the same, but the client
    library's call for that crashes the interpreter now and then (confluent-kafka 2.16.1).

    Args:
        admin: From ``admin_client``.
        partitions: The broker's ``offsets.topic.num.partitions``.

    Source: GroupCoordinatorConfig in Apache Kafka 4.1 for the settings of this topic.
    """
    topic = NewTopic(
        "__consumer_offsets",
        num_partitions=partitions,
        replication_factor=1,
        config={
            "cleanup.policy": "compact",
            "compression.type": "producer",
            "segment.bytes": str(100 * MIB),
        },
    )
    with contextlib.suppress(KafkaException, TimeoutError):
        for made in admin.create_topics([topic], operation_timeout=5, request_timeout=5).values():
            made.result(timeout=6)


def _offsets(admin: Any, places: list[TopicPartition], *, latest: bool) -> dict[tuple[str, int], int]:
    """Ask for the first or the next offset of each partition, again while its leader is being chosen."""
    kinds: Any = OffsetSpec
    asked = dict.fromkeys(places, kinds.latest() if latest else kinds.earliest())
    deadline = time.monotonic() + _SECONDS
    while asked:
        answers = admin.list_offsets(asked, request_timeout=_SECONDS)
        try:
            return {(place.topic, place.partition): _result(answer).offset for place, answer in answers.items()}
        except KafkaException as error:
            if error.args[0].code() not in _LEADER_CODES or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_SECONDS)
    return {}


def _size_on_disk(partition_folder: Path) -> int:
    size = 0
    for segment in partition_folder.glob("*.log"):
        try:
            size += segment.stat().st_size
        except FileNotFoundError:
            continue  # retention removed it between the listing and the question
    return size


def _result(future: Future[Any]) -> Any:
    return future.result(timeout=_SECONDS + 5)


def _unavailable(bootstrap: str, reason: KafkaError) -> UnavailableError | DeliveryError:
    if reason.retriable() or reason.code() in (KafkaError._TRANSPORT, KafkaError._TIMED_OUT):  # noqa: SLF001
        return UnavailableError(
            f"the broker at {bootstrap} does not answer: {reason.str()}",
            hint="see `openmsistream local status`",
        )
    return DeliveryError(f"the broker at {bootstrap} refused: {reason.str()}")
