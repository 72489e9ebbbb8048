"""A secret in a config file is shown nowhere."""

from __future__ import annotations

import dataclasses
import traceback

import pytest

from openmsistream.config.secrets import is_secret, redacted
from openmsistream.errors import ConfigError

from .conftest import Write

SECRET = "hunter2-xyzzy"
FULL = f"""
[broker]
bootstrap.servers = localhost:9092
sasl.password = $KAFKA_PASSWORD
ssl.key.password = {SECRET}
ssl.key.pem = -----BEGIN-----
    {SECRET}
sasl.jaas.config = Login password="{SECRET}";
client.id = %(ssl.key.password)s
[producer]
client.rack = $LAB_TOKEN
[consumer]
group.id = archive
[s3]
access_key_id = {SECRET}
secret_key_id = $S3
endpoint_url = https://me:{SECRET}@store
[heartbeat]
sasl.password = {SECRET}
[log]
sasl.password = {SECRET}
"""


@pytest.mark.parametrize(
    "key",
    [
        "sasl.password", "ssl.key.password", "ssl.keystore.password", "ssl.key.pem", "sasl.jaas.config",
        "sasl.oauthbearer.client.secret", "secret_key_id", "access_key_id", "SASL_PASSWORD", "girder-api-key",
        "registry.token", "basic.auth.user.info",
    ],
)  # fmt: skip
def test_secret_keys_are_recognised(key: str):
    """In any spelling, wherever they are used."""
    assert is_secret(key)
    assert redacted({key: SECRET}) == {key: "***"}


@pytest.mark.parametrize("key", ["bootstrap.servers", "sasl.username", "ssl.ca.location", "group.id"])
def test_other_keys_are_shown(key: str):
    """What helps to find a mistake stays readable."""
    assert redacted({key: "value"}) == {key: "value"}


def test_no_model_prints_a_secret(config: Write):
    """Neither repr, str, format nor the fields as a dictionary give one away, wherever it came from."""
    read = config(FULL, KAFKA_PASSWORD=SECRET, LAB_TOKEN=SECRET, S3=SECRET)
    models = [read, read.producer, read.consumer, read.kafkacrypto]
    shown = [read.broker, read.s3, read.heartbeat, read.log, *models]
    shown += [dataclasses.asdict(model) for model in models if model is not None]
    shown += [vars(read), read.producer.settings.origin("sasl.password"), read.warnings]

    for value in shown:
        assert SECRET not in f"{value} {value!r}"
    assert read.producer.settings["sasl.password"] == SECRET
    assert read.producer.settings["client.rack"] == SECRET


def test_somebody_elses_error_is_masked(config: Write):
    """A text of librdkafka that repeats a secret can be shown after masking."""
    settings = config(FULL, KAFKA_PASSWORD=SECRET, LAB_TOKEN="", S3="").producer.settings

    assert settings.mask(f'Invalid value "{SECRET}" for "sasl.password"') == 'Invalid value "***" for "sasl.password"'


@pytest.mark.parametrize(
    "text",
    [
        f"[broker]\nsasl.password = {SECRET}%\n",
        f"[broker]\nsasl.password = {SECRET}%({SECRET})s\n",
        f"[broker]\nsasl.password = {SECRET}%(sasl.password)s\n",
        f"[broker]\nsasl.password = ${SECRET.replace('-', '_')}\n",
        f"[broker]\nsasl.password = a\nsasl.password = {SECRET}\n",
        f"sasl.password = {SECRET}\n[broker]\n",
        f"[broker]\nsasl.password\n{SECRET}\n",
        f"[broker]\nsasl.password = {SECRET}\xff\n".encode("latin-1"),
        f"[broker]\nbootstrap.servers=a\nenable.idempotence = %(sasl.password)s\nsasl.password = {SECRET}\n",
        "[broker]\nbootstrap.servers=a\nauto.offset.reset = $LAB_TOKEN\n",
        "[broker]\nbootstrap.servers=a\nvalue.serializer = $LAB_TOKEN\n",
        "[broker]\nbootstrap.servers=a\n[producer]\nvalue.serializer.fields = $LAB_TOKEN\n",
        f"[broker]\nbootstrap.servers=a\n[upload]\nsasl.password = {SECRET}\n",
        "[broker]\nbootstrap.servers=a\n[upload]\nchunk_size = $LAB_TOKEN\n",
        "[broker]\nbootstrap.servers=a\n[download]\nconfig = $LAB_TOKEN\n",
        "[broker]\nbootstrap.servers=a\n[download]\ndownload_regex = $LAB_TOKEN\n",
        "[broker]\nbootstrap.servers=a\n[upload]\nlogger_file_path = $LAB_TOKEN\nprogress = $LAB_TOKEN\n",
    ],
)
def test_no_error_prints_a_secret(config: Write, text: str | bytes):
    """Neither its text, its hint nor its traceback repeats one, also when it came from a variable."""
    token = f"[{SECRET}"
    with pytest.raises(ConfigError) as caught:
        config(text, LAB_TOKEN=token).check()

    told = caught.value.hint + "".join(traceback.format_exception(caught.value))
    assert SECRET not in told
    assert SECRET.replace("-", "_") not in told
