"""``[s3]``: where a store is and who we are there, from a file or from the environment, never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from openmsistream.config.ini import Settings
from openmsistream.config.options_s3 import S3Options, defaults_from_file
from openmsistream.config.s3 import S3Access, s3_access
from openmsistream.errors import ConfigError

NOTHING = Settings({})


def test_what_is_not_said_is_left_to_aws_own_settings():
    """Profiles, roles, its own environment names."""
    assert s3_access(NOTHING, {}) == S3Access()
    assert S3Access().shown == "AWS S3"


def test_the_section_wins_over_the_environment_as_a_whole():
    """So that a key is never sent to a store that another place names."""
    env = {"ACCESS_KEY_ID": "A", "SECRET_KEY_ID": "B", "ENDPOINT_URL": "http://elsewhere"}
    assert s3_access(Settings({"region": "r"}), env) == S3Access(region="r")
    assert s3_access(NOTHING, env) == S3Access("http://elsewhere", "A", "B")


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("s3.example.org", "https://s3.example.org"),
        ("http://127.0.0.1:9000/", "http://127.0.0.1:9000"),
        ("https://host/gate", "https://host/gate"),
    ],
)
def test_an_address_without_a_scheme_is_https(written: str, address: str):
    """As in 1.x."""
    assert s3_access(Settings({"endpoint_url": written}), {}).endpoint == address


@pytest.mark.parametrize("written", ["ftp://host", "https://user:secret@host", "https://host/?x=1", "https://"])
def test_what_is_no_address_is_refused_without_showing_a_password(written: str):
    """With the section's place."""
    with pytest.raises(ConfigError, match="is not an address of a store") as error:
        s3_access(Settings({"endpoint_url": written}), {})
    assert "user:secret" not in error.value.message


@pytest.mark.parametrize(
    ("values", "path_style"),
    [
        ({}, False),
        ({"endpoint_url": "minio.lab:9000"}, True),
        ({"endpoint_url": "s3.eu-central-1.amazonaws.com"}, False),
        ({"endpoint_url": "minio.lab:9000", "addressing": "virtual"}, False),
        ({"addressing": "path"}, True),
    ],
)
def test_the_bucket_stands_in_the_path_but_for_aws(values: dict[str, str], path_style: bool):
    """Unless the section says otherwise."""
    assert s3_access(Settings(values), {}).path_style is path_style


def test_a_key_that_is_given_twice_under_two_names_is_refused():
    """The older name of 1.x counts as the same."""
    with pytest.raises(ConfigError, match="already given under another name"):
        s3_access(Settings({"access_key_id": "A", "access_secret_key_id": "B", "secret_key_id": "C"}), {})


def test_secrets_are_not_shown():
    """Neither by the access nor by the section it came from."""
    section = Settings({"access_key_id": "AKEY", "secret_key_id": "TOPSECRET", "session_token": "TOKEN"})
    shown = repr(s3_access(section, {})) + repr(section)
    assert "TOPSECRET" not in shown
    assert "TOKEN" not in shown


def test_options_may_stand_in_both_sections_and_s3_wins():
    """What all downloading programs have in [download], the rest in [s3]."""
    download = Settings({"until_idle": "5", "on_existing": "never"})
    s3 = Settings({"access_key_id": "A", "key-template": "x/{path}", "put_threads": "3", "bucket_name": "xrd"})
    assert defaults_from_file(download, s3, {}) == {
        "bucket_name": "xrd",
        "until_idle": 5.0,
        "key_template": "x/{path}",
        "put_threads": 3,
    }


def test_the_environment_names_the_bucket_where_no_section_does():
    """As in the examples of 1.x."""
    assert defaults_from_file(NOTHING, NOTHING, {"BUCKET_NAME": "xrd"}) == {"bucket_name": "xrd"}


def test_copies_go_where_1x_put_them():
    """Only when they are asked for."""
    assert S3Options(bucket_name="xrd").copies is None
    assert S3Options(bucket_name="xrd", mode="both").copies == Path("S3TransferStreamProcessor_output")
    assert S3Options(bucket_name="xrd", mode="disk", output_dir=Path("here")).copies == Path("here")


@pytest.mark.parametrize("name", ["", "a", "a/b", "-lead", "x" * 300, "a b"])
def test_what_is_no_bucket_is_refused(name: str):
    """As 1.x refused it."""
    with pytest.raises(ConfigError, match="is not the name of a bucket"):
        S3Options(bucket_name=name)
