"""Which file a key stands for: every key that the template makes leads back to its path, and to no other."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmsistream.adapters.s3.keys import Keys
from openmsistream.adapters.s3.naming import Found, metadata_of
from openmsistream.core.versions import VersionKey
from openmsistream.errors import ProtocolError

REVERSIBLE = ["{topic}/{path}", "{path}", "/{topic}//{path}.bin", "{folder}/{name}", "a/{folder}/{name}", "{{x}}{path}"]
OTHERS = ["{topic}/{name}", "lab/{folder}/of {topic}/{name}", "{folder}-{name}", "{name}/{path}", "{folder}{name}"]
PATHS = st.lists(st.text("ab-/.%ü ", min_size=1, max_size=8), min_size=1, max_size=4).map("/".join)


def said(path: str) -> Found:
    """An object of ours, which says its path."""
    return Found("etag", 1, metadata_of(VersionKey(path, b"V" * 16), path, None))


@pytest.mark.parametrize("template", REVERSIBLE)
@given(path=PATHS)
def test_a_key_of_a_template_with_the_whole_path_tells_the_path(template: str, path: str):
    """Without asking the object."""
    keys = Keys(template, "xrd")
    assert keys.reversible
    with contextlib.suppress(ProtocolError):  # a path that no file can have
        key = keys.key(path)
        assert keys.path(key) == path
        assert key.startswith(keys.prefix)


@pytest.mark.parametrize("template", OTHERS)
@given(path=PATHS)
def test_where_the_key_does_not_tell_it_the_object_does(template: str, path: str):
    """And where neither does, what is taken for the path fits the key, or is the key."""
    keys = Keys(template, "xrd")
    assert not keys.reversible
    with contextlib.suppress(ProtocolError):
        key = keys.key(path)
        assert keys.path(key, said(path)) == path
        assert key.startswith(keys.prefix)
        alone = keys.path(key)
        assert alone is not None
        assert alone == key or keys.key(alone) == key


@pytest.mark.parametrize(
    ("template", "key", "path"),
    [
        ("{topic}/{path}", "other/a", None),
        ("{topic}/{path}", "xrd/", None),
        ("{topic}/{path}.bin", "xrd/a", None),
        ("a/{path}/a", "a/a", None),
        ("{topic}/{name}", "xrd/run/a", None),
        ("{topic}/{name}", "xrd/a", "a"),
        ("lab/{folder}/of {topic}/{name}", "lab/run/of xrd/a", "run/a"),
        ("lab/{folder}/of {topic}/{name}", "lab/of xrd/a", "a"),
        ("{folder}-{name}", "a-b-c", "a-b-c"),
    ],
)
def test_keys_of_others_are_read_as_far_as_they_are_clear(template: str, key: str, path: str | None):
    """None: the template makes no such key; a key for which several paths are possible stands for itself."""
    assert Keys(template, "xrd").path(key) == path


def test_what_an_object_says_of_its_path_counts_only_when_it_fits_the_key():
    """Somebody copied it to another name."""
    assert Keys("{topic}/{name}", "xrd").path("xrd/a", said("run/a")) == "run/a"
    assert Keys("{topic}/{name}", "xrd").path("xrd/b", said("run/a")) == "b"
