"""What a broker answers that is neither a record nor silence: a member that is dead, a topic whose id is not told."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from openmsistream.adapters.kafka import client
from openmsistream.config.ini import Settings
from openmsistream.errors import UnavailableError
from openmsistream.local.broker import LocalBroker
from tests.conftest import MakeTopic
from tests.faults.support import Place, fill, program


def answering(error: int) -> Any:
    """``AdminClient.describe_topics`` as a broker answers it with an error."""

    def describe_topics(_: object, topics: Any, **__: object) -> dict[str, Future[object]]:
        answer: Future[object] = Future()
        answer.set_exception(KafkaException(KafkaError(error)))
        return {"t": answer}

    return describe_topics


def settings(broker: LocalBroker) -> Settings:
    return Settings({"bootstrap.servers": broker.bootstrap})


@pytest.mark.parametrize("error", [KafkaError._TIMED_OUT, KafkaError.UNKNOWN_TOPIC_OR_PART])
def test_a_topic_whose_id_is_not_told_now_is_asked_for_again(
    broker: LocalBroker, topic: MakeTopic, monkeypatch: pytest.MonkeyPatch, error: int
):
    """By another identity it would be another topic, and what is here of its files would be removed."""
    name = topic()
    answer = answering(error)
    monkeypatch.setattr(client.AdminClient, "describe_topics", lambda *a, **k: {name: answer(*a, **k)["t"]})
    with pytest.raises(UnavailableError, match="does not say its id"):
        client.describe_topic(settings(broker), name)


def test_a_topic_whose_id_this_user_may_not_see_goes_by_its_name(
    broker: LocalBroker, topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
):
    """As with brokers that have none."""
    name = topic()
    answer = answering(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    monkeypatch.setattr(client.AdminClient, "describe_topics", lambda *a, **k: {name: answer(*a, **k)["t"]})
    assert client.describe_topic(settings(broker), name).topic_id == name


def test_a_member_that_the_broker_takes_no_more_ends_and_says_why(place: Place):
    """Two programs with one group.instance.id: the first is shut out, and must not sit there as if nothing came."""
    place.configure(consumer="group.id = g\ngroup.instance.id = one\n")
    fill(place.watched, {"a": 10})
    with place.download() as first:
        place.send("--upload-existing")
        first.until_event("file_delivered")
        second = place.base / "second"
        with program("download", second, "--config", place.config, "--topic-name", place.topic) as other:
            other.until_event("program_started")
            assert first.wait() == 1
            assert other.running
            other.quit()
    assert "takes this consumer no more" in first.stderr
    assert "group.instance.id" in first.stderr
