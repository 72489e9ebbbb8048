"""``openmsistream local start --s3``, ``stop`` and ``status``, as a user types them."""

from __future__ import annotations

import configparser
import contextlib
import json
import shlex
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from openmsistream.local import process
from openmsistream.local.broker import LocalBroker
from openmsistream.local.buckets import Access, s3_client
from openmsistream.local.place import store_folder
from openmsistream.local.store import LocalStore

pytestmark = [pytest.mark.broker, pytest.mark.store]


def openmsistream(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "openmsistream", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder for what the commands start; what runs there is stopped at the end."""
    folder = tmp_path / "my broker"
    try:
        yield folder
    finally:
        for left in (LocalStore.find(store_folder(folder)), LocalBroker.find(folder)):
            if left is not None:
                left.stop()


def copied(text: str) -> dict[str, str]:
    """The variables that a shell would set from the lines that begin with ``export`` or ``set``."""
    words = [shlex.split(line) for line in text.splitlines() if line.strip().startswith(("export ", "set "))]
    return dict(word.split("=", 1) for _command, word in words)


def test_a_store_runs_beside_the_broker_until_both_are_stopped(place):
    """start --s3 prints what to copy, status shows both with their content, stop ends both, data is kept."""
    began = openmsistream("local", "start", "--folder", place, "--port", "0", "--s3", "--bucket", "scans", "other")
    assert began.returncode == 0, began.stderr
    variables = copied(began.stdout)
    access = Access(*(variables[name] for name in ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_KEY_ID", "REGION")))
    with contextlib.closing(s3_client(access)) as client:
        client.put_object(Bucket="scans", Key="a", Body=b"x" * 1000)
        client.create_multipart_upload(Bucket="scans", Key="b")

    pasted = [shlex.split(line)[1:] for line in began.stdout.splitlines() if "openmsistream " in line]
    assert ["s3", "other", "--config", str(place / "local.config"), "--topic-name", "files"] in pasted
    config = configparser.ConfigParser()
    config.read(place / "local.config", encoding="utf-8")
    assert dict(config["s3"]) == {
        "endpoint_url": access.endpoint,
        "access_key_id": access.access_key,
        "secret_key_id": access.secret_key,
        "region": access.region,
    }
    if sys.platform != "win32":
        assert stat.S_IMODE((place / "local.config").stat().st_mode) == 0o600

    shown = openmsistream("local", "status", "--folder", place)
    assert shown.returncode == 0, shown.stderr
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert ["files", "1", "0", "0", "bytes"] in lines
    assert ["scans", "1", "1", "1.0", "kB"] in lines
    assert ["other", "0", "0", "0", "bytes"] in lines

    values = json.loads(openmsistream("local", "status", "--folder", place, "--json").stdout)
    assert values["store"]["environment"] == variables
    assert [one["name"] for one in values["store"]["buckets"]] == ["other", "scans"]

    ended = openmsistream("local", "stop", "--folder", place)
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == 2
    assert process.began(values["pid"]) is None
    assert process.began(values["store"]["pid"]) is None

    # A second bucket is not made when there are some, and keys and address are those of before.
    again = openmsistream("local", "start", "--folder", place, "--s3")
    assert again.returncode == 0, again.stderr
    assert copied(again.stdout) == variables
    with contextlib.closing(s3_client(access)) as client:
        assert client.get_object(Bucket="scans", Key="a")["Body"].read() == b"x" * 1000
        assert [one["Name"] for one in client.list_buckets()["Buckets"]] == ["other", "scans"]


def test_a_store_can_be_started_later_and_a_dead_one_is_told(place):
    """A broker that runs gets a store beside it; when that is frozen or killed, status says so and ends with 1."""
    assert openmsistream("local", "start", "--folder", place, "--port", "0").returncode == 0
    broker = LocalBroker.find(place)
    assert broker is not None
    assert "object store" not in openmsistream("local", "status", "--folder", place).stdout.lower()

    added = openmsistream("local", "start", "--folder", place, "--s3", "--s3-port", "0")
    assert added.returncode == 0, added.stderr
    assert f"(process {broker.pid})" in added.stdout
    assert "  bucket  files" in added.stdout.splitlines()
    twice = openmsistream("local", "start", "--folder", place, "--s3")
    assert twice.returncode == 1
    assert "already runs" in twice.stderr

    store = LocalStore.find(store_folder(place))
    assert store is not None
    if sys.platform != "win32":  # which cannot freeze a process
        store.freeze()
        frozen = openmsistream("local", "status", "--folder", place)
        assert frozen.returncode == 1
        assert "It does not answer" in frozen.stdout
    store.kill()
    status = openmsistream("local", "status", "--folder", place)
    assert status.returncode == 1
    assert "Object store: not running: its process" in status.stdout
    assert openmsistream("local", "start", "--folder", place, "--s3").returncode == 0
    assert openmsistream("local", "status", "--folder", place).returncode == 0

    assert openmsistream("local", "stop", "--folder", place).returncode == 0
    stopped = openmsistream("local", "status", "--folder", place)
    assert "Object store: not running: it was stopped" in stopped.stdout


def test_a_store_that_cannot_start_leaves_nothing_running(place):
    """A taken port is two lines and exit code 1, and no broker is started."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        answer = openmsistream("local", "start", "--folder", place, "--port", "0", "--s3-port", str(port))

    assert answer.returncode == 1
    assert answer.stderr.splitlines()[-2] == f"Error: port {port} on 127.0.0.1 is taken by another program"
    assert answer.stderr.splitlines()[-1].startswith("Try:   ")
    assert LocalBroker.find(place) is None
    assert LocalStore.find(store_folder(place)) is None


def test_a_broker_that_cannot_start_leaves_no_store_running(place):
    """When the broker's port is taken, the store that was started before it ends again."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        answer = openmsistream("local", "start", "--folder", place, "--port", str(port), "--s3", "--s3-port", "0")

    assert answer.returncode == 1
    assert f"Error: port {port} on 127.0.0.1 is taken by another program" in answer.stderr
    assert LocalStore.find(store_folder(place)) is None


def test_a_bad_bucket_name_leaves_nothing_running(place):
    """A name that S3 refuses is told, and nothing is started."""
    answer = openmsistream("local", "start", "--folder", place, "--port", "0", "--bucket", "My_Files")

    assert answer.returncode == 1
    assert "'My_Files' cannot be the name of a bucket" in answer.stderr
    assert LocalBroker.find(place) is None
    assert LocalStore.find(store_folder(place)) is None
