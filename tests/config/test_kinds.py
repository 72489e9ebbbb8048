"""What the kinds of option values take, and how they show what they took."""

from __future__ import annotations

import pytest

from openmsistream.config.kinds import Duration, Kind, Marker, Patterns, Rate, Share

DAY = Duration(86_400)


@pytest.mark.parametrize(
    ("kind", "text", "meaning"),
    [
        (Patterns(), "*.h5", ("*.h5",)),
        (Patterns(), " *.h5 ,raw/** \n!test*, ", ("*.h5", "raw/**", "!test*")),
        (Patterns(), ["a*", "b*,c*"], ("a*", "b*", "c*")),
        (Patterns(of_names=True), "*.tmp, ~*, scan[0-9].dat", ("*.tmp", "~*", "scan[0-9].dat")),
        (Rate(), "20MB/s", 20e6),
        (Rate(), "512 KiB/s", 524_288),
        (Rate(), "1.5 mbps", 1.5e6),
        (Rate(), 2_000_000, 2e6),
        (Share(), "1/2", (1, 2)),
        (Share(), (3, 3), (3, 3)),
        (DAY, "30", 30),
        (DAY, "1.5s", 1.5),
        (DAY, "10 min", 600),
        (DAY, "2H", 7200),
        (DAY, "1d", 86_400),
        (DAY, 0, 0),
        (DAY, "none", 0),
        (DAY, "Never", 0),
        (Marker(), "{name}.done", "{name}.done"),
        (Marker(), " READY ", "READY"),
        (Marker(), "ok_{stem}_{name}", "ok_{stem}_{name}"),
    ],
)
def test_what_people_write_is_understood(kind: Kind, text: object, meaning: object):
    """And what is shown of it can be written again."""
    assert kind.accept(text) == meaning
    assert kind.accept(kind.show(meaning)) == meaning


@pytest.mark.parametrize(
    ("kind", "text", "problem"),
    [
        (Patterns(), "", "is not a list of patterns"),
        (Patterns(), " , ", "is not a list of patterns"),
        (Patterns(), 5, "is not a list of patterns"),
        (Patterns(), "a\0b", "is not a list of patterns"),
        (Patterns(), "*.h5, ../x", "pattern '../x': one of its parts is empty, '.' or '..'"),
        (Patterns(), r"raw\scan", "a backslash does not separate folders here"),
        (Patterns(of_names=True), "*.tmp, raw/*.part", "'raw/.*' begins with ! or holds a /"),
        (Patterns(of_names=True), "!x", "'!x' begins with !"),
        (Rate(), "20", "is not a rate of at least 1 kB/s"),
        (Rate(), "0.5 kB/s", "is not a rate"),
        (Rate(), "20 Mbit/s", "is not a rate"),
        (Rate(), "-1MB/s", "is not a rate"),
        (Share(), "0/2", "is not a part of a whole"),
        (Share(), "3/2", "is not a part of a whole"),
        (Share(), "1", "is not a part of a whole"),
        (DAY, "2d", r"is not a time such as 30s, 10m or 2h \(up to 1d\), or none"),
        (DAY, "-5", "is not a time"),
        (DAY, "nan", "is not a time"),
        (DAY, "5 weeks", "is not a time"),
        (DAY, "", "is not a time"),
        (Marker(), "", "is not the name of a marker file"),
        (Marker(), "{name}", "is not the name of a marker file"),
        (Marker(), "{stem}", "is not the name of a marker file"),
        (Marker(), "{date}.done", "is not the name of a marker file"),
        (Marker(), "done/{name}", "is not the name of a marker file"),
    ],
)
def test_what_is_no_such_value_is_refused_with_an_example(kind: Kind, text: object, problem: str):
    """The error says what it is not; the caller puts the value in front."""
    with pytest.raises(ValueError, match=problem):
        kind.accept(text)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(3600.0, "1h"), (600, "10m"), (90, "90s"), (1.5, "1.5s"), (604_800, "7d"), (0, "none")]
)
def test_a_time_is_shown_in_its_largest_unit(seconds: float, shown: str):
    """As a person would write it."""
    assert Duration(604_800).show(seconds) == shown
