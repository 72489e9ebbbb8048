"""What tests share: the real broker of ``openmsistream.local`` and topics of their own on it."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openmsistream.local.broker import LocalBroker
from openmsistream.local.topics import create_topic

BROKER_FIXTURES = {"broker", "topic", "own_broker"}

MakeTopic = Callable[..., str]


def pytest_configure(config: pytest.Config) -> None:
    """Programs that tests start keep their ledgers in a folder of the run, never in that of this computer."""
    folder = tempfile.mkdtemp(prefix="openmsistream-state-")
    os.environ["OPENMSISTREAM_STATE_DIR"] = folder
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that asks for a broker, so that ``-m "not broker"`` leaves them out."""
    for item in items:
        if BROKER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.broker)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    """One broker for the whole run. Leave it running: tests that stop or kill one use ``own_broker``."""
    running = LocalBroker.start(tmp_path_factory.mktemp("broker"))
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[LocalBroker]:
    """A broker for one test alone, which may stop, kill, freeze and restart it."""
    running = LocalBroker.start(tmp_path / "own broker µ")
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def topic(broker: LocalBroker, request: pytest.FixtureRequest) -> MakeTopic:
    """Make topics on ``broker``: ``topic(partitions=3, cleanup_policy="compact")`` returns a unique name."""

    def make_topic(partitions: int = 1, **config: object) -> str:
        test = re.sub(r"[^A-Za-z0-9]+", "-", request.node.name)[:60].strip("-")
        name = f"{test}-{uuid.uuid4().hex[:8]}"
        settings = {key.replace("_", "."): str(value) for key, value in config.items()}
        assert create_topic(broker.bootstrap, name, partitions=partitions, config=settings)
        return name

    return make_topic
