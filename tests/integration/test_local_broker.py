"""The local broker: a real process that starts, is killed, recovers and leaves nothing behind."""

from __future__ import annotations

import contextlib
import http.server
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer

from openmsistream.errors import ConfigError, IntegrityError, StorageError, UnavailableError
from openmsistream.local import parts, ports, process
from openmsistream.local.broker import LocalBroker
from openmsistream.local.process import ProcessId
from openmsistream.local.state import STATE_FILE, BrokerState, how_it_ended, read_state, write_state
from openmsistream.local.topics import create_topic, topic_statuses

FOUR_MIB = 4 * 1024 * 1024


def produce(bootstrap: str, topic: str, *values: bytes) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "message.max.bytes": 2 * FOUR_MIB, "log_level": 0})
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(30) == 0


def consume(bootstrap: str, topic: str, count: int) -> list[bytes]:
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": topic, "auto.offset.reset": "earliest", "log_level": 0}
    )
    consumer.subscribe([topic])
    values: list[bytes] = []
    try:
        while len(values) < count:
            message = consumer.poll(30)
            assert message is not None, f"only {len(values)} of {count} messages came within 30 s"
            assert message.error() is None, message.error()
            values.append(message.value())
    finally:
        consumer.close()
    return values


@contextlib.contextmanager
def maven_mirror(answer: bytes, *, announced: int | None = None) -> Iterator[tuple[str, Counter[str]]]:
    """A web server that answers every request with the same bytes, and counts what is asked for."""
    asked: Counter[str] = Counter()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked[self.path] += 1
            self.send_response(404 if self.path.endswith(".sha1") else 200)
            self.send_header("Content-Length", str(len(answer) if announced is None else announced))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_arguments: object) -> None:
            """Keep the test's output free of access logs."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def small_jar() -> tuple[parts.Jar, bytes]:
    """One jar of the broker, from the cache that the tests use."""
    ready = parts.ensure_parts()
    jar, path = min(zip(parts.read_lock(), ready.jars, strict=True), key=lambda pair: pair[1].stat().st_size)
    return jar, path.read_bytes()


@pytest.fixture
def sleeper() -> Iterator[ProcessId]:
    """A running program that is no broker."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        yield ProcessId(child.pid, process.began(child.pid) or "")
    finally:
        child.kill()
        child.communicate()


def test_a_new_broker_carries_records_up_to_a_4_mib_chunk(broker, topic):
    """What is produced to a local broker is consumed from it, byte for byte, also 4 MiB at once."""
    name = topic(partitions=1)
    sent = [b"first", b"", os.urandom(FOUR_MIB)]

    produce(broker.bootstrap, name, *sent)

    assert broker.is_ready()
    assert consume(broker.bootstrap, name, 3) == sent


def test_the_status_of_a_topic_counts_its_messages_and_bytes(broker, topic):
    """Partitions, messages and bytes on disk are those of what was produced."""
    name = topic(partitions=3)
    produce(broker.bootstrap, name, *[os.urandom(1000)] * 5)

    statuses = {status.name: status for status in topic_statuses(broker.bootstrap, broker.data_folder)}

    assert (statuses[name].partitions, statuses[name].messages) == (3, 5)
    assert 5000 < statuses[name].size_bytes < 6000
    assert not any(other.startswith("__") for other in statuses)


def test_making_a_topic_again_changes_nothing(broker, topic):
    """A topic that is there is left as it is, and the caller is told."""
    name = topic(partitions=2)

    assert create_topic(broker.bootstrap, name, partitions=5) is False

    statuses = {status.name: status for status in topic_statuses(broker.bootstrap, broker.data_folder)}
    assert statuses[name].partitions == 2


@pytest.mark.parametrize(
    ("name", "partitions", "config", "words"),
    [
        ("no spaces", 1, {}, "invalid"),
        ("", 1, {}, "empty"),
        ("files", 0, {}, "0 partitions"),
        ("files", 1, {"retention.ms": "soon"}, "soon"),
        ("files", 1, {"retention.secs": "1"}, "retention.secs"),
    ],
)
def test_a_topic_that_kafka_refuses_is_a_config_error(broker, name, partitions, config, words):
    """A bad name, number or setting of a topic is told as the user's mistake, with Kafka's reason."""
    with pytest.raises(ConfigError, match=words):
        create_topic(broker.bootstrap, name, partitions=partitions, config=config)


def test_a_second_start_says_it_already_runs_and_where(broker):
    """Starting a broker where one runs names its address and process, and leaves it alone."""
    with pytest.raises(ConfigError, match=rf"already runs on .*{broker.bootstrap}, process {broker.pid}"):
        LocalBroker.start(broker.folder)

    assert broker.is_ready()


def test_a_broker_is_found_again_by_its_folder(broker):
    """Another program finds a running broker by its folder alone."""
    found = LocalBroker.find(broker.folder)

    assert found is not None
    assert (found.bootstrap, found.pid) == (broker.bootstrap, broker.pid)


def test_data_survives_kill_9_and_a_new_start(own_broker):
    """After SIGKILL a new start on the same folder has the same port and every acknowledged record."""
    create_topic(own_broker.bootstrap, "files")
    produce(own_broker.bootstrap, "files", b"one", b"two")
    address, killed = own_broker.bootstrap, own_broker.pid
    own_broker.kill()
    assert "killed or ended by itself" in how_it_ended(own_broker.folder)

    again = LocalBroker.start(own_broker.folder)

    try:
        assert again.bootstrap == address
        assert again.pid != killed
        assert consume(again.bootstrap, "files", 2) == [b"one", b"two"]
    finally:
        again.stop()


def test_a_clean_stop_leaves_no_process_and_no_temporary_file(own_broker):
    """After stop the process is gone, nothing listens on the port, and its temporary folder is empty."""
    pid, port = own_broker.pid, own_broker.port

    own_broker.stop()

    assert process.began(pid) is None
    with pytest.raises(OSError, match=r"refused|111|61|10061"):
        socket.create_connection(("127.0.0.1", port), timeout=2)
    assert list((own_broker.folder / "tmp").iterdir()) == []
    assert LocalBroker.find(own_broker.folder) is None
    assert how_it_ended(own_broker.folder) == "it was stopped"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot freeze a process")
def test_a_frozen_broker_answers_again_after_thaw_and_stops_while_frozen(own_broker):
    """SIGSTOP makes it silent but alive, SIGCONT brings it back, and stop works on a frozen one."""
    own_broker.freeze()
    assert own_broker.is_alive()
    assert not own_broker.is_ready(0.5)

    own_broker.thaw()
    assert own_broker.is_ready(30)

    own_broker.freeze()
    own_broker.stop()
    assert not own_broker.is_alive()


def test_a_broker_ends_with_the_program_that_started_it(tmp_path):
    """A program that is killed with kill -9 leaves no broker behind."""
    code = (
        "import os, pathlib, signal, sys; from openmsistream.local.broker import LocalBroker;"
        "print(LocalBroker.start(pathlib.Path(sys.argv[1])).pid, flush=True);"
        "os.kill(os.getpid(), getattr(signal, 'SIGKILL', signal.SIGTERM))"
    )
    answer = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, check=False)
    assert answer.returncode != 0

    pid = int(answer.stdout)
    assert ProcessId(pid, process.began(pid) or "has ended").wait(30)


def test_a_taken_port_is_told_in_one_line(tmp_path):
    """A port that another program listens on is named, before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"^port {port} on 127.0.0.1 is taken by another program$") as told:
            LocalBroker.start(tmp_path, port=port)

    assert "--port" in told.value.hint
    assert read_state(tmp_path) is None


def test_a_port_that_is_taken_between_choosing_and_listening_is_chosen_anew(tmp_path, monkeypatch):
    """Several that start at the same moment may choose the same one: nobody has to start it again by hand."""
    free_port = ports.free_port
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = [other.getsockname()[1]]
        monkeypatch.setattr(ports, "free_port", lambda **more: taken.pop() if taken else free_port(**more))
        running = LocalBroker.start(tmp_path)
    try:
        assert not taken
        assert running.is_ready()
    finally:
        running.stop()


def test_a_refused_setting_is_told_with_kafkas_reason(tmp_path):
    """A Kafka setting with a bad value ends the start with Kafka's own words."""
    with pytest.raises(ConfigError, match=r"(?s)num\.io\.threads.*\S") as told:
        LocalBroker.start(tmp_path, settings={"num.io.threads": "0"})

    assert "\n" not in told.value.message
    assert LocalBroker.find(tmp_path) is None


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path):
    """A folder below a file is the disk's refusal, with the folder's name."""
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(StorageError, match="file"):
        LocalBroker.start(tmp_path / "file" / "broker")


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="mounting a small file system needs Linux and root"
)
def test_a_full_disk_is_told_in_one_line(tmp_path):
    """Too little space is told before the broker is started."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mount.returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(StorageError, match=r"the disk is full: 1\d MiB free"):
            LocalBroker.start(folder)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_process_id_that_was_used_again_is_not_taken_for_the_broker(tmp_path, sleeper):
    """A state file from before a reboot names a foreign process: it is neither the broker nor killed."""
    stale = BrokerState(port=9, controller_port=10, process=replace(sleeper, began="at another time"))
    write_state(tmp_path, stale)

    assert LocalBroker.find(tmp_path) is None
    LocalBroker(tmp_path, stale).stop()
    assert sleeper.is_alive()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"port": "x"}', b"\xff\xfe", b'{"port": 1}'])
def test_a_damaged_state_file_is_as_good_as_none(tmp_path, content):
    """A state file that was cut off by a power failure does not stop a start."""
    (tmp_path / STATE_FILE).write_bytes(content)

    assert read_state(tmp_path) is None
    assert LocalBroker.find(tmp_path) is None


def test_a_child_that_ended_is_not_alive_even_before_it_is_waited_for(sleeper):
    """A zombie counts as ended."""
    sleeper.kill()

    assert sleeper.wait(10)
    assert not sleeper.is_alive()


def test_a_changed_jar_in_the_cache_is_noticed(tmp_path, small_jar):
    """A jar with one flipped bit is refused by name, and the hint says which file to delete."""
    jar, content = small_jar
    path = tmp_path / f"kafka-{parts.KAFKA_VERSION}" / jar.file_name
    path.parent.mkdir()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    with pytest.raises(IntegrityError, match=jar.coordinate) as told:
        parts.ensure_parts(tmp_path, jars=(jar,))

    assert str(path) in told.value.hint


def test_with_everything_in_the_cache_no_network_is_used(monkeypatch):
    """A second use asks no server and takes well below a second."""
    ready = parts.ensure_parts()
    with maven_mirror(b"") as (url, asked):
        monkeypatch.setenv("OPENMSISTREAM_MAVEN_URL", url)
        begin = time.monotonic()
        assert parts.ensure_parts() == ready
        assert time.monotonic() - begin < 1

    assert not asked


def test_without_a_network_the_error_says_what_was_to_be_fetched(tmp_path, monkeypatch, small_jar):
    """A jar that cannot be fetched is named in one line, with a way out."""
    jar, _ = small_jar
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("OPENMSISTREAM_MAVEN_URL", f"http://127.0.0.1:{port}")

    with pytest.raises(UnavailableError, match=f"cannot fetch {jar.coordinate} from .*refused") as told:
        parts.ensure_parts(tmp_path, jars=(jar,))

    assert "\n" not in told.value.message
    assert "copy" in told.value.hint


def test_a_server_that_sends_other_bytes_is_refused(tmp_path, monkeypatch, small_jar):
    """What a mirror or a proxy changed never gets into the cache folder."""
    jar, _ = small_jar
    with maven_mirror(b"<html>please log in</html>") as (url, _asked):
        monkeypatch.setenv("OPENMSISTREAM_MAVEN_URL", url)
        with pytest.raises(IntegrityError, match=jar.coordinate):
            parts.ensure_parts(tmp_path, jars=(jar,))

    assert list(tmp_path.rglob("*.jar")) == []


def test_a_fetch_that_was_cut_off_is_made_good_by_the_next(tmp_path, monkeypatch, small_jar):
    """Half a jar, left by a broken connection, is fetched anew and not trusted."""
    jar, content = small_jar
    with maven_mirror(content[:100], announced=len(content)) as (url, _asked):
        monkeypatch.setenv("OPENMSISTREAM_MAVEN_URL", url)
        with pytest.raises((UnavailableError, IntegrityError), match=jar.coordinate):
            parts.ensure_parts(tmp_path, jars=(jar,))
    with maven_mirror(content) as (url, _asked):
        monkeypatch.setenv("OPENMSISTREAM_MAVEN_URL", url)

        ready = parts.ensure_parts(tmp_path, jars=(jar,))

    assert [path.read_bytes() for path in ready.jars] == [content]


def test_two_programs_that_fetch_at_once_fetch_once(tmp_path, small_jar):
    """The second program waits for the first one's fetch and uses it."""
    jar, content = small_jar
    code = (
        "import sys, pathlib; from openmsistream.local import parts;"
        f"parts.ensure_parts(pathlib.Path(sys.argv[1]), jars=(parts.Jar({jar.coordinate!r}, {jar.sha256!r}),))"
    )
    with maven_mirror(content) as (url, asked):
        both = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(tmp_path)],
                env={**os.environ, "OPENMSISTREAM_MAVEN_URL": url},
            )
            for _ in range(2)
        ]
        assert [one.wait(60) for one in both] == [0, 0]

    assert [count for path, count in asked.items() if path.endswith(".jar")] == [1]


def test_parts_are_found_with_an_empty_home(tmp_path):
    """A service account without a home folder can use a cache folder that it is given."""
    cache = parts.cache_folder()
    home = tmp_path / "home"
    home.mkdir()

    subprocess.run(
        [sys.executable, "-c", "from openmsistream.local.parts import ensure_parts; ensure_parts()"],
        env={**os.environ, "HOME": str(home), "OPENMSISTREAM_CACHE_DIR": str(cache)},
        check=True,
    )

    assert list(home.iterdir()) == []


def test_the_list_of_jars_pins_the_kafka_version():
    """Every line of the list has a full hash, and Kafka's own jars are of the version we name."""
    jars = parts.read_lock()

    assert all(len(bytes.fromhex(jar.sha256)) == 32 for jar in jars)
    assert set(parts.ROOTS) <= {jar.coordinate for jar in jars}
    versions = {jar.coordinate.split(":")[2] for jar in jars if jar.coordinate.startswith("org.apache.kafka:")}
    assert versions == {parts.KAFKA_VERSION}


def test_a_copied_cache_folder_works_elsewhere(tmp_path, small_jar, monkeypatch):
    """A computer without a network uses a cache folder copied from another one."""
    jar, _ = small_jar
    name = f"kafka-{parts.KAFKA_VERSION}"
    (tmp_path / name).mkdir()
    shutil.copy(parts.cache_folder() / name / jar.file_name, tmp_path / name)
    monkeypatch.setenv("OPENMSISTREAM_MAVEN_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("OPENMSISTREAM_CACHE_DIR", str(tmp_path))

    assert parts.ensure_parts(jars=(jar,)).jars == (Path(tmp_path) / name / jar.file_name,)
