"""Noticing that a topic was deleted and made again while it is read.

librdkafka reads on at the same offset of the new topic as if nothing had happened (checked with 2.16 and Kafka 4.1),
which leaves out what stands before it. Only the topic's id tells. Knows nothing of what is read.
"""

from __future__ import annotations

import time
from concurrent.futures import Future

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, TopicDescription  # type: ignore[attr-defined]

from openmsistream.adapters.kafka.client import TopicInfo, make
from openmsistream.config.ini import Settings

LOOK_SECONDS = 10.0
ANSWER_SECONDS = 5.0


class Identity:
    """
    Whether a topic is still the one it was.

    Args:
        settings: librdkafka's.
        topic: What ``describe_topic`` told.

    Attributes:
        changed: True once another topic of that name was found.
    """

    def __init__(self, settings: Settings, topic: TopicInfo) -> None:
        self._settings, self._topic = settings, topic
        self._admin: AdminClient | None = None
        self._answer: Future[TopicDescription] | None = None
        self._next = time.monotonic() + LOOK_SECONDS
        # Brokers before 2.8 have no ids, and the name stands in.
        self._told = topic.topic_id != topic.name
        self._asked = self.changed = False

    def look(self) -> None:
        """Ask when it is time to, and take the answer once it is there; never waits."""
        if self._answer is not None:
            if self._answer.done():
                self._take(self._answer)
                self._answer = None
        elif self._told and time.monotonic() >= self._next:
            self._next = time.monotonic() + LOOK_SECONDS
            self._answer = self._ask()

    def look_now(self) -> bool:
        """Ask and wait for the answer, some seconds at most; true when it is another topic."""
        if self._told and self._asked:  # who was just made knows a topic that was described just before
            self._take(self._ask())
        self._asked = True
        return self.changed

    def _ask(self) -> Future[TopicDescription]:
        if self._admin is None:
            self._admin = make(AdminClient, self._settings, {})
        futures = self._admin.describe_topics(TopicCollection([self._topic.name]), request_timeout=ANSWER_SECONDS)
        return futures[self._topic.name]

    def _take(self, answer: Future[TopicDescription]) -> None:
        try:
            found = str(answer.result(ANSWER_SECONDS).topic_id)
        except (KafkaException, TimeoutError):
            return  # away, or deleted and not made again yet
        self.changed = self.changed or found != self._topic.topic_id
