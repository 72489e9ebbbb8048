"""Whole files in a folder: existing files, names, rights, times, lost partial files, and the command for each file."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from blake3 import blake3

from openmsistream.adapters.filesystem import durable
from openmsistream.adapters.filesystem.partials import OPEN_FILES
from openmsistream.adapters.filesystem.rules import Existing, owner_ids
from openmsistream.adapters.filesystem.sink import FolderSink
from openmsistream.adapters.filesystem.spelling import Spelling, folds
from openmsistream.core.chunk import HashName
from openmsistream.core.names import NameRule, Naming
from openmsistream.errors import ConfigError, DeliveryError, ProtocolError
from tests.integration.delivered import NAMED, deliver, sink_on, version, visible, write

posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions and owners")
as_root = pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root may give files away")


# -- existing files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_descriptor", [True, False])
def test_keep_both_leaves_what_stands_and_names_the_newer_version_by_its_time(root: Path, by_descriptor: bool):
    """Whoever wrote what stands; each further version has a name of its own."""
    (root / "mine.csv").write_bytes(b"the user's own")
    with sink_on(root, existing=Existing.KEEP_BOTH, by_descriptor=by_descriptor) as sink:
        names = deliver(
            sink, version("mine.csv", b"one", 1), version("a/b.csv", b"two", 2), version("a/b.csv", b"three", 3)
        )

    assert names[1] == "a/b.csv"
    assert names[0].startswith("mine~20260131-174501-")
    assert names[2].startswith("a/b~20260131-174501-")
    contents = dict(zip(names, [b"one", b"two", b"three"], strict=True))
    assert visible(root) == {"mine.csv": b"the user's own", **contents}


@pytest.mark.parametrize("mode", [Existing.KEEP_BOTH, Existing.NEVER])
def test_a_version_that_comes_again_after_a_kill_gets_no_second_name(root: Path, mode: Existing):
    """The kill came between its name and the ledger, so the program knows nothing of it: its bytes tell."""
    versions = [version("a.csv", b"one", 1)]
    if mode is Existing.KEEP_BOTH:
        versions.append(version("a.csv", b"two", 2))
    with sink_on(root, existing=mode) as sink:
        names = deliver(sink, *versions)
    before = visible(root)

    for _ in range(2):
        with sink_on(root, existing=mode) as sink:
            assert sink.restore([]) == set()
            assert deliver(sink, *versions) == names

    assert visible(root) == before
    assert len(before) == len(versions)
    assert list((root / ".openmsistream" / "partial").iterdir()) == []


@pytest.mark.parametrize("by_descriptor", [True, False])
@pytest.mark.parametrize("there", ["file", "folder", "link"])
def test_never_overwrites_nothing_and_the_newer_version_is_kept_in_quarantine(
    root: Path, there: str, by_descriptor: bool
):
    """The reason names the file, and the others of the batch are delivered."""
    target = root / "a.csv"
    if there == "file":
        target.write_bytes(b"old!")
    elif there == "folder":
        target.mkdir()
    else:
        target.symlink_to(root / "nowhere")
    with sink_on(root, existing=Existing.NEVER, by_descriptor=by_descriptor) as sink:
        refused, fine = write(sink, version("a.csv", b"new!"), version("b.csv", b"fine", 2))
        failed = sink.publish([refused, fine])
        sink.set_aside(refused.key, failed[refused.key].message)

    assert list(failed) == [refused.key]
    assert isinstance(failed[refused.key], DeliveryError)
    assert failed[refused.key].message == "'a.csv': a file of that name is there already, and is never overwritten"
    assert target.read_bytes() == b"old!" if there == "file" else os.path.lexists(target)
    assert (root / "b.csv").read_bytes() == b"fine"
    (kept,) = (root / ".openmsistream" / "quarantine").glob("*.part")
    assert kept.read_bytes() == b"new!"


@posix
@pytest.mark.parametrize("by_descriptor", [True, False])
def test_a_link_of_the_users_is_never_followed_to_find_out_what_stands(root: Path, by_descriptor: bool):
    """A link to a file of the same content is something else than that file."""
    (root.parent / "elsewhere").write_bytes(b"same")
    (root / "a").symlink_to(root.parent / "elsewhere")
    with sink_on(root, existing=Existing.KEEP_BOTH, by_descriptor=by_descriptor) as sink:
        (name,) = deliver(sink, version("a", b"same"))
    assert name.startswith("a~")
    assert (root / "a").is_symlink()


@posix
def test_a_name_is_taken_only_when_it_is_free_where_the_system_cannot_do_that_in_one_step(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    """By a second link, where Linux' own call is missing, as on macOS and on network shares."""
    monkeypatch.setattr(durable, "_rename_noreplace", lambda *_: None)
    (root / "a").write_bytes(b"old")
    (root / "new").write_bytes(b"new")
    assert not durable.rename_to_new(root / "new", root / "a", None, None)
    assert durable.rename_to_new(root / "new", root / "b", None, None)
    assert visible(root) == {"a": b"old", "b": b"new"}


@posix
def test_a_kill_between_the_two_steps_of_such_a_file_system_is_put_right(root: Path):
    """The partial file is still there under its first name, and is the same file as the one delivered."""
    one = version("a", b"data")
    with sink_on(root, existing=Existing.NEVER) as sink:
        write(sink, one)
    (partial,) = (root / ".openmsistream" / "partial").iterdir()
    os.link(partial, root / "a")
    with sink_on(root, existing=Existing.NEVER) as sink:
        assert sink.restore([one[0].key]) == {one[0].key}
        assert sink.publish([one[0]]) == {}
    assert visible(root) == {"a": b"data"}
    assert not partial.exists()


@posix
@pytest.mark.parametrize("becomes", ["folder", "file"])
def test_a_folder_that_somebody_else_makes_at_the_same_moment_is_as_good_as_ours(
    root: Path, becomes: str, monkeypatch: pytest.MonkeyPatch
):
    """As a downloader of another topic into this folder does; a file in its place is in the way."""

    def make(name: str, *arguments: object, **named: object) -> None:
        if name == "new":
            (root / "new").mkdir() if becomes == "folder" else (root / "new").touch()
        real(name, *arguments, **named)

    real = os.mkdir
    with sink_on(root) as sink:
        (batch,) = write(sink, version("new/a", b"1"))
        monkeypatch.setattr(os, "mkdir", make)
        failed = sink.publish([batch])
    assert visible(root) == ({"new/a": b"1"} if becomes == "folder" else {"new": b""})
    assert [key.path for key in failed] == ([] if becomes == "folder" else ["new/a"])


# -- rights, owner, time ------------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("by_descriptor", [True, False])
def test_files_and_new_folders_get_their_modes_whatever_the_umask_says(root: Path, by_descriptor: bool):
    """Folders that were there before stay as they are."""
    (root / "old").mkdir(mode=0o711)
    before = os.umask(0o077)
    try:
        with sink_on(root, file_mode=0o644, folder_mode=0o755, by_descriptor=by_descriptor) as sink:
            deliver(sink, version("new/er/a", b"1"), version("old/b", b"2", 2))
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE((root / path).stat().st_mode) for path in ("new", "new/er", "new/er/a", "old", "old/b")}
    assert modes == {"new": 0o755, "new/er": 0o755, "new/er/a": 0o644, "old": 0o711, "old/b": 0o644}


@posix
def test_a_file_that_others_may_not_read_is_kept_from_them_while_it_comes_in(root: Path):
    """And its owner may write it, however it is to be in the end."""
    with sink_on(root, file_mode=0o440) as sink:
        many = [version(f"{number}", b"12345678", number) for number in range(1, OPEN_FILES + 20)]
        for publication, data in many:
            sink.write(publication.key, 0, data[:4])
        partials = list((root / ".openmsistream" / "partial").iterdir())
        assert {stat.S_IMODE(file.stat().st_mode) & 0o077 for file in partials} <= {0o040, 0}
        for publication, data in many:
            sink.write(publication.key, 4, data[4:])
        assert sink.publish([publication for publication, _ in many]) == {}
    assert {stat.S_IMODE((root / p.path).stat().st_mode) for p, _ in many} == {0o440}


@as_root
def test_files_and_new_folders_get_their_owner(root: Path):
    """By number, so also one that this computer has no name for."""
    owner, group = owner_ids("12345:23456")
    with sink_on(root, owner=owner, group=group) as sink:
        deliver(sink, version("new/a", b"1"))
    found = [((root / path).stat().st_uid, (root / path).stat().st_gid) for path in ("new", "new/a")]
    assert found == [(12345, 23456)] * 2


@as_root
def test_an_owner_that_may_not_be_given_is_an_error_at_the_start(root: Path):
    """And not a file that fails a week later."""
    code = """
import os, sys
from pathlib import Path
from openmsistream.adapters.filesystem.rules import DeliveryRules
from openmsistream.adapters.filesystem.sink import FolderSink
from openmsistream.errors import ConfigError
os.setgid(65534), os.setuid(65534)
try:
    FolderSink(Path(sys.argv[1]), rules=DeliveryRules(owner=0))
except ConfigError as error:
    print(error.message + "|" + error.hint)
"""
    mine = Path(tempfile.gettempdir())
    for folder in (root, *(parent for parent in root.parents if mine in parent.parents)):
        folder.chmod(0o777)
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True)
    message, hint = done.stdout.strip().split("|")
    assert message == f"{root}: files cannot get the owner that was asked for: Operation not permitted"
    assert "only root may give files away" in hint
    assert list((root / ".openmsistream" / "partial").iterdir()) == []


@pytest.mark.parametrize("text", ["nobody-of-that-name", "0:no-such-group"])
def test_an_owner_whom_nobody_knows_is_an_error(text: str):
    """The text says which of the two it is."""
    with pytest.raises(ConfigError, match=r"knows no (user 'nobody|group 'no-such)|Windows"):
        owner_ids(text)


@pytest.mark.parametrize("by_descriptor", [True, False])
def test_files_get_their_senders_time_when_asked_to(root: Path, by_descriptor: bool):
    """A time that no file system can have is left out, and does not keep a file from being delivered."""
    with sink_on(root, keep_mtime=True, by_descriptor=by_descriptor) as sink:
        deliver(sink, version("a", b"1"), version("b", b"2", 2, mtime_ns=2**80), version("c", b"3", 3, mtime_ns=None))
    assert (root / "a").stat().st_mtime_ns == NAMED
    assert visible(root) == {"a": b"1", "b": b"2", "c": b"3"}


# -- names --------------------------------------------------------------------------------------------------------


def test_mapped_names_are_found_again(root: Path):
    """What is asked for by its sender's path is what stands under the mapped one."""
    sink = FolderSink(root, names="map")
    (name,) = deliver(sink, version("aux/scan 12:30.csv", b"data"))
    assert name == "%61ux/scan 12%3A30.csv"
    assert sink.naming.original(name) == "aux/scan 12:30.csv"
    assert sink.stands("aux/scan 12:30.csv", 4)
    assert sink.holds("aux/scan 12:30.csv", 4, HashName.BLAKE3, blake3(b"data").digest())
    assert not sink.stands(name, 4)
    sink.close()


def test_names_that_windows_cannot_have_are_refused_when_asked_to(root: Path):
    """Alone, with the reason."""
    sink = FolderSink(root, names="refuse")
    bad, good = write(sink, version("scan 12:30.csv", b"1"), version("b", b"2", 2))
    failed = sink.publish([bad, good])
    assert list(failed) == [bad.key]
    assert isinstance(failed[bad.key], ProtocolError)
    assert "Windows does not allow ':'" in failed[bad.key].message
    sink.close()


def folding(root: Path, rule: NameRule = NameRule.KEEP) -> Spelling:
    """A destination that takes ``a`` and ``A`` for the same name but keeps how they are spelled, as macOS does."""

    def names(folder: str) -> list[str]:
        return [each.name for each in (root / folder).iterdir()]

    def exists(path: str) -> bool:
        folder, _, name = path.rpartition("/")
        try:
            return name.casefold() in {each.casefold() for each in names(folder)}
        except FileNotFoundError:
            return False

    return Spelling(Naming(rule, folds=True), exists, names)


@pytest.mark.parametrize("rule", [NameRule.KEEP, NameRule.MAP])
def test_paths_that_differ_in_case_alone_do_not_overwrite_each_other(root: Path, rule: NameRule):
    """Files and folders: the first has its name, others get escapes, also in the next batch and after a restart."""
    paths = ["Run/Scan.csv", "run/Scan.csv", "Run/scan.csv", "run/scan.csv", "Run/SCAN.csv", "Run/%73can.csv"]
    files = [version(path, path.encode(), number) for number, path in enumerate(paths, 1)]
    sink = FolderSink(root, spelling=folding(root, rule))
    names = deliver(sink, *files[:3]) + deliver(sink, *files[3:])
    sink.close()
    again = FolderSink(root, spelling=folding(root, rule))
    newer = [version(path, path.encode() + b"!", 10 + number) for number, path in enumerate(paths)]
    assert deliver(again, *newer) == names
    assert all(again.stands(path, len(path) + 1) for path in paths)
    again.close()

    assert names[:3] == ["Run/Scan.csv", "%72un/Scan.csv", "Run/%73can.csv"]
    assert len({name.casefold() for name in names}) == len(paths)
    assert [Naming(rule, folds=True).original(name) for name in names] == paths
    assert visible(root) == {name: path.encode() + b"!" for name, path in zip(names, paths, strict=True)}


def test_a_folder_that_tells_case_apart_is_recognised(root: Path):
    """As the tests' own disk is known to do, or not to."""
    with sink_on(root):
        (root / "probe").write_bytes(b"")
        assert folds(root) == (root / "PROBE").exists()
