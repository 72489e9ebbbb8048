"""What a config file says about the Kafka producer and consumer, with our defaults underneath.

Owns the keys that are ours and not librdkafka's, and how the sections are merged. It never imports a
Kafka library: whether librdkafka knows a key is for the adapter to find out, which then asks
``Settings.origin`` where it was set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from openmsistream.config.ini import IniFile, Settings
from openmsistream.config.librdkafka import (
    FETCH_MAX_BYTES,
    MESSAGE_MAX_BYTES,
    consumer_defaults,
    flag,
    keep_acknowledged,
    keep_in_order,
    number,
    over_defaults,
    producer_defaults,
    whole,
)
from openmsistream.errors import ConfigError

# Room for our header (at most 16 KiB), the record key (a path of at most 4 KiB) and Kafka's own framing.
RECORD_OVERHEAD_BYTES = 32_768
NEW_GROUP_NAMES = frozenset({"", "create_new", "new", "none"})

_KEY_SERDES = frozenset(
    f"{kind}{side}"
    for kind in ("String", "Integer", "Double", "DataFileChunk")
    for side in ("Serializer", "Deserializer")
)
_SERDES = _KEY_SERDES | {"DataFileChunkV2Serializer", "DataFileChunkV2Deserializer"}
_SERDE_KEYS = ("key.serializer", "value.serializer", "key.deserializer", "value.deserializer")
_FIELDS_KEY = "value.serializer.fields"
_OURS = (*_SERDE_KEYS, _FIELDS_KEY, "node_id")

_RESETS = {
    "earliest": "earliest",
    "smallest": "earliest",
    "beginning": "earliest",
    "latest": "latest",
    "largest": "latest",
    "end": "latest",
    "error": "error",
    "none": "latest",
}


class WireFormat(Enum):
    """The format a producer writes; consumers read every format without being told."""

    V1 = "v1"
    V2 = "v2"


@dataclass(frozen=True, slots=True)
class ProducerConfig:
    """
    The producer's side of a config file.

    Attributes:
        settings: For librdkafka: the user's values over our defaults, without the keys that are ours.
        value_serializer: The name given as ``value.serializer``, or None.
        v1_fields: How many fields a v1 chunk is written with: 9 (for readers up to 1.8.6) or 10.
        warnings: Sentences to tell the user once at start.
    """

    settings: Settings
    value_serializer: str | None = None
    v1_fields: int = 10
    warnings: tuple[str, ...] = ()

    @property
    def wire(self) -> WireFormat:
        """
        The format that file chunks are written in.

        Raises:
            ConfigError: ``value.serializer`` names something that cannot write file chunks.
        """
        match self.value_serializer:
            case "DataFileChunkSerializer":
                return WireFormat.V1
            case None | "DataFileChunkV2Serializer":
                return WireFormat.V2
        raise ConfigError(
            f"{self.settings.origin('value.serializer')}: {self.value_serializer} cannot write file chunks",
            hint="use DataFileChunkV2Serializer (or leave the key out), or DataFileChunkSerializer "
            "for readers of OpenMSIStream 1.x",
        )

    @property
    def max_chunk_bytes(self) -> int:
        """The longest payload that still fits into one record and into the producer's queue."""
        return max(1, self._limit()[1])

    def check_chunk_size(self, chunk_bytes: int) -> None:
        """
        Refuse a chunk size that this producer could never send.

        Raises:
            ConfigError: ``chunk_bytes`` is not in ``1 ... max_chunk_bytes``; names the limiting key.
        """
        if 1 <= chunk_bytes <= self.max_chunk_bytes:
            return
        key = self._limit()[0]
        raise ConfigError(
            f"chunk_size: {chunk_bytes} is not from 1 to {self.max_chunk_bytes} bytes; the limit is {key} = "
            f"{self.settings.shown(key)} ({self.settings.origin(key)}) less {RECORD_OVERHEAD_BYTES} bytes",
            hint=f"choose a smaller chunk_size, or raise {key} in [producer]",
        )

    def _limit(self) -> tuple[str, int]:
        limits = [
            ("message.max.bytes", number(self.settings, "message.max.bytes", MESSAGE_MAX_BYTES)),
            ("queue.buffering.max.kbytes", 1024 * number(self.settings, "queue.buffering.max.kbytes", 1)),
        ]
        key, size = min(limits, key=lambda limit: limit[1])
        return key, size - RECORD_OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class ConsumerConfig:
    """
    The consumer's side of a config file.

    Attributes:
        settings: For librdkafka, without ``group.id``, which the program resolves and adds.
        group_id: ``group.id`` as written (see ``resolve_group_id``); None when the file has none.
        auto_offset_reset: Where a new group begins: ``earliest``, ``latest`` or ``error``.
        enable_auto_commit: What the file says. Never used: only finished files are committed.
        warnings: Sentences to tell the user once at start.
    """

    settings: Settings
    group_id: str | None = None
    auto_offset_reset: str = "earliest"
    enable_auto_commit: bool | None = None
    warnings: tuple[str, ...] = ()


def producer_config(ini: IniFile) -> ProducerConfig:
    """
    The producer's settings: ``[producer]`` over ``[broker]`` over our defaults.

    Raises:
        ConfigError: No broker is named, a serializer is unknown, or a value cannot be expanded.
    """
    user = _user_settings(ini, "producer")
    serializer = user.get("value.serializer")
    fields = user.get(_FIELDS_KEY, "10")
    if fields not in {"9", "10"}:
        raise ConfigError(
            f"{user.origin(_FIELDS_KEY)}: {user.shown(_FIELDS_KEY)} is not 9 or 10",
            hint="9 for readers up to OpenMSIStream 1.8.6, else 10",
        )
    warnings = _transport_warnings(user)
    if _FIELDS_KEY in user and serializer != "DataFileChunkSerializer":
        warnings.append(f"{user.origin(_FIELDS_KEY)} is not used: it is for value.serializer = DataFileChunkSerializer")
    user = user.without(*_OURS)
    defaults = producer_defaults()
    user = keep_acknowledged(user, warnings)
    user = keep_in_order(user, defaults, warnings)
    return ProducerConfig(over_defaults(user, defaults), serializer, int(fields), tuple(warnings))


def consumer_config(ini: IniFile) -> ConsumerConfig:
    """
    The consumer's settings: ``[consumer]`` over ``[broker]`` over our defaults.

    Raises:
        ConfigError: No broker is named, ``auto.offset.reset`` or a deserializer is unknown, or a value
            cannot be expanded.
    """
    user = _user_settings(ini, "consumer").without(*_OURS)
    warnings = _transport_warnings(user)
    for key in ("enable.auto.commit", "enable.auto.offset.store"):
        if key in user and flag(user, key):
            warnings.append(f"{user.origin(key)} = {user.shown(key)} is not used: only finished files are committed")
    auto_commit = flag(user, "enable.auto.commit") if "enable.auto.commit" in user else None
    defaults = consumer_defaults()
    # librdkafka refuses a fetch.max.bytes below message.max.bytes, and sets a fitting one itself.
    if number(user, "message.max.bytes", 0) > FETCH_MAX_BYTES:
        del defaults["fetch.max.bytes"]
    reset = _reset(user, warnings)
    group = user.get("group.id")
    user = user.without("enable.auto.commit", "enable.auto.offset.store", "group.id")
    if "auto.offset.reset" in user:
        user = user.replaced({"auto.offset.reset": reset})
    return ConsumerConfig(over_defaults(user, defaults), group, reset, auto_commit, tuple(warnings))


def resolve_group_id(text: str | None, new_id: Callable[[], str]) -> str:
    """
    The consumer group to join.

    Args:
        text: What the option or the config file says. ``create_new``, ``new`` (as 0.9 wrote it),
            ``none`` in any case, nothing and None ask for a group of their own.
        new_id: Makes a name that no group has, e.g. from a UUID.
    """
    wanted = (text or "").strip()
    return new_id() if wanted.lower() in NEW_GROUP_NAMES else wanted


def _user_settings(ini: IniFile, side: str) -> Settings:
    user = ini.section(side).over(ini.section("broker"))
    for key in _SERDE_KEYS:
        allowed = _KEY_SERDES if key.startswith("key.") else _SERDES
        if key in user and user[key] not in allowed:
            fitting = sorted(name for name in allowed if name.endswith(key.split(".")[1].title()))
            raise ConfigError(
                f"{user.origin(key)}: {user.shown(key)} is not a name we know",
                hint="use one of " + ", ".join(fitting),
            )
    if "bootstrap.servers" not in user and "metadata.broker.list" not in user:
        raise ConfigError(
            f"{ini.path} [broker] bootstrap.servers: not given, so there is no broker to connect to",
            hint="add bootstrap.servers = host:9092 under [broker]",
        )
    return user.replaced({key: whole(key, user[key]) for key in user})


def _transport_warnings(user: Settings) -> list[str]:
    if user.get("security.protocol", "").strip().lower() != "sasl_plaintext":
        return []
    return [f"{user.origin('security.protocol')}: the password and all files travel unencrypted (use SASL_SSL)"]


def _reset(user: Settings, warnings: list[str]) -> str:
    key = "auto.offset.reset"
    if key not in user:
        return consumer_defaults()[key]
    text = user[key].lower()
    if text not in _RESETS:
        raise ConfigError(
            f"{user.origin(key)}: {user.shown(key)} is not one of earliest, latest, error, none",
            hint="earliest: a new group gets every file still on the topic",
        )
    if text == "none":
        warnings.append(f"{user.origin(key)} = none means latest, as in 1.x: a new group gets only what comes later")
    return _RESETS[text]
