"""What every program does before it runs: read its config, reach the broker.

Knows config, adapters and the environment. Where ledgers stand is chosen by ``ledgers``, and found here too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread

from openmsistream.adapters.kafka.client import TopicInfo, describe_topic
from openmsistream.config.ini import Settings
from openmsistream.config.models import ProgramConfig, default_search, load
from openmsistream.core.events import BrokerBack, BrokerUnavailable
from openmsistream.errors import ConfigError, UnavailableError
from openmsistream.pipeline.runner import Control
from openmsistream.ports import Events
from openmsistream.programs.ledgers import ledger_file, state_folder

__all__ = ["ledger_file", "load_config", "random_bytes", "reach", "state_folder"]

PATIENCE_SECONDS = 30.0
"""How long a program that is to end by itself waits for a broker that does not answer."""
ASK_SECONDS = 5.0
TURN_SECONDS, STOP_TURNS = 0.1, 10
"""A program that was asked to stop gives the broker one more second."""


def load_config(name: str) -> ProgramConfig:
    """
    The config file of that name or path, found as docs/config.md says.

    Raises:
        ConfigError: It is not there, or wrong; or it asks for encryption, which this version cannot do yet.
    """
    env = dict(os.environ)
    config = load(name, env=env, search=default_search(env))
    if config.kafkacrypto is not None:
        raise ConfigError(
            f"{config.path} [kafkacrypto]: this version cannot encrypt or decrypt yet",
            hint="remove the section to work without encryption, or use OpenMSIStream 1.8 for this topic",
        )
    return config


def reach(
    settings: Settings, topic: str, events: Events, control: Control, patience_seconds: float | None
) -> TopicInfo:
    """
    What the topic is, once the broker answers.

    Args:
        settings: librdkafka's.
        topic: Its name.
        events: Told once when the broker does not answer, and when it does then.
        control: A request to stop ends the waiting.
        patience_seconds: How long to wait; None: until it answers.

    Raises:
        ConfigError: There is no such topic, or it is compacted.
        UnavailableError: The broker did not answer in time, or the program was asked to stop.
    """
    told = False
    give_up = None if patience_seconds is None else time.monotonic() + patience_seconds
    while True:
        try:
            found = _ask(settings, topic, control)
        except UnavailableError as error:
            if control.stopping:
                raise _stopped(settings) from error
            if give_up is not None and time.monotonic() >= give_up:
                raise
            if not told:
                events(BrokerUnavailable(error.message))
                told = True
            continue
        if told:
            events(BrokerBack())
        return found


def _ask(settings: Settings, topic: str, control: Control) -> TopicInfo:
    """``describe_topic`` on a thread of its own: librdkafka's calls hear neither a signal nor a request to stop."""
    answer: SimpleQueue[TopicInfo | Exception] = SimpleQueue()

    def ask() -> None:
        try:
            answer.put(describe_topic(settings, topic, ASK_SECONDS))
        except Exception as error:
            answer.put(error)

    Thread(target=ask, name="ask", daemon=True).start()
    turns_left = STOP_TURNS
    while turns_left:
        try:
            found = answer.get(timeout=TURN_SECONDS)
        except Empty:
            turns_left -= control.stopping
            continue
        if isinstance(found, Exception):
            raise found
        return found
    raise _stopped(settings)


def _stopped(settings: Settings) -> UnavailableError:
    return UnavailableError(
        f"no Kafka broker had answered at {settings.get('bootstrap.servers', '')} when the program was asked to stop",
        hint=f"check that the broker runs, and {settings.origin('bootstrap.servers')}",
    )


def random_bytes() -> Callable[[int], bytes]:
    """The source of randomness of the programs."""
    return os.urandom
