"""Our defaults for librdkafka, and the user's settings that cannot stand beside our guarantees.

Knows librdkafka's names and rules as text; it never imports a Kafka library and knows no section of a
config file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from openmsistream.config.ini import Settings
from openmsistream.errors import ConfigError

MESSAGE_MAX_BYTES = 8_388_608
FETCH_MAX_BYTES = 16_777_216
_QUEUE_KBYTES = 32_768

# The names librdkafka knows for the settings we give a default or look at.
# Source: librdkafka 2.16, CONFIGURATION.md ("Alias for ...").
_ALIASES = {
    "acks": "request.required.acks",
    "bootstrap.servers": "metadata.broker.list",
    "linger.ms": "queue.buffering.max.ms",
    "max.in.flight.requests.per.connection": "max.in.flight",
    "max.partition.fetch.bytes": "fetch.message.max.bytes",
    "message.timeout.ms": "delivery.timeout.ms",
    "retries": "message.send.max.retries",
}
_COUNTING_KEY = re.compile(r".*\.(ms|bytes|kbytes|messages|size|retries)|retries")
_FALSE, _TRUE = frozenset({"false", "f", "0"}), frozenset({"true", "t", "1"})


def producer_defaults() -> dict[str, str]:
    """
    Our defaults for librdkafka's producer.

    Source: measured for 512 KiB chunks (docs/design.md, "Speed, as a habit"): waiting for a batch gains
    nothing, a small queue is faster than a big one and bounds the memory. librdkafka's own defaults stand
    where they are right: no compression, no statistics.
    """
    return {
        "acks": "all",
        "client.id": "openmsistream",
        "enable.idempotence": "true",
        "linger.ms": "0",
        # With librdkafka's default of 5 its idempotent producer spends 3 times the CPU on 512 KiB records (measured).
        "max.in.flight.requests.per.connection": "4",
        "message.max.bytes": str(MESSAGE_MAX_BYTES),
        # 0 = for ever: a file that waits for the broker is late, a record that timed out is lost.
        "message.timeout.ms": "0",
        "queue.buffering.max.kbytes": str(_QUEUE_KBYTES),
        "socket.keepalive.enable": "true",
    }


def consumer_defaults() -> dict[str, str]:
    """
    Our defaults for librdkafka's consumer.

    Source: docs/design.md, "Speed, as a habit": 8 MiB a partition doubles the speed of 512 KiB chunks;
    the queue of 32 MiB and one fetch of 16 MiB keep the process well below 200 MB. Once that queue was full,
    librdkafka fetches nothing for ``fetch.queue.backoff.ms``: with its default of 1 s, who reads 60 MB/s or more waits
    half of the time.
    """
    return {
        "auto.offset.reset": "earliest",
        "check.crcs": "true",
        "client.id": "openmsistream",
        "enable.auto.commit": "false",
        "enable.auto.offset.store": "false",
        "enable.partition.eof": "false",
        "fetch.max.bytes": str(FETCH_MAX_BYTES),
        "fetch.queue.backoff.ms": "20",
        "max.partition.fetch.bytes": "8388608",
        "queued.max.messages.kbytes": str(_QUEUE_KBYTES),
        "socket.keepalive.enable": "true",
    }


def keep_acknowledged(user: Settings, warnings: list[str]) -> Settings:
    """Put ``acks = 0`` aside: a file counts as sent when the broker has said so."""
    for key in ("acks", "request.required.acks"):
        if user.get(key) == "0":
            warnings.append(f"{user.origin(key)} = 0 is not used: a file counts as sent when the broker has it")
            user = user.without(key)
    return user


def keep_in_order(user: Settings, defaults: dict[str, str], warnings: list[str]) -> Settings:
    """Settle what cannot go together with idempotence, which keeps chunks single and in order."""
    acks = user.get("acks", user.get("request.required.acks", "all"))
    if "enable.idempotence" in user and not flag(user, "enable.idempotence"):
        reason = f"{user.origin('enable.idempotence')} = {user.shown('enable.idempotence')}"
    elif "enable.idempotence" not in user and acks.lower() not in {"all", "-1"}:
        key = "acks" if "acks" in user else "request.required.acks"
        reason = f"{user.origin(key)} = {user.shown(key)}"
    else:
        for key, usable in _IDEMPOTENT_LIMITS:
            if key in user and not usable(user[key]):
                warnings.append(f"{user.origin(key)} = {user.shown(key)} is not used: chunks must stay in order")
                user = user.without(key)
        return user
    warnings.append(f"{reason}: a connection that breaks may now double chunks or lose some")
    defaults["enable.idempotence"] = "false"
    # One request at a time is what is left to keep the order when one is sent again.
    defaults["max.in.flight.requests.per.connection"] = "1"
    return user


def over_defaults(user: Settings, defaults: Mapping[str, str]) -> Settings:
    """The user's settings, and our defaults for what they do not set under any of its names."""
    # Two names of one setting must not both arrive: the last one would win, by chance.
    return user.over(Settings({k: v for k, v in defaults.items() if _ALIASES.get(k) not in user}))


def flag(settings: Settings, key: str) -> bool:
    """
    A true-or-false setting that is there.

    Raises:
        ConfigError: It is something else. Source: librdkafka's own words for it.
    """
    text = settings[key].lower()
    if text not in _FALSE | _TRUE:
        raise ConfigError(
            f"{settings.origin(key)}: {settings.shown(key)} is not true or false", hint="write true or false"
        )
    return text in _TRUE


def number(settings: Mapping[str, str], key: str, default: int) -> int:
    """A whole number; ``default`` when the setting is missing or no number."""
    text = settings.get(key, "")
    # A value that is no number is refused by librdkafka, which knows the ranges.
    return int(text) if text.isdecimal() else default


def _count(text: str) -> int:
    return int(text) if text.isdecimal() else 1


def whole(key: str, value: str) -> str:
    """
    The value as librdkafka reads it.

    1.x handed numbers on as floats, so that ``batch.size = 2e6`` worked; librdkafka takes "2e6" for 2.
    """
    if not _COUNTING_KEY.fullmatch(key) or not re.fullmatch(r"\d+(\.\d*)?(e\+?\d)?", value, re.IGNORECASE):
        return value
    amount = float(value)
    return str(int(amount)) if amount.is_integer() else value


_IDEMPOTENT_LIMITS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("max.in.flight.requests.per.connection", lambda value: _count(value) <= 5),
    ("max.in.flight", lambda value: _count(value) <= 5),
    ("retries", lambda value: _count(value) >= 1),
    ("message.send.max.retries", lambda value: _count(value) >= 1),
    ("queuing.strategy", lambda value: value == "fifo"),
)
