"""Topics of the local broker: make one, and say what is in each.

Talks to any broker through the client library; the sizes are read from the local broker's data folder.
It knows nothing about processes, files to send or chunks.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec  # type: ignore[attr-defined]

from openmsistream.errors import ConfigError, DeliveryError, UnavailableError

_SECONDS = 15.0


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


def create_topic(
    bootstrap: str, name: str, *, partitions: int = 1, config: Mapping[str, str] | None = None
) -> bool:
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
    admin = _admin(bootstrap)
    new = NewTopic(name, num_partitions=partitions, replication_factor=1, config=dict(config or {}))
    try:
        # The client checks the number of partitions itself, before anything is sent.
        made = admin.create_topics([new], operation_timeout=_SECONDS, request_timeout=_SECONDS)[name]
        _result(made)
    except ValueError as error:
        raise ConfigError(f"topic {name}: {error}", hint="the number of partitions is at least 1") from error
    except KafkaException as error:
        reason: KafkaError = error.args[0]
        if reason.code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        refused = (
            KafkaError.TOPIC_EXCEPTION,
            KafkaError.INVALID_PARTITIONS,
            KafkaError.INVALID_CONFIG,
            KafkaError.INVALID_REQUEST,
            KafkaError._INVALID_ARG,  # noqa: SLF001  the library's own name for it
        )
        if reason.code() in refused:
            raise ConfigError(
                f"topic {name}: {reason.str()}",
                hint="a name has letters, digits, '.', '_' and '-'; partitions are at least 1",
            ) from error
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
    admin = _admin(bootstrap)
    try:
        topics = {
            name: sorted(topic.partitions)
            for name, topic in admin.list_topics(timeout=_SECONDS).topics.items()
            if not name.startswith("__")
        }
        places = [TopicPartition(name, number) for name, numbers in topics.items() for number in numbers]
        kinds: Any = OffsetSpec
        first = _offsets(admin, places, kinds.earliest())
        end = _offsets(admin, places, kinds.latest())
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


def _offsets(admin: Any, places: list[TopicPartition], spec: Any) -> dict[tuple[str, int], int]:
    if not places:
        return {}
    answers = admin.list_offsets(dict.fromkeys(places, spec), request_timeout=_SECONDS)
    return {(place.topic, place.partition): _result(answer).offset for place, answer in answers.items()}


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


def _admin(bootstrap: str) -> Any:
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})


def _unavailable(bootstrap: str, reason: KafkaError) -> UnavailableError | DeliveryError:
    if reason.retriable() or reason.code() in (KafkaError._TRANSPORT, KafkaError._TIMED_OUT):  # noqa: SLF001
        return UnavailableError(
            f"the broker at {bootstrap} does not answer: {reason.str()}",
            hint="see `openmsistream local status`",
        )
    return DeliveryError(f"the broker at {bootstrap} refused: {reason.str()}")
