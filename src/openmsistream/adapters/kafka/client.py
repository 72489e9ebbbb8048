"""What producer and consumer share: making a client from settings, and asking about a topic.

Talks to the broker only to describe; nothing here moves data.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]

from openmsistream.adapters.kafka.errors import is_transient, ours, refused_setting
from openmsistream.config.ini import Settings
from openmsistream.core.events import BrokerBack, BrokerUnavailable
from openmsistream.errors import ConfigError, OpenMSIStreamError, UnavailableError
from openmsistream.ports import Events

LOG = logging.getLogger("openmsistream.librdkafka")
LOG.addHandler(logging.NullHandler())  # else Python prints warnings of a library nobody configured
LOG.propagate = False  # what matters of it comes as events
_NOT_THERE = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)
REQUEST_SECONDS = 10.0
_PROPERTY = re.compile(r'property:? "?([A-Za-z0-9_.]+)"?')
_SIDE_ONLY = re.compile(
    r"^(queue\.|linger|batch|acks|compression|message\.(timeout|send)|enable\.(idem|auto|partition|gapless)|retr"
    r"|fetch|max\.p(artition|oll)|auto\.|session|heartbeat|group\.|partition|queued|check\.crcs|delivery|"
    r"transaction|sticky|isolation|request\.(required|timeout)|offset)"
)

Client = TypeVar("Client")


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """
    What a topic is.

    Attributes:
        cluster_id: Identity of the Kafka cluster.
        topic_id: Identity of the topic: another one once it was deleted and made again.
        partitions: How many it has.
    """

    name: str
    cluster_id: str
    topic_id: str
    partitions: int

    @property
    def identity(self) -> str:
        """Cluster and topic id in one string."""
        return f"{self.cluster_id}/{self.topic_id}"


class Health:
    """Turns librdkafka's error callbacks into two events: the broker went away, the broker is back."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._away = False

    def error(self, error: KafkaError) -> None:
        """Librdkafka's ``error_cb``. It repairs all of these by itself; the user only wants to know."""
        if self._away or error.code() == KafkaError._PARTITION_EOF:
            return
        if error.code() == KafkaError._ALL_BROKERS_DOWN or not is_transient(error):
            self._away = True
            self._events(BrokerUnavailable(error.str()))

    def answered(self) -> None:
        """The broker took or gave a record."""
        if self._away:
            self._away = False
            self._events(BrokerBack())


def make(kind: Callable[..., Client], settings: Settings, extra: Mapping[str, Any]) -> Client:
    """
    A librdkafka client.

    Raises:
        ConfigError: It refuses a key or a value; the error names file, section, key and line.
    """
    try:
        return kind({**settings, **extra}, logger=LOG)
    except KafkaException as exception:
        text = settings.mask(str(exception.args[0].str())).strip()
        found = _PROPERTY.search(text)
        key = found.group(1) if found else ""
        origin = settings.origin(key) if key in settings else "the config file"
        raise refused_setting(exception, origin, text) from exception
    except (TypeError, ValueError) as exception:
        raise ConfigError(f"the config file: {settings.mask(str(exception))}") from exception


def describe_topic(settings: Settings, topic: str, seconds: float = REQUEST_SECONDS) -> TopicInfo:
    """
    Ask the broker about a topic.

    Raises:
        ConfigError: There is no such topic, or its clean-up policy would eat chunks.
        DeliveryError: The broker refuses to tell.
        UnavailableError: It does not answer within ``seconds``.
    """
    general = {key: value for key, value in settings.items() if not _SIDE_ONLY.match(key)}
    admin = make(AdminClient, _only(settings, general), {})
    try:
        metadata = admin.list_topics(topic, timeout=seconds)
        found = metadata.topics[topic]
        if found.error is not None:
            if found.error.code() in _NOT_THERE:
                raise ConfigError(
                    f"topic {topic!r} does not exist on {settings.get('bootstrap.servers', '')}",
                    hint="create it first, or check the name (--topic_name)",
                )
            raise ours(found.error, f"topic {topic}")
        _refuse_compacted(admin, topic, seconds)
        return TopicInfo(topic, metadata.cluster_id or "", _topic_id(admin, topic, seconds), len(found.partitions))
    except KafkaException as exception:
        raise _unreachable(exception.args[0], settings, topic) from exception


def _unreachable(error: KafkaError, settings: Settings, topic: str) -> OpenMSIStreamError:
    servers = settings.get("bootstrap.servers", "")
    if is_transient(error):
        return UnavailableError(
            f"no Kafka broker answers at {servers} ({error.str()})",
            hint=f"check that the broker runs, and {settings.origin('bootstrap.servers')}",
        )
    return ours(error, f"topic {topic} at {servers}")


def _only(settings: Settings, keep: Mapping[str, str]) -> Settings:
    return settings.without(*(key for key in settings if key not in keep))


def _topic_id(admin: AdminClient, topic: str, seconds: float) -> str:
    """
    The topic id; the name where a broker before 2.8 has none, or does not tell this user.

    Raises:
        UnavailableError: It did not answer, or has only just heard of the topic: by another identity than before,
            what is known of the topic would count for nothing.
    """
    futures = admin.describe_topics(TopicCollection([topic]), request_timeout=seconds)
    try:
        return str(futures[topic].result().topic_id)
    except KafkaException as exception:
        error: KafkaError = exception.args[0]
        if is_transient(error) or error.code() in _NOT_THERE:
            raise UnavailableError(f"topic {topic}: the broker does not say its id ({error.str()})") from exception
        return topic


def _refuse_compacted(admin: AdminClient, topic: str, seconds: float) -> None:
    """Keys repeat, so a compacted topic would eat chunks."""
    resource = ConfigResource(ResourceType.TOPIC, topic)
    policy = ""
    with contextlib.suppress(KafkaException):  # no right to read settings: then nobody can know
        found = admin.describe_configs([resource], request_timeout=seconds)[resource].result()
        policy = found["cleanup.policy"].value or ""
    if "compact" in policy:
        raise ConfigError(
            f"topic {topic!r} has cleanup.policy={policy}: Kafka would remove parts of files from it",
            hint="kafka-configs.sh --bootstrap-server HOST:PORT --alter --entity-type topics"
            f" --entity-name {topic} --add-config cleanup.policy=delete",
        )
