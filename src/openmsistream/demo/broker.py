"""The broker side of the demo: a local one with a config file for it, or the user's own with a topic on it.

Owns what happens before and after the transfer on the Kafka side. Knows nothing about files and programs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from openmsistream.config.models import default_search, load
from openmsistream.errors import ConfigError, DeliveryError, UnavailableError
from openmsistream.local.broker import LocalBroker
from openmsistream.local.topics import create_topic

DEFAULT_TOPIC = "lab-data"
_SECONDS = 15.0
_CONFIG = """\
# Made by `openmsistream demo`. Both programs read this file.
[broker]
# where the broker is: host:port
bootstrap.servers = {bootstrap}

[producer]
# settings for the sending program; none are needed here

[consumer]
# a new receiving program begins with the oldest data on the topic
auto.offset.reset = earliest
"""


def start_local(folder: Path, say: Callable[[str], None]) -> LocalBroker:
    """
    Start a broker in ``folder`` and return it when it answers.

    Args:
        folder: Where it keeps its data; made when missing.
        say: Called with one line for the reader before the first fetch.

    Raises:
        ConfigError: A package of ``openmsistream[local]`` is missing, or has no build for this computer.
        StorageError: The disk is full, or the folder cannot be written.
        UnavailableError: It did not answer in time, or its parts cannot be fetched.
    """
    return LocalBroker.start(folder, say=say)


def prepare_local(broker: LocalBroker, topic: str, config: Path) -> None:
    """
    Make the topic on a local broker, and the config file that both programs read.

    Raises:
        ConfigError: The topic's name is refused.
        UnavailableError: The broker does not answer.
    """
    create_topic(broker.bootstrap, topic)
    config.write_text(_CONFIG.format(bootstrap=broker.bootstrap), encoding="utf-8")


def prepare_existing(config: str, topic: str) -> bool:
    """
    See to it that the topic is there on the broker that a user's config file names.

    Args:
        config: Path of the config file, or its name in a config folder.
        topic: Name of the topic.

    Returns:
        True when the topic was made, with one partition; False when it was there.

    Raises:
        ConfigError: The config file is wrong, or the topic's name is refused.
        DeliveryError: The broker refused to make the topic.
        UnavailableError: The broker does not answer.
    """
    # Here, not above: it takes a while to import, and the local way asks `local.topics` instead.
    from confluent_kafka import KafkaError, KafkaException  # noqa: PLC0415
    from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # noqa: PLC0415

    settings: Mapping[str, str] = load(config, env=os.environ, search=default_search(os.environ)).broker
    try:
        admin: Any = AdminClient({**settings, "log_level": 0})
        if topic in admin.list_topics(timeout=_SECONDS).topics:
            return False
        # -1: as many copies as this broker's own default says. Source: KIP-464.
        new = NewTopic(topic, num_partitions=1, replication_factor=-1)
        made: Future[None] = admin.create_topics([new], request_timeout=_SECONDS)[topic]
        made.result(_SECONDS + 5)
    except KafkaException as error:
        reason: KafkaError = error.args[0]
        if reason.code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        where = settings.get("bootstrap.servers", "the broker")
        if reason.code() == KafkaError._INVALID_ARG:  # noqa: SLF001 - the library's own name for it
            raise ConfigError(f"{config} [broker]: {reason.str()}") from error
        if reason.retriable() or reason.code() in (KafkaError._TRANSPORT, KafkaError._TIMED_OUT):  # noqa: SLF001
            raise UnavailableError(
                f"the broker at {where} does not answer: {reason.str()}",
                hint=f"check bootstrap.servers in {config}, or leave --config out: the demo brings a broker",
            ) from error
        raise DeliveryError(
            f"the broker at {where} refused to make the topic {topic}: {reason.str()}",
            hint="name a topic that exists: --topic-name NAME",
        ) from error
    return True
