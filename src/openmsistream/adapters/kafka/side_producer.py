"""A small producer for heartbeats and log messages (``pipeline.heartbeat.Outlet``), apart from the one for files.

It promises nothing and waits for nobody, so that whatever happens to its broker or topic cannot slow the files
down. Also decides which settings such a producer gets; what the messages say is not its business.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from openmsistream.adapters.kafka.client import make
from openmsistream.adapters.kafka.errors import ours
from openmsistream.config.ini import Settings
from openmsistream.config.librdkafka import number, over_defaults, whole
from openmsistream.config.models import ProgramConfig
from openmsistream.errors import DeliveryError, OpenMSIStreamError, UnavailableError

Told = Callable[[OpenMSIStreamError | None], None]
"""Called once per record: None when it arrived, else why it did not."""

CLOSE_SECONDS = 0.5
MAX_VALUE_BYTES = 1_000_000
"""librdkafka's own ``message.max.bytes``; a broker takes about as much unless it is told otherwise."""
ENVELOPE_BYTES = 2_048
"""Room for the key and Kafka's framing."""

_DEFAULTS = {
    "client.id": "openmsistream",
    # A lost message is contained in the next one: no need to try for long.
    "message.timeout.ms": "30000",
    "socket.keepalive.enable": "true",
    # How long librdkafka hopes for a topic that is not there (30 s by itself).
    "topic.metadata.propagation.max.ms": "5000",
}
_BROKER_KEYS = ("bootstrap.servers", "metadata.broker.list")
_NOT_FOR_LIBRDKAFKA = (
    "prefer.separate.producer",  # 1.x's: ours is always a separate one
    "max.logs.per.message",
    "log.level",
    "key.serializer",
    "value.serializer",
    "key.deserializer",
    "value.deserializer",
)
# What [producer] says for the sake of the files: promises that cost waiting, and that we do not make here.
_FILES_ONLY = (
    "acks",
    "delivery.timeout.ms",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "message.timeout.ms",
    "request.required.acks",
    "transaction.timeout.ms",
    "transactional.id",
)
_NO_SUCH_TOPIC = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)


def side_settings(section: Settings, config: ProgramConfig) -> Settings:
    """
    The settings of a side producer: ``[heartbeat]`` or ``[log]`` over ``[producer]`` over ``[broker]``.

    With ``bootstrap.servers`` the section stands for itself: nothing of the other two is used, as in 1.x.

    Raises:
        ConfigError: No broker is named, or another value of ``[broker]`` or ``[producer]`` is wrong.
    """
    section = section.without(*_NOT_FOR_LIBRDKAFKA)
    section = section.replaced({key: whole(key, section[key]) for key in section})
    if not any(key in section for key in _BROKER_KEYS):
        files = config.producer.settings
        ours_only = [key for key in files if files.origin(key) == files.origin("")]
        section = section.over(files.without(*ours_only, *_FILES_ONLY))
    return over_defaults(section, _DEFAULTS)


class SideProducer:
    """
    A producer for one topic whose records may get lost. All its methods are called from one thread.

    Args:
        settings: librdkafka's, from ``side_settings``.
        topic: The topic; whether it exists is found out by sending.
        option: The option that names the topic, for hints.

    Raises:
        ConfigError: librdkafka refuses a key or a value.
    """

    def __init__(self, settings: Settings, topic: str, option: str) -> None:
        self._settings, self._topic, self._option = settings, topic, option
        self._complaint = ""
        self._producer = make(Producer, settings, {"error_cb": self._complain})

    @property
    def max_bytes(self) -> int:
        """The longest value that it takes."""
        return max(ENVELOPE_BYTES, number(self._settings, "message.max.bytes", MAX_VALUE_BYTES) - ENVELOPE_BYTES)

    @property
    def complaint(self) -> str:
        """What librdkafka last said about the connection, without secrets; empty when nothing."""
        return self._complaint

    def send(self, key: bytes, value: bytes, told: Told) -> None:
        """Queue a record without waiting; ``told`` is called at once or from ``poll``."""
        self._complaint = ""
        try:
            self._producer.produce(self._topic, value=value, key=key, on_delivery=partial(self._delivered, told))
        except BufferError:
            told(UnavailableError(f"topic {self._topic}: the queue of its producer is full"))
        except KafkaException as exception:
            told(self._ours(exception.args[0]))

    def poll(self) -> None:
        """Hand out the broker's words that are there, without waiting."""
        self._producer.poll(0)

    def close(self) -> None:
        """Drop what is still queued and end the connections."""
        self._producer.purge()
        self._producer.flush(CLOSE_SECONDS)

    def _delivered(self, told: Told, error: KafkaError | None, _: Message) -> None:
        told(None if error is None else self._ours(error))

    def _complain(self, error: KafkaError) -> None:
        """Librdkafka's ``error_cb``; it goes on trying by itself."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN and self._complaint:
            return  # comes after what says why
        self._complaint = self._settings.mask(error.str())

    def _ours(self, error: KafkaError) -> OpenMSIStreamError:
        if error.code() in _NO_SUCH_TOPIC:
            return DeliveryError("the topic does not exist", hint=f"create it, or check its name (--{self._option})")
        mapped = ours(error, f"topic {self._topic}")
        text = error.str() + (f": {self._complaint}" if self._complaint else "")
        return type(mapped)(self._settings.mask(text), hint=mapped.hint)
