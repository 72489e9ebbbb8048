"""What fault tests share: a broker of their own to kill and freeze, and a place with a topic on either broker."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path

import pytest

from openmsistream.local.broker import LocalBroker
from openmsistream.local.topics import admin_client, create_topic
from tests.faults.support import Place

MakePlace = Callable[..., Place]

REMOVE_SECONDS = 30.0
"""A disk that has much to do must not fail a test that is over."""
# Else a member that is killed is missed after 45 s only, and a rebalance takes 5 s.
QUICK_GROUPS = {
    "group.min.session.timeout.ms": "1000",
    "group.initial.rebalance.delay.ms": "100",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "2000",
    "group.consumer.min.heartbeat.interval.ms": "200",
    "group.consumer.heartbeat.interval.ms": "300",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is a fault test."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.fault)
            item.add_marker(pytest.mark.broker)


@pytest.fixture(scope="session")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    """A broker that tests may freeze, kill and restart; each leaves it running."""
    running = LocalBroker.start(tmp_path_factory.mktemp("victim"))
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def quick_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    """A broker on which groups notice soon who is gone."""
    running = LocalBroker.start(tmp_path_factory.mktemp("quick"), settings=QUICK_GROUPS)
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def place(tmp_path: Path, broker: LocalBroker) -> Iterator[Place]:
    """Folders and a topic with 1 partition, on the broker that nobody harms."""
    made = _place(tmp_path, broker, 1)
    yield made
    _remove(made)


@pytest.fixture
def place3(tmp_path: Path, broker: LocalBroker) -> Iterator[Place]:
    """Folders and a topic with 3 partitions, on the broker that nobody harms."""
    made = _place(tmp_path, broker, 3)
    yield made
    _remove(made)


@pytest.fixture
def risky(tmp_path: Path, victim: LocalBroker) -> Iterator[Place]:
    """Folders and a topic with 2 partitions, on the broker that may be harmed; it runs again afterwards."""
    yield _place(tmp_path, victim, 2)
    if not victim.is_alive():
        victim.restart()
    victim.thaw()


def _place(folder: Path, broker: LocalBroker, partitions: int) -> Place:
    topic = f"fault-{uuid.uuid4().hex[:12]}"
    assert create_topic(broker.bootstrap, topic, partitions=partitions, config={"file.delete.delay.ms": "1000"})
    return Place(folder, broker.bootstrap, topic)


def _remove(place: Place) -> None:
    """Give the room on the disk back: at full scale a topic has gigabytes. A test may have removed it itself."""
    admin = admin_client(place.bootstrap)
    wait(admin.delete_topics([place.topic], request_timeout=REMOVE_SECONDS).values(), REMOVE_SECONDS)
