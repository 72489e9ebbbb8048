"""librdkafka's errors, mapped to ours, once.

Nothing outside ``adapters/kafka`` sees a ``KafkaError``.
"""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

from openmsistream.errors import ConfigError, DeliveryError, OpenMSIStreamError, UnavailableError

# librdkafka calls its own time-outs not retriable (KafkaError.retriable() is False for them), so they stand here.
_TRANSIENT = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TRANSPORT,
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._MSG_TIMED_OUT,
        KafkaError._WAIT_COORD,
        KafkaError._PURGE_QUEUE,
        KafkaError._PURGE_INFLIGHT,
        KafkaError._FATAL,
        KafkaError._SSL,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.KAFKA_STORAGE_ERROR,
    }
)

_HINTS = {
    KafkaError.UNKNOWN_TOPIC_OR_PART: "create the topic first, or check its name (--topic_name)",
    KafkaError._UNKNOWN_TOPIC: "create the topic first, or check its name (--topic_name)",
    KafkaError._UNKNOWN_PARTITION: "check the topic: it has fewer partitions than before",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "ask the broker's administrator for the right to use this topic",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "ask the broker's administrator for the right to use this group",
    KafkaError.MSG_SIZE_TOO_LARGE: "use a smaller --chunk_size, or raise max.message.bytes of the topic",
    KafkaError._AUTHENTICATION: "check sasl.username and sasl.password in the config file",
    KafkaError._RESOLVE: "check bootstrap.servers in the config file",
    KafkaError._ALL_BROKERS_DOWN: "check that the broker runs, and bootstrap.servers in the config file",
    KafkaError._TRANSPORT: "check that the broker runs, and bootstrap.servers in the config file",
    KafkaError._MSG_TIMED_OUT: "check that the broker runs and is reachable",
    KafkaError._TIMED_OUT: "check that the broker runs, and bootstrap.servers in the config file",
    KafkaError._SSL: "check security.protocol and the ssl.* keys in the config file",
}


def is_transient(error: KafkaError) -> bool:
    """True when waiting may put it right."""
    return bool(error.retriable()) or error.code() in _TRANSIENT


def ours(error: KafkaError, what: str) -> OpenMSIStreamError:
    """
    Our error for one of librdkafka's.

    Args:
        error: What librdkafka says.
        what: What was being done, or to what, e.g. ``topic xrd``.
    """
    kind = UnavailableError if is_transient(error) else DeliveryError
    mapped = kind(f"{what}: {error.str()} ({error.name()})", hint=_HINTS.get(error.code(), ""))
    mapped.__cause__ = KafkaException(error)
    return mapped


def refused_setting(exception: KafkaException, origin: str, secrets_masked: str) -> ConfigError:
    """Our error for a key or value of the config file that librdkafka does not take."""
    error = ConfigError(
        f"{origin}: {secrets_masked}",
        hint="check the spelling and the value; the keys are those of librdkafka's CONFIGURATION.md",
    )
    error.__cause__ = exception
    return error
