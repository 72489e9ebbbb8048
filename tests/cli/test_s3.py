"""``openmsistream s3`` as users type it: what is wrong is said in one line before anything is read, no secret is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from openmsistream.local.broker import LocalBroker
from openmsistream.local.ports import free_port
from openmsistream.local.store import LocalStore
from tests.conftest import MakeTopic
from tests.faults.bucket_place import BucketPlace
from tests.faults.support import Program, environment, fill

OK, ERROR, USAGE = 0, 1, 2
VARIABLES = ("ACCESS_KEY_ID", "SECRET_KEY_ID", "ENDPOINT_URL", "REGION", "BUCKET_NAME")


@pytest.fixture
def place(tmp_path: Path, broker: LocalBroker, topic: MakeTopic, store: LocalStore, bucket: str) -> BucketPlace:
    return BucketPlace(tmp_path, broker.bootstrap, topic(), store, bucket)


def refused(place: BucketPlace, *options: object, code: int = ERROR) -> str:
    """What it says when it ends at once."""
    with place.to_s3("--until-idle", "1", *options) as program:
        assert program.wait() == code, program.stdout
    assert place.access.secret_key not in program.stderr + program.stdout
    assert "Traceback" not in program.stderr
    return program.stderr


def keys(access: str, secret: str) -> str:
    return f"access_key_id = {access}\nsecret_key_id = {secret}\n"


def script(name: str, *words: object, **more: Any) -> Program:
    code = f"from openmsistream.cli import scripts; scripts.{name}()"
    return Program([sys.executable, "-c", code, *map(str, words)], **more)


# -- what is wrong --------------------------------------------------------------------------------------------------


def test_a_wrong_key_is_told_with_where_to_look(place: BucketPlace):
    """An unknown key, or the wrong secret for it."""
    place.configure(s3=keys("NOBODY", place.access.secret_key))
    said = refused(place)
    assert f"Error: bucket {place.bucket} at {place.endpoint}: the store does not accept our keys" in said
    assert "Try:   check access_key_id and secret_key_id in [s3]" in said

    place.configure(s3=keys(place.access.access_key, "wrong/secret"))
    said = refused(place)
    assert "SignatureDoesNotMatch" in said
    assert "wrong/secret" not in said


def test_a_bucket_that_does_not_exist_is_told(place: BucketPlace):
    """It is not made: whoever pays for it decides where it stands."""
    place.bucket = "there-is-none"
    assert "bucket there-is-none" in refused(place)
    assert "there is no such bucket" in refused(place)


def test_an_account_that_may_only_read_is_told_which_right_it_needs(place: BucketPlace):
    """Before the first file is read."""
    reader = place.store.reader
    place.configure(s3=keys(reader.access_key, reader.secret_key))
    assert "our account needs the right s3:PutObject" in refused(place)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--key-template", "{topic}"], "is not a template for keys"),
        (["--key-template", "{topic}/{path!r}"], "is not a template for keys"),
        (["--mode", "cloud"], "is not one of memory, disk, both"),
        (["--put-threads", "0"], "is not a whole number from 1 to 128"),
    ],
)
def test_options_that_make_no_sense_are_refused(place: BucketPlace, options: list[str], said: str):
    """With what is allowed."""
    assert said in refused(place, *options, code=USAGE)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("acces_key_id = A\n", "[s3] acces_key_id (line"),
        ("access_key_id = A\n", "[s3] secret_key_id: is missing"),
        ("checksums = sha1\n", "'sha1' is not one of auto, md5, none"),
        ("key_template = {nothing}\n", "is not a template for keys"),
        ("ca_bundle = /no/such/file\n", "'/no/such/file' is not an existing file"),
    ],
)
def test_mistakes_in_the_section_are_told_with_their_place(place: BucketPlace, lines: str, said: str):
    """File, section, key and value."""
    place.configure(s3=lines)
    assert said in refused(place)


def test_a_second_program_for_the_same_bucket_is_refused(place: BucketPlace):
    """On this computer; on others it is welcome in the same group."""
    with place.to_s3() as first:
        first.until_event("program_started")
        assert "is running already" in refused(place)
        assert first.quit() == OK


def test_a_store_that_is_away_at_the_start_is_waited_for(place: BucketPlace):
    """It is told, and nothing is given up."""
    fill(place.watched, {"a": 10})
    place.send("--upload-existing")
    place.endpoint = f"http://127.0.0.1:{free_port()}"
    place.configure()

    with place.to_s3() as program:
        program.until_event("note")
        program.until_event("storage_paused")
    assert place.keys() == set()

    place.endpoint = place.access.endpoint
    place.configure()
    place.deliver()
    assert place.keys() == {f"{place.topic}/a"}


# -- where the store is ---------------------------------------------------------------------------------------------


def test_without_the_section_the_environment_of_1x_says_where_the_store_is(place: BucketPlace):
    """Also with the older name of the access key, and the bucket's name."""
    fill(place.watched, {"a": 10})
    place.send("--upload-existing")
    text = place.config.read_text(encoding="utf-8")
    place.config.write_text(text[: text.index("[s3]")], encoding="utf-8")
    values = place.access.environment()
    values["ACCESS_SECRET_KEY_ID"] = values.pop("ACCESS_KEY_ID")
    words = ["s3", "--config", place.config, "--topic-name", place.topic, "--state-dir", place.state]
    kept = {name: value for name, value in environment().items() if name not in VARIABLES}

    with Program(
        [sys.executable, "-m", "openmsistream", *map(str, words), "--until-idle", "1", "--json"],
        env={**kept, **values, "BUCKET_NAME": place.bucket},
    ) as program:
        assert program.wait() == OK, program.stderr
    assert place.keys() == {f"{place.topic}/a"}


@pytest.mark.parametrize("kind", ["variables", "profile"])
def test_without_keys_in_the_section_aws_own_settings_say_who_we_are(place: BucketPlace, tmp_path: Path, kind: str):
    """Its environment variables, or a profile in its file."""
    fill(place.watched, {"a": 10})
    place.send("--upload-existing")
    place.configure(s3="")
    access = place.access
    values = {"AWS_ACCESS_KEY_ID": access.access_key, "AWS_SECRET_ACCESS_KEY": access.secret_key}
    if kind == "profile":
        lines = "".join(f"{name.lower()} = {value}\n" for name, value in values.items())
        (tmp_path / "credentials").write_text(f"[lab]\n{lines}", encoding="utf-8")
        values = {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"), "AWS_PROFILE": "lab"}

    with place.to_s3("--until-idle", "1", env=environment(**values, AWS_REGION=access.region)) as program:
        assert program.wait() == OK, program.stderr
    assert place.keys() == {f"{place.topic}/a"}


def test_nobody_gives_any_keys(place: BucketPlace, tmp_path: Path):
    """It is told where they may stand."""
    place.configure(s3="")
    nowhere = {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"), "AWS_CONFIG_FILE": str(tmp_path / "none")}
    kept = {name: value for name, value in environment().items() if not name.startswith("AWS_")}
    with place.to_s3("--until-idle", "1", env={**kept, **nowhere, "AWS_EC2_METADATA_DISABLED": "true"}) as program:
        assert program.wait() == ERROR
    assert "there are no keys for it" in program.stderr
    assert "give access_key_id and secret_key_id in [s3]" in program.stderr


@pytest.mark.parametrize("command", ["s3", "verify"])
def test_without_the_package_boto3_the_error_says_how_to_get_it(place: BucketPlace, command: str):
    """It is an extra, which nobody needs who writes to folders."""
    code = (
        "import sys; sys.modules['boto3'] = None; from openmsistream.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    topic = ["--config", place.config, "--topic-name", place.topic]
    words = ["s3", place.bucket] if command == "s3" else ["verify", "--bucket", place.bucket]
    with Program([sys.executable, "-c", code, *map(str, [*words, *topic])]) as program:
        assert program.wait() == (ERROR if command == "s3" else USAGE)
    assert "needs the package boto3, which is not installed" in program.stderr
    assert 'Try:   pip install "openmsistream[s3]"' in program.stderr


def test_nobody_says_which_bucket(place: BucketPlace):
    """Neither the command line nor the config file."""
    words = ["s3", "--config", str(place.config), "--topic-name", place.topic]
    kept = {name: value for name, value in environment().items() if name not in VARIABLES}
    with Program([sys.executable, "-m", "openmsistream", *words], env=kept) as program:
        assert program.wait() == USAGE
    assert "BUCKET is missing" in program.stderr


@pytest.mark.parametrize("name", ["s3_transfer_stream_processor", "osn_stream_processor"])
def test_the_programs_of_1x_and_of_0_9_do_the_same(place: BucketPlace, name: str):
    """With their spelling of the options, and the section that was called [osn]."""
    fill(place.watched, {"a": 10})
    place.send("--upload-existing")
    section = "osn" if name.startswith("osn") else "s3"
    text = place.config.read_text(encoding="utf-8").replace("[s3]", f"[{section}]")
    place.config.write_text(text, encoding="utf-8")
    words = ("--config", place.config, "--topic_name", place.topic, "--state_dir", place.state, "--until_idle", "1")

    with script(name, place.bucket, *words) as program:
        assert program.wait() == OK, program.stderr

    assert place.keys() == {f"{place.topic}/a"}
    assert f"writing files of topic {place.topic}" in program.stdout
    assert f"to bucket {place.bucket} at {place.endpoint}" in program.stdout


def test_the_bucket_gets_a_rule_that_removes_unfinished_uploads(place: BucketPlace):
    """Once, however often it is asked for; rules of others stay."""
    with place.client() as client:
        other = {"ID": "old", "Status": "Enabled", "Filter": {"Prefix": "tmp/"}, "Expiration": {"Days": 3}}
        client.put_bucket_lifecycle_configuration(Bucket=place.bucket, LifecycleConfiguration={"Rules": [other]})
        for days in (7, 9):
            with place.to_s3("--set-abort-rule", str(days)) as program:
                assert program.wait() == OK, program.stderr
            assert f"removed {days} days after they were begun" in program.stdout
        rules = client.get_bucket_lifecycle_configuration(Bucket=place.bucket)["Rules"]
    found = {rule["ID"]: rule for rule in rules}
    assert found["openmsistream-unfinished-uploads"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 9}
    assert found["old"]["Expiration"]["Days"] == 3
    assert len(rules) == 2
