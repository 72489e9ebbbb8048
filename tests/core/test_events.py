"""Promises of events: plain values that every consumer of ``--json`` can read."""

from __future__ import annotations

import json

from openmsistream.core import events
from openmsistream.core.events import BrokerBack, Event, FileSent, Note


def test_an_event_is_json_with_its_name_first_in_snake_case():
    """The name is the class's."""
    values = FileSent("run/a.csv", 10, 0.5).as_dict()

    assert json.dumps(values) == '{"event": "file_sent", "path": "run/a.csv", "size": 10, "seconds": 0.5}'
    assert BrokerBack().as_dict() == {"event": "broker_back"}


def test_a_name_that_is_not_unicode_is_escaped():
    """Bytes that were no UTF-8 on the disk break no terminal and no JSON reader."""
    path = b"caf\xe9".decode("utf-8", "surrogateescape")

    assert json.dumps(FileSent(path, 1, 1.0).as_dict()["path"]) == '"caf\\\\udce9"'


def test_every_event_has_a_name_of_its_own_and_is_a_value():
    """Equal contents are equal events, which cannot be changed."""
    kinds = [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)]
    names = {kind.__name__ for kind in kinds}

    assert len(names) == len(kinds) >= 15
    assert Note("a", "b") == Note("a", "b")
    assert hash(Note("a")) == hash(Note("a"))
