"""What tests share: the real broker and store of ``openmsistream.local``, with topics and buckets of their own."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openmsistream.local import buckets
from openmsistream.local.broker import LocalBroker
from openmsistream.local.store import LocalStore
from openmsistream.local.topics import create_topic
from tests.faults.support import config as config_file
from tests.faults.support import fill

BROKER_FIXTURES = {"broker", "topic", "own_broker"}
STORE_FIXTURES = {"store", "bucket", "own_store"}
SLOW = ("faults", "compat", "pipeline", "integration", "cli", "conformance")
"""Folders whose files take long, the longest first: so at the end of a run no process waits long for another."""
LONGEST = ("test_rebalance.py", "test_s3.py")
"""Files that take longest in their folder."""

MakeTopic = Callable[..., str]


def pytest_configure(config: pytest.Config) -> None:
    """Programs that tests start keep their ledgers in a folder of the run, never in that of this computer."""
    folder = tempfile.mkdtemp(prefix="openmsistream-state-")
    os.environ["OPENMSISTREAM_STATE_DIR"] = folder
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Mark every test that asks for a broker or a store, so that ``-m "not broker and not store"`` leaves them out.

    What takes long comes first.
    """
    items.sort(key=_place_in_a_run)
    for item in items:
        asked = set(getattr(item, "fixturenames", ()))
        if BROKER_FIXTURES & asked:
            item.add_marker(pytest.mark.broker)
        if STORE_FIXTURES & asked:
            item.add_marker(pytest.mark.store)


def _place_in_a_run(item: pytest.Item) -> tuple[int, bool]:
    folder = item.path.parent.name
    return SLOW.index(folder) if folder in SLOW else len(SLOW), item.path.name not in LONGEST


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


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStore]:
    """One S3 store for the whole run. Leave it running: tests that stop, freeze or kill one use ``own_store``."""
    running = LocalStore.start(tmp_path_factory.mktemp("store"))
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[LocalStore]:
    """A store for one test alone, which may stop, kill, freeze and restart it."""
    running = LocalStore.start(tmp_path / "own store µ")
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def bucket(store: LocalStore, request: pytest.FixtureRequest) -> Iterator[str]:
    """A new bucket on ``store``, which is removed with everything in it after the test."""
    test = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:50].strip("-")
    name = f"{test}-{uuid.uuid4().hex[:8]}"
    assert store.create_bucket(name)
    yield name
    with contextlib.closing(store.client()) as client:
        buckets.delete_bucket(client, name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one file."""
    fill(tmp_path / "data", {"scan.dat": 1000})
    return tmp_path / "data"


@pytest.fixture
def lab(tmp_path: Path, broker: LocalBroker) -> Path:
    """A config file for the broker."""
    return config_file(tmp_path, broker.bootstrap)


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
