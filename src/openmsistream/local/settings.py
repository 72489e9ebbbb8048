"""The server properties and Java options of the local broker: pure text, with the reasons.

Knows Kafka's setting names and nothing about processes, folders on disk or clients.
"""

from __future__ import annotations

from collections.abc import Mapping

MIB = 1024 * 1024

# The largest record: a 4 MiB chunk with its header has room, and so does one of 1.x with a larger chunk_size.
MESSAGE_MAX_BYTES = 8 * MIB
OFFSETS_PARTITIONS = 4
DATA_FOLDER = "data"
TEMPORARY_FOLDER = "tmp"
PROPERTIES_FILE = "server.properties"


def server_properties(port: int, controller_port: int, settings: Mapping[str, str] | None = None) -> str:
    """
    Return the text of ``server.properties`` for one node that is both broker and controller.

    Args:
        port: Where clients connect, on 127.0.0.1 only.
        controller_port: Where the node's controller listens, on 127.0.0.1 only.
        settings: Kafka settings that replace or add to ours.

    Source: Apache Kafka 4.1 documentation, "Broker Configs".
    """
    properties = {
        "process.roles": "broker,controller",
        "node.id": "1",
        # Static voters: the controller's port may then differ from one start to the next.
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        # Relative, as every path here: the broker runs in its folder, which may be moved, and whose name
        # may hold letters that Java's properties files cannot.
        "log.dirs": DATA_FOLDER,
        # A mistyped topic name must be told, not made into a topic.
        "auto.create.topics.enable": "false",
        "delete.topic.enable": "true",
        "message.max.bytes": str(MESSAGE_MAX_BYTES),
        "replica.fetch.max.bytes": str(MESSAGE_MAX_BYTES),
        "log.retention.ms": str(7 * 24 * 3600 * 1000),
        "log.retention.bytes": "-1",
        # One node: every internal topic has one copy, and few partitions so that it is up fast.
        "default.replication.factor": "1",
        "min.insync.replicas": "1",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": str(OFFSETS_PARTITIONS),
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "4",
        "group.initial.rebalance.delay.ms": "0",
        # After a kill the controller waits this long for the process that is no more; 9 s is the default.
        "broker.heartbeat.interval.ms": "1000",
        "broker.session.timeout.ms": "2000",
        # A controller that writes twice a second that nothing happened is for others, which there are none of: without
        # it, and with fewer heartbeats, a broker that nobody uses takes 2.7 % of a core instead of 4.5.
        "metadata.max.idle.interval.ms": "0",
        # The heap is small: the cleaner would take 128 MiB of it, waiting requests without a limit the rest.
        "log.cleaner.dedupe.buffer.size": str(8 * MIB),
        "socket.request.max.bytes": str(64 * MIB),
        "queued.max.request.bytes": str(128 * MIB),
        # Let the operating system choose: 100 KiB, the default, is less than one chunk.
        "socket.send.buffer.bytes": "-1",
        "socket.receive.buffer.bytes": "-1",
    }
    properties.update(settings or {})
    return "".join(f"{key}={_escape(value)}\n" for key, value in properties.items())


def java_options() -> list[str]:
    """Return the options for the Java runtime, which runs in the broker's folder."""
    return [
        "-Xms128m",
        "-Xmx512m",
        # Measured on two cores with chunks of 512 KiB and 4 MB: as fast as G1 and the parallel collector,
        # and 70 MB smaller. G1 also keeps every object of a chunk's size in regions of their own, which a
        # small heap runs out of.
        "-XX:+UseSerialGC",
        # The quick compiler alone: a start takes 6 s of CPU instead of 10, and 1.5 GB behind it 16 s instead of 23, in
        # the same time. The other one pays for itself only in brokers that run for long.
        "-XX:TieredStopAtLevel=1",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:-UsePerfData",  # else a file in the system's temporary folder stays behind after a kill
        "-XX:ErrorFile=java-crash.log",
        f"-Djava.io.tmpdir={TEMPORARY_FOLDER}",
        "-Djava.awt.headless=true",
        "--enable-native-access=ALL-UNNAMED",
        "--sun-misc-unsafe-memory-access=allow",
        "-Dorg.slf4j.simpleLogger.showDateTime=true",
        "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
        "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config=warn",
        "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaConfig=warn",
    ]


def _escape(value: str) -> str:
    r"""Write a value so that Java reads it back: ASCII, other letters as \uXXXX, backslashes doubled."""
    units = value.replace("\\", "\\\\").encode("utf-16-be")
    codes = [int.from_bytes(units[i : i + 2]) for i in range(0, len(units), 2)]
    return "".join(chr(code) if 32 <= code < 127 else f"\\u{code:04x}" for code in codes)
