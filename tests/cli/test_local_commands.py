"""``openmsistream local start``, ``stop`` and ``status``, as a user types them."""

from __future__ import annotations

import configparser
import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from openmsistream.local import process
from openmsistream.local.broker import LocalBroker


def openmsistream(*words: str | Path, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    if folder is not None:
        environment["OPENMSISTREAM_LOCAL_DIR"] = str(folder)
    return subprocess.run(
        [sys.executable, "-m", "openmsistream", *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for a broker that the commands start; what runs there is stopped at the end."""
    place = tmp_path / "my broker"
    try:
        yield place
    finally:
        left = LocalBroker.find(place)
        if left is not None:
            left.stop()


@pytest.mark.broker
def test_a_broker_outlives_start_keeps_its_data_and_is_stopped_by_stop(folder):
    """start leaves a broker running with the topics asked for; stop ends it; the next start has them again."""
    began = openmsistream("local", "start", "--topic", "xrd", "sem", "--partitions", "3", folder=folder)
    assert began.returncode == 0, began.stderr
    first = json.loads(openmsistream("local", "status", "--json", folder=folder).stdout)
    assert first["running"]
    assert first["answers"]
    assert f"runs at {first['bootstrap']} (process {first['pid']})" in began.stdout
    assert [(one["name"], one["partitions"]) for one in first["topics"]] == [("sem", 3), ("xrd", 3)]

    ended = openmsistream("local", "stop", folder=folder)
    assert ended.returncode == 0, ended.stderr
    assert process.began(first["pid"]) is None

    again = openmsistream("local", "start", folder=folder)
    assert again.returncode == 0, again.stderr
    second = json.loads(openmsistream("local", "status", "--json", folder=folder).stdout)
    assert second["bootstrap"] == first["bootstrap"]
    assert second["topics"] == first["topics"]


@pytest.mark.broker
def test_start_writes_a_config_file_and_commands_that_can_be_pasted(folder):
    """The next steps name the written config file and a topic that exists, quoted for the shell."""
    began = openmsistream("local", "start", "--folder", folder, "--port", "0")
    assert began.returncode == 0, began.stderr

    config = folder / "local.config"
    parser = configparser.ConfigParser()
    parser.read(config, encoding="utf-8")
    broker = LocalBroker.find(folder)
    assert broker is not None
    assert parser["broker"]["bootstrap.servers"] == broker.bootstrap
    assert parser["consumer"]["auto.offset.reset"] == "earliest"
    pasted = [shlex.split(line) for line in began.stdout.splitlines() if "openmsistream " in line]
    ends = ["--config", str(config), "--topic-name", "files"]
    program = pasted[0][0]
    assert subprocess.run([program, "--version"], check=True, capture_output=True).stdout.startswith(b"openmsistream 2")
    assert pasted == [
        [program, "watch", "my_data", *ends],
        [program, "download", "received", *ends],
        [program, "local", "status", "--folder", str(folder)],
        [program, "local", "stop", "--folder", str(folder)],
    ]
    shown = openmsistream("local", "status", "--folder", folder)
    assert shown.returncode == 0
    assert f"Running at {broker.bootstrap}" in shown.stdout
    assert ["files", "1", "0", "0", "bytes"] in [line.split() for line in shown.stdout.splitlines()]

    twice = openmsistream("local", "start", "--folder", folder)
    assert twice.returncode == 1
    assert twice.stderr.splitlines()[0] == (
        f"Error: a broker already runs on {folder}: address {broker.bootstrap}, process {broker.pid}"
    )

    # With a topic named, the broker that runs makes it.
    more = openmsistream("local", "start", "--folder", folder, "--topic", "later")
    assert more.returncode == 0, more.stderr
    assert LocalBroker.find(folder) is not None
    assert [program, "download", "received", "--config", str(config), "--topic-name", "later"] in [
        shlex.split(line) for line in more.stdout.splitlines() if "openmsistream " in line
    ]


def test_status_and_stop_without_a_broker_say_so(folder):
    """Where nothing runs, status ends with 1 and stop with 0, and both name the folder."""
    status = openmsistream("local", "status", folder=folder)
    as_json = openmsistream("local", "status", "--json", folder=folder)
    stop = openmsistream("local", "stop", folder=folder)

    assert (status.returncode, as_json.returncode, stop.returncode) == (1, 1, 0)
    assert "Not running: it was never started here" in status.stdout
    assert str(folder) in status.stdout
    assert json.loads(as_json.stdout)["running"] is False
    assert stop.stdout == f"No broker runs on {folder}.\n"
    assert not folder.exists()


def test_a_taken_port_is_two_lines_and_exit_code_1(folder):
    """The user reads what is wrong and what to try, and no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        answer = openmsistream("local", "start", "--port", str(port), folder=folder)

    assert answer.returncode == 1
    lines = answer.stderr.splitlines()
    assert lines[0] == f"Error: port {port} on 127.0.0.1 is taken by another program"
    assert lines[1].startswith("Try:   ")
    assert len(lines) == 2


@pytest.mark.parametrize("command", ["start", "stop", "status"])
def test_help_carries_numbered_examples(command):
    """Each command's help has examples that can be pasted."""
    answer = openmsistream("local", command, "--help")

    assert answer.returncode == 0
    assert "  1. " in answer.stdout
    assert f"     openmsistream local {command}" in answer.stdout
