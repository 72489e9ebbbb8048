"""What the producer and the consumer are told."""

from __future__ import annotations

from pathlib import Path

import confluent_kafka
import pytest

from openmsistream.config.librdkafka import consumer_defaults, producer_defaults
from openmsistream.config.models import WireFormat, load, resolve_group_id
from openmsistream.errors import ConfigError

from .conftest import Write

BROKER = "[broker]\nbootstrap.servers = localhost:1\nlog_level = 0\n"
EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.config"))
SHIPPED_1X = """
[broker]
bootstrap.servers = $LOCAL_KAFKA_BROKER_BOOTSTRAP_SERVERS
log_level = 0
[producer]
batch.size = 2000000
linger.ms = 100
compression.type = lz4
key.serializer = StringSerializer
value.serializer = DataFileChunkSerializer
[consumer]
group.id = create_new
auto.offset.reset = earliest
enable.auto.commit = False
fetch.min.bytes = 100000
key.deserializer = StringDeserializer
value.deserializer = DataFileChunkDeserializer
"""


def accepted_by_librdkafka(config: Write, text: str, **env: str) -> None:
    read = config(text, **env)
    confluent_kafka.Producer(dict(read.producer.settings)).flush(0)
    confluent_kafka.Consumer({**read.consumer.settings, "group.id": "g"}).close()


def test_the_file_shipped_with_1x_gives_what_it_says(config: Write):
    """The user's values stand, our defaults are added, and keys that are not librdkafka's are gone."""
    read = config(SHIPPED_1X, LOCAL_KAFKA_BROKER_BOOTSTRAP_SERVERS="localhost:1")

    user = {"bootstrap.servers": "localhost:1", "log_level": "0"}
    assert read.producer.settings == producer_defaults() | user | {
        "batch.size": "2000000",
        "linger.ms": "100",
        "compression.type": "lz4",
    }
    assert read.consumer.settings == consumer_defaults() | user | {"fetch.min.bytes": "100000"}
    assert read.producer.wire is WireFormat.V1
    assert read.producer.v1_fields == 10
    assert read.consumer.group_id == "create_new"
    assert read.consumer.enable_auto_commit is False
    assert read.warnings == ()


@pytest.mark.parametrize(
    "text",
    [
        BROKER,
        SHIPPED_1X,
        BROKER + "[producer]\nacks = 1\n",
        BROKER + "[producer]\nacks = 0\n",
        BROKER + "[producer]\nenable.idempotence = False\n",
        BROKER + "[producer]\nretries = 0\nmax.in.flight = 9\nqueuing.strategy = lifo\n",
        BROKER + "[producer]\nrequest.required.acks = 1\nmax.in.flight = 9\ndelivery.timeout.ms = 4000\n",
        BROKER + "message.max.bytes = 20000000\n",
        BROKER + "[consumer]\nauto.offset.reset = none\nenable.auto.commit = True\nfetch.message.max.bytes = 1000\n",
    ],
)
def test_librdkafka_accepts_what_we_make_of_a_file(config: Write, text: str):
    """No combination of the user's values and our defaults contradicts itself."""
    accepted_by_librdkafka(config, text, LOCAL_KAFKA_BROKER_BOOTSTRAP_SERVERS="localhost:1")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_right(path: Path):
    """The examples of the documentation can be used as they are."""
    read = load(path, env={"KAFKA_USER": "u", "KAFKA_PASSWORD": "p"}, search=[])

    read.check()
    assert read.warnings == ()


def test_there_are_examples():
    """The test above has something to look at."""
    assert [path.name for path in EXAMPLES] == ["folders.config", "lab.config", "local.config", "with_1x.config"]


def test_the_side_wins_over_the_broker_section(config: Write):
    """A key of [producer] counts for the producer, that of [broker] for the consumer."""
    read = config(BROKER + "client.id = both\nnode_id = 7\n[producer]\nclient.id = up\nnode_id = 8\n")

    assert read.producer.settings["client.id"] == "up"
    assert read.consumer.settings["client.id"] == "both"
    assert "node_id" not in {*read.producer.settings, *read.consumer.settings, *read.broker}


@pytest.mark.parametrize(
    ("line", "wire"),
    [
        ("", WireFormat.V2),
        ("value.serializer = DataFileChunkV2Serializer", WireFormat.V2),
        ("value.serializer = DataFileChunkSerializer", WireFormat.V1),
    ],
)
def test_the_serializer_names_the_wire_format(config: Write, line: str, wire: WireFormat):
    """Existing files, which name the serializer of 1.x, go on writing its format."""
    assert config(f"{BROKER}[producer]\n{line}\n").producer.wire is wire


@pytest.mark.parametrize("fields", [9, 10])
def test_v1_can_be_written_with_9_fields(config: Write, fields: int):
    """Readers up to 1.8.6 refuse 10."""
    text = f"{BROKER}[producer]\nvalue.serializer=DataFileChunkSerializer\nvalue.serializer.fields={fields}\n"

    assert config(text).producer.v1_fields == fields


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            "[producer]\nvalue.serializer = StringSerializer",
            "line 5): StringSerializer cannot write file chunks",
            "DataFileChunkV2Serializer",
        ),
        (
            "[producer]\nvalue.serializer = AvroSerializer",
            "value.serializer (line 5): 'AvroSerializer' is not a",
            "DataFileChunkSerializer, DataFileChunkV2Serializer",
        ),
        (
            "[producer]\nkey.serializer = DataFileChunkV2Serializer",
            "key.serializer (line 5)",
            "StringSerializer",
        ),
        (
            "[producer]\nvalue.serializer.fields = 8",
            "value.serializer.fields (line 5): '8' is not 9 or 10",
            "1.8.6",
        ),
        (
            "[producer]\nenable.idempotence = maybe",
            "enable.idempotence (line 5): 'maybe' is not true or false",
            "",
        ),
        (
            "[consumer]\nauto.offset.reset = first",
            "(line 5): 'first' is not one of earliest, latest",
            "earliest",
        ),
        (
            "[consumer]\nvalue.deserializer = X",
            "[consumer] value.deserializer (line 5): 'X'",
            "DoubleDeserializer",
        ),
    ],
)
def test_a_wrong_key_of_ours_is_named(config: Write, text: str, message: str, hint: str):
    """The error names the place and the value, and what is allowed."""
    read = config(BROKER + text)

    with pytest.raises(ConfigError) as caught:
        _ = (read.producer.wire, read.consumer)

    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_file_without_a_broker_is_refused(config: Write):
    """The most important key is asked for by name."""
    with pytest.raises(ConfigError, match=r"\[broker\] bootstrap.servers: not given"):
        _ = config("[producer]\nlinger.ms = 5\n").producer


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("[consumer]\nenable.auto.commit = True", "enable.auto.commit (line 5) = 'True' is not used"),
        ("[consumer]\nenable.auto.offset.store = 1", "enable.auto.offset.store (line 5) = '1' is not used"),
        ("[consumer]\nauto.offset.reset = None", "none means latest"),
        ("[producer]\nenable.idempotence = false", "may now double chunks or lose some"),
        ("[producer]\nacks = 1", "acks (line 5) = '1': a connection that breaks"),
        ("[producer]\nacks = 0", "acks (line 5) = 0 is not used"),
        ("[producer]\nmax.in.flight = 6", "max.in.flight (line 5) = '6' is not used"),
        ("[producer]\nvalue.serializer.fields = 9", "value.serializer.fields (line 5) is not used"),
        ("security.protocol = SASL_PLAINTEXT", "travel unencrypted"),
        ("[Producer]\nlinger.ms = 5", "[Producer] is not read: the section is called [producer]"),
    ],
)
def test_what_weakens_a_guarantee_or_is_not_used_is_told(config: Write, text: str, warning: str):
    """One sentence, with the place in the file."""
    read = config(BROKER + text)

    assert len(read.warnings) == 1
    assert warning in read.warnings[0]


def test_what_would_break_a_guarantee_is_not_handed_on(config: Write):
    """Commits are ours alone, a file counts as sent only when the broker said so, in order."""
    read = config(BROKER + "enable.auto.commit=true\nenable.auto.offset.store=true\nacks=0\n")

    assert read.consumer.settings["enable.auto.commit"] == "false"
    assert read.consumer.settings["enable.auto.offset.store"] == "false"
    assert read.producer.settings["acks"] == "all"
    assert read.producer.settings.origin("acks") == "OpenMSIStream's default"


def test_another_name_of_a_setting_replaces_our_default(config: Write):
    """librdkafka would otherwise get both names and take whichever comes last."""
    settings = config(BROKER + "[producer]\nqueue.buffering.max.ms = 50\n").producer.settings

    assert settings["queue.buffering.max.ms"] == "50"
    assert "linger.ms" not in settings


@pytest.mark.parametrize(
    ("value", "expected"), [("2e6", "2000000"), ("2000000.0", "2000000"), ("0.5", "0.5"), ("0x10", "0x10")]
)
def test_numbers_mean_what_they_meant(config: Write, value: str, expected: str):
    """1.x read numbers with decimals or exponents; librdkafka would cut "2e6" down to 2."""
    assert config(f"{BROKER}[producer]\nbatch.size = {value}\n").producer.settings["batch.size"] == expected


def test_a_password_of_digits_stays_as_it_is(config: Write):
    """Only settings that count something are read as numbers."""
    assert config(BROKER + "sasl.password = 1e6\n").broker["sasl.password"] == "1e6"


@pytest.mark.parametrize("reset", ["smallest", "Earliest", "beginning"])
def test_every_name_for_the_beginning_is_one(config: Write, reset: str):
    """Kafka has several words for it."""
    assert config(f"{BROKER}[consumer]\nauto.offset.reset = {reset}\n").consumer.auto_offset_reset == "earliest"


@pytest.mark.parametrize("text", ["create_new", "CREATE_NEW", "new", "none", " ", "", None])
def test_a_new_group_is_made_when_asked_for(text: str | None):
    """Also in the words of 0.9, and when nothing is said."""
    assert resolve_group_id(text, lambda: "fresh") == "fresh"


def test_a_group_is_taken_as_named():
    """Without the blanks around it."""
    assert resolve_group_id(" archive ", lambda: "fresh") == "archive"


def test_origin_names_the_place_or_our_default(config: Write):
    """So that an error of librdkafka can be put right."""
    read = config(BROKER + "[producer]\nbatch.size = 1\n")

    assert read.origin("producer", "batch.size") == f"{read.path} [producer] batch.size (line 5)"
    assert read.origin("producer", "log_level") == f"{read.path} [broker] log_level (line 3)"
    assert read.origin("producer", "acks") == "OpenMSIStream's default"
    assert read.origin("s3", "region") == f"{read.path} [s3] region (not set)"
    assert read.producer.settings.origin("batch.size") == read.origin("producer", "batch.size")
    assert read.producer.settings.origin("acks") == "OpenMSIStream's default"


@pytest.mark.parametrize(
    ("text", "limit", "key"),
    [
        ("", 8_388_608 - 32_768, "message.max.bytes"),
        ("[producer]\nmessage.max.bytes = 1000000", 1_000_000 - 32_768, "message.max.bytes"),
        ("message.max.bytes = 900000000", 32_768 * 1024 - 32_768, "queue.buffering.max.kbytes"),
    ],
)
def test_a_chunk_has_to_fit_into_a_record_and_the_queue(config: Write, text: str, limit: int, key: str):
    """The limit is named with the setting that makes it."""
    producer = config(BROKER + text).producer

    assert producer.max_chunk_bytes == limit
    producer.check_chunk_size(limit)
    for wrong in (0, limit + 1):
        with pytest.raises(ConfigError, match=f"chunk_size: {wrong} is not from 1 to {limit} bytes.*{key}"):
            producer.check_chunk_size(wrong)
