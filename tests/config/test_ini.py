"""What a config file may look like, and what is said when it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmsistream.config.ini import read_ini
from openmsistream.errors import ConfigError

from .conftest import Write

BROKER = "[broker]\nbootstrap.servers = localhost:9092\n"


def test_a_file_of_1x_reads_the_same(config: Write):
    """Comments, both delimiters, capitals, indented lines, blank lines and %% mean what they meant."""
    read = config(
        "# test cluster\n[broker]\nBootstrap.Servers: one:9092,\n   two:9092\n\n; old\n"
        "sasl.password = 50%%off\nclient.id = a = b\n"
    )

    assert dict(read.broker) == {
        "bootstrap.servers": "one:9092,\ntwo:9092",
        "sasl.password": "50%off",
        "client.id": "a = b",
    }


@pytest.mark.parametrize("ends", ["\r\n", "\r", "\n"])
def test_a_file_saved_by_notepad_is_read(config: Write, ends: str):
    """A byte order mark and the line ends of any system are accepted."""
    text = "\ufeff[broker]\nclient.id = Röntgen\n".replace("\n", ends)

    assert config(text).broker["client.id"] == "Röntgen"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("$HOST", "kafka"),
        ("${HOST}", "kafka"),
        ("$HOST:$PORT", "kafka:9092"),
        ("$HOST/${PORT}x", "kafka/9092x"),
        ("x$HOST", "x$HOST"),
        ("$ODD", "100% $HOST"),
    ],
)
def test_a_value_beginning_with_a_dollar_sign_comes_from_the_environment(config: Write, value: str, expected: str):
    """Anywhere else $ stands for itself, and what a variable holds is not expanded again."""
    read = config(f"[broker]\nclient.id = {value}\n", HOST="kafka", PORT="9092", ODD="100% $HOST")

    assert read.broker["client.id"] == expected


def test_percent_references_take_another_key_of_the_section(config: Write):
    """Configparser's own %(key)s works, also when that key comes from the environment."""
    read = config("[DEFAULT]\nlab = $LAB\n[s3]\nregion = %(lab)s-north\n", LAB="jhu")

    assert dict(read.s3) == {"region": "jhu-north"}


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            "[broker]\nclient.id = $LAB_ID\n",
            "client.id (line 2): environment variable LAB_ID is not set",
            "export LAB_ID=...",
        ),
        ("[broker]\nclient.id = $A/$B\n", "environment variable B is not set", "export B=..."),
        ("[broker]\nclient.id = $ 5\n", "client.id (line 2): the value begins with $ but names no", "$NAME"),
        (
            "[broker]\n\nsasl.username = 50%off\n",
            "sasl.username (line 3): the value contains a lone %",
            "write %%",
        ),
        ("[broker]\nx = %(nowhere)s\n", "x (line 2): %(nowhere)s refers to a key that is not", "%%"),
        ("[broker]\nx = %(x)s\n", "x (line 2): the value refers to itself", "%%"),
    ],
)
def test_a_value_that_cannot_be_expanded_is_named(config: Write, text: str, message: str, hint: str):
    """The error names file, section, key and line, and says what to write."""
    read = config(text, A="1")

    with pytest.raises(ConfigError) as caught:
        _ = read.broker

    assert caught.value.message.startswith(f"{read.path} [broker] ")
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BROKER + "x = 1\nX : 2\n", " [broker] x (line 4): the key is already given in line 3"),
        (BROKER + "\n[broker]\n", " line 4: section [broker] is already given in line 1"),
        ("\n# x\nbootstrap.servers = a\n[broker]\n", " line 3: stands before the first [section]"),
        (BROKER + "what is this\n", " line 3: neither a [section], a key = value line nor a comment"),
        (BROKER + "= 5\n", " line 3: neither a [section], a key = value line nor a comment"),
        (BROKER.encode() + b"client.id = R\xf6ntgen\n", " line 3: not UTF-8 text (byte 0xf6)"),
        (BROKER.encode("utf-16"), " line 1: not UTF-8 text (byte 0xff)"),
    ],
)
def test_a_file_that_is_no_ini_file_is_refused_with_the_line(config: Write, text: str | bytes, message: str):
    """Each mistake names file and line, and says what to do."""
    with pytest.raises(ConfigError) as caught:
        config(text)

    assert caught.value.message.endswith("xrd.config" + message)
    assert caught.value.hint


def test_every_key_is_found_in_its_line(config: Write):
    """Indented lines, comments and blank lines do not shift the line that an error names."""
    text = "# top\n[broker]\na = 1\n   more = 2\n\n   ; no\n   and: more\nb: 2\n[DEFAULT]\nd=4\n"
    text += "[producer]\n c = 3\n"
    read = config(text)

    places = [read.origin("broker", key) for key in read.broker]
    assert [place.partition("xrd.config ")[2] for place in places] == [
        "[broker] a (line 3)",
        "[broker] b (line 8)",
        "[DEFAULT] d (line 10)",
    ]
    assert read.origin("producer", "c").endswith("[producer] c (line 12)")


LINES = st.sampled_from(
    [
        "[a]",
        "[b]",
        " [c]",
        "x = 1",
        "y: 2",
        "  z = 3",
        "\tw : 4",
        "# x = 1",
        "  ; y = 2",
        "",
        "   ",
        "q=[b]",
        "v =",
    ]
)


@settings(max_examples=200)
@given(lines=st.lists(LINES, max_size=12))
def test_the_line_of_a_key_is_the_one_that_configparser_took(tmp_path_factory, lines: list[str]):
    """However a file is indented: what counts as a key, a comment or the rest of a value is not up to us."""
    path: Path = tmp_path_factory.mktemp("ini") / "any.config"
    path.write_text("\n".join(lines))
    try:
        ini = read_ini(path, {})
    except ConfigError:
        return  # two of a kind, or a key before the first section

    for section in ini.names():
        for key in ini.section(section, own=True):
            place = ini.place(section, key) or ""
            line = int(place.rpartition("line ")[2].rstrip(")"))
            assert lines[line - 1].strip().startswith(key)
        assert dict(ini.section(section, own=True)) == dict(ini.section(section))
