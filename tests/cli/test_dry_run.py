"""Promises of ``--dry_run``: every file is told of, with the right reason, and nothing is written anywhere."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from openmsistream.adapters.kafka.client import TopicInfo
from openmsistream.adapters.sqlite.uploads import SqliteUploadLedger
from openmsistream.config.models import load
from openmsistream.config.options import WatchOptions
from openmsistream.core.settle import Stat
from openmsistream.errors import ConfigError, SourceError
from openmsistream.ports import Failed, Parked
from openmsistream.programs.dry_run import dry_run
from openmsistream.programs.ledgers import ledger_file

SECOND = 1_000_000_000
SENT_AT = 1_790_000_000 * SECOND


class Lab:
    """A watched folder, a state folder, and a config file whose broker nobody answers at."""

    def __init__(self, folder: Path) -> None:
        self.root, self.state = folder / "root µ", folder / "state"
        self.root.mkdir()
        self._config = folder / "lab.config"
        self.configure("")

    def configure(self, more: str) -> None:
        self._config.write_text(f"[broker]\nbootstrap.servers = 127.0.0.1:1\n{more}", encoding="utf-8")

    def put(self, path: str, content: bytes = b"12345") -> Stat:
        full = self.root / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_bytes(content)
        looks = full.stat()
        return Stat(looks.st_size, looks.st_mtime_ns)

    def ledger(self, cluster: str = "cluster", share: tuple[int, int] | None = None) -> SqliteUploadLedger:
        topic = TopicInfo("t", cluster, "topic id", 1)
        path = ledger_file(self.state, "upload", topic, of=self.root, share=share)
        about = {"kind": "upload", "root": os.path.realpath(self.root), "topic": "t", "cluster_id": cluster}
        ledger = SqliteUploadLedger(path, os.urandom, about=about)
        ledger.first_scan_done()
        return ledger

    def lines(self, **options: object) -> list[str]:
        found: list[str] = []
        chosen = WatchOptions(upload_dir=self.root, topic_name="t", state_dir=self.state, **options)
        assert dry_run(chosen, load(str(self._config), env={}, search=[]), found.append) == 0
        return found

    def verdicts(self, **options: object) -> dict[str, tuple[bool, str, str]]:
        told = [json.loads(line) for line in self.lines(json=True, **options)]
        return {
            each["path"]: (each["send"], each["code"], each["reason"])
            for each in told
            if each["event"] == "dry_run_file"
        }


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


def commit(ledger: SqliteUploadLedger) -> None:
    ledger.commit()
    ledger.close()


def parked(path: str, stat: Stat, acknowledged: int) -> Parked:
    return Parked(path, bytes(16), 1, stat, 4, 0, 0, acknowledged, bytes(32), SENT_AT)


def everything_below(*folders: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_at_a_first_start_existing_files_are_recorded_and_not_sent(lab):
    """Without a ledger nothing is sent, unless it is asked for; the reason says how."""
    lab.put("run/a.dat")

    assert lab.verdicts()["run/a.dat"] == (
        False,
        "existing",
        "it is there at the first start, which only records it; --upload_existing sends it",
    )
    assert lab.verdicts(upload_existing=True)["run/a.dat"][:2] == (True, "new")
    assert lab.verdicts(once=True)["run/a.dat"][:2] == (True, "new")


def test_after_the_first_start_the_ledger_says_what_would_be_sent(lab):
    """Each state that a ledger can know of a file has its verdict and its reason."""
    ledger = lab.ledger()
    ledger.record_sent("run/sent.dat", lab.put("run/sent.dat"), b"", 1, b"", SENT_AT)
    ledger.record_sent("run/by1x.dat", lab.put("run/by1x.dat"), b"", 1, b"", SENT_AT, "sent by OpenMSIStream 1.x")
    ledger.record_existing("run/old.dat", lab.put("run/old.dat"))
    ledger.record_existing("run/old_changed.dat", Stat(3, 7))
    ledger.record_sent("grown.dat", Stat(1_234, 7), b"", 1, b"", SENT_AT)
    touched = lab.put("touched.dat")
    ledger.record_sent("touched.dat", Stat(touched.size, 7), b"", 1, b"", SENT_AT)
    ledger.record_open(parked("half.dat", lab.put("half.dat", bytes(1000)), 430))
    ledger.record_failed(Failed("failed.dat", "failed.dat: too large", 3, SENT_AT))
    commit(ledger)
    for path in ("run/old_changed.dat", "grown.dat", "failed.dat", "new.dat"):
        lab.put(path)

    when = datetime.fromtimestamp(SENT_AT // SECOND, tz=UTC).astimezone().strftime("%Y-%m-%d at %H:%M:%S")
    new = "new: it is not in the ledger"
    assert lab.verdicts() == {
        "run/sent.dat": (False, "sent", f"it was sent on {when} and has not changed since"),
        "run/by1x.dat": (False, "sent_by_1x", "OpenMSIStream 1.x sent it"),
        "run/old.dat": (
            False,
            "existing",
            "it was there at the first start and has not changed since; --upload_existing sends it",
        ),
        "run/old_changed.dat": (True, "changed", "changed since the first start"),
        "grown.dat": (True, "changed", f"changed since it was sent on {when} with 1,234 bytes"),
        "touched.dat": (True, "touched", f"touched since it was sent on {when}: sent if its content differs"),
        "half.dat": (True, "interrupted", "interrupted at 43 %: goes on there if what was sent is unchanged"),
        "failed.dat": (True, "new", f"{new}; it could not be sent before (3 tries): failed.dat: too large"),
        "new.dat": (True, "new", new),
    }
    assert lab.verdicts(upload_existing=True)["run/old.dat"][:2] == (True, "never_sent")


def test_what_the_options_leave_out_is_told_with_the_rule(lab):
    """Hidden files, logs, patterns, the regular expression and the other program's share."""
    for path in (".hidden", "run.log", "a.bak", "a.dat", "LOGS/x.csv"):
        lab.put(path)
    commit(lab.ledger())

    told = lab.verdicts(exclude=["*.bak"])
    assert {path: code for path, (_, code, _) in told.items()} == {
        ".hidden": "left_out",
        "run.log": "left_out",
        "a.bak": "left_out",
        "LOGS/x.csv": "left_out",
        "a.dat": "new",
    }
    assert "hidden" in told[".hidden"][2]
    assert "'*.bak' of exclude" in told["a.bak"][2]
    assert "regular expression" in lab.verdicts(upload_regex="b")["a.dat"][2]
    assert "no pattern of include" in lab.verdicts(include=["*.h5"])["a.dat"][2]


def test_two_programs_that_share_a_folder_have_ledgers_of_their_own(lab):
    """Each part is told by its own ledger, and every file is in one part."""
    ledger = lab.ledger(share=(1, 2))
    for name in "abcdefgh":
        ledger.record_sent(name, lab.put(name), b"", 1, b"", SENT_AT)
    commit(ledger)
    commit(lab.ledger(share=(2, 2)))

    first, second = lab.verdicts(share=(1, 2)), lab.verdicts(share=(2, 2))

    assert {first[name][1] for name in "abcdefgh"} == {"sent", "left_out"}
    assert {(first[name][1], second[name][1]) for name in "abcdefgh"} == {("sent", "left_out"), ("left_out", "new")}


def test_what_1x_sent_is_not_sent_again_and_what_it_did_not_finish_is(lab):
    """At the first start the registries of 1.x count, also with --upload_existing."""
    row = "'Sat Nov 21, 2026 at 09:00:44'"
    logs = lab.root / "LOGS"
    logs.mkdir()
    lines = ["filename;rel_filepath;n_chunks;started;completed"]
    lines += [f"'{name}';'{name}';1;{row};{row}" for name in ("sent.dat", "changed.dat")]
    (logs / "uploaded_to_t.csv").write_text("\n".join(lines))
    (logs / "upload_to_t_in_progress.csv").write_text("filename;rel_filepath\n'begun.dat';'begun.dat'")
    for name in ("sent.dat", "changed.dat", "begun.dat"):
        lab.put(name)
    old = SENT_AT - 86_400 * SECOND
    os.utime(lab.root / "sent.dat", ns=(old, old))
    later = 2_000_000_000 * SECOND
    os.utime(lab.root / "changed.dat", ns=(later, later))

    for options in ({}, {"upload_existing": True}):
        told = lab.verdicts(**options)
        assert told["sent.dat"][:2] == (False, "sent_by_1x")
        assert told["changed.dat"] == (True, "changed", "changed since OpenMSIStream 1.x sent it")
        assert told["begun.dat"][:2] == (True, "interrupted_1x")


def test_temporary_names_and_markers_are_told(lab):
    """A file that would only be sent later says what it waits for; a marker is none of the files."""
    commit(lab.ledger())
    for path in ("a.dat.part", "b.dat", "c.dat", "c.dat.done"):
        lab.put(path)

    part = lab.verdicts()["a.dat.part"]
    assert part[0]
    assert part[2].endswith("it has a temporary name: waits for its final one, or 60 min without a change")

    told = lab.verdicts(settle="marker")
    assert told["b.dat"][2].endswith("; waits for its marker b.dat.done")
    assert told["c.dat"] == (True, "new", "new: it is not in the ledger")
    assert told["c.dat.done"] == (False, "marker", "it is a marker file")


@pytest.mark.skipif(sys.platform == "win32", reason="making links needs a right of its own there")
def test_links_and_pipes_are_told_and_links_within_the_folder_can_be_followed(lab, tmp_path):
    """What is no regular file is listed with the reason why it stays behind."""
    commit(lab.ledger())
    lab.put("run/a.dat")
    (lab.root / "link.dat").symlink_to(lab.root / "run" / "a.dat")
    (lab.root / "again").symlink_to(lab.root / "run")
    (lab.root / "run" / "up").symlink_to(lab.root)
    (lab.root / "out").symlink_to(tmp_path)
    (lab.root / "dangling").symlink_to("nowhere")
    os.mkfifo(lab.root / "pipe")

    skipped = lab.verdicts()
    assert {path for path, (_, code, _) in skipped.items() if code == "symlink"} == {
        "link.dat",
        "again",
        "run/up",
        "out",
        "dangling",
    }
    assert skipped["pipe"][1] == "not_a_file"
    assert skipped["run/a.dat"][0]

    followed = lab.verdicts(symlinks="follow")
    assert {path for path, (send, _, _) in followed.items() if send} == {"run/a.dat", "link.dat", "again/a.dat"}
    assert {path for path, (_, code, _) in followed.items() if code == "symlink"} == {
        "run/up",
        "again/up",
        "out",
        "dangling",
    }


def test_a_file_that_this_account_may_not_read_would_not_be_sent(lab, monkeypatch):
    """The system's answer counts; asking it does not open the file."""
    commit(lab.ledger())
    lab.put("a.dat")
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("a.dat") and allowed(path, mode))

    assert lab.verdicts()["a.dat"][:2] == (False, "unreadable")


def test_nothing_is_written_and_a_running_programs_ledger_can_be_looked_into(lab):
    """Neither in the folder nor beside the ledger, while the program that owns it goes on."""
    lab.put("a.dat")
    with_nothing = everything_below(lab.root, lab.state)
    lab.lines()
    assert everything_below(lab.root, lab.state) == with_nothing
    assert not lab.state.exists()

    ledger = lab.ledger()
    ledger.record_open(parked("a.dat", lab.put("a.dat"), 2))
    ledger.commit()
    before = set(everything_below(lab.root, lab.state))
    try:
        assert lab.verdicts()["a.dat"] == (True, "under_way", "it is being sent now (40 %)")
        assert set(everything_below(lab.root, lab.state)) == before
        ledger.record_sent("a.dat", lab.put("a.dat"), b"", 1, b"", SENT_AT)
        ledger.commit()
        assert lab.verdicts()["a.dat"][:2] == (False, "sent")
    finally:
        ledger.close()
    stopped = everything_below(lab.root, lab.state)
    lab.lines()
    assert everything_below(lab.root, lab.state) == stopped


def test_a_ledger_that_is_gone_is_read_from_its_backup(lab):
    """As the next start would do; nothing is put back by looking."""
    commit(lab.ledger())
    [ledger] = [path for path in lab.state.glob("*.sqlite") if not path.name.endswith(".backup.sqlite")]
    assert ledger.with_suffix(".backup.sqlite").exists()
    ledger.unlink()
    lab.put("a.dat")

    assert lab.verdicts()["a.dat"][:2] == (True, "new")
    assert not ledger.exists()


def test_of_two_clusters_the_ledger_used_last_counts_and_the_other_is_named(lab):
    """Which cluster it would find is not known without a broker, so the choice is told."""
    stat = lab.put("a.dat")
    for cluster, sent_at in (("old", SENT_AT), ("new", SENT_AT + SECOND)):
        ledger = lab.ledger(cluster)
        ledger.record_sent("a.dat" if cluster == "new" else "b.dat", stat, b"", 1, b"", sent_at)
        commit(ledger)

    assert lab.verdicts()["a.dat"][:2] == (False, "sent")
    assert any("an older ledger of this folder and topic; not used here" in line for line in lab.lines())


def test_the_lines_are_in_order_and_end_with_totals(lab):
    """For people: one line for each file, folder by folder, and the sums."""
    for path in ("b/2.dat", "b/1.dat", "a.dat", "c.log"):
        lab.put(path, b"x" * 1_500)
    commit(lab.ledger())

    lines = lab.lines()

    assert lines[0].startswith(f"what would be sent from {lab.root} to topic t (ledger ")
    assert lines[1:] == [
        "would send               1,500 B  a.dat: new: it is not in the ledger",
        "would not send           1,500 B  c.log: its name 'c.log' ends in .log",
        "would send               1,500 B  b/1.dat: new: it is not in the ledger",
        "would send               1,500 B  b/2.dat: new: it is not in the ledger",
        "would send 3 files, 4,500 B",
        "would not send 1 file, 1,500 B",
    ]


def test_as_json_every_line_is_an_object_and_names_that_are_not_unicode_are_escaped(lab):
    """For programs: what is looked at, the files, the totals."""
    commit(lab.ledger())
    lab.put("a.dat")
    if sys.platform == "linux":
        lab.put("\udcff.dat")

    told = [json.loads(line) for line in lab.lines(json=True)]

    assert told[0]["event"] == "dry_run_started"
    assert (told[0]["folder"], told[0]["topic"]) == (str(lab.root), "t")
    names = [each["path"] for each in told[1:-1]]
    assert names == (["a.dat", "\\udcff.dat"] if sys.platform == "linux" else ["a.dat"])
    assert told[-1] == {
        "event": "dry_run_totals",
        "send": {"files": len(names), "bytes": 5 * len(names)},
        "not_send": {"files": 0, "bytes": 0},
        "codes": {"new": len(names)},
    }


def test_a_folder_that_is_gone_is_an_error(lab):
    """Nothing is told of a folder that cannot be listed."""
    options = WatchOptions(upload_dir=lab.root, topic_name="t", state_dir=lab.state)
    config = load(str(lab.root.parent / "lab.config"), env={}, search=[])
    lab.root.rmdir()

    with pytest.raises(SourceError, match="cannot be listed"):
        dry_run(options, config, print)


def test_a_wrong_pattern_is_an_error(lab):
    """The same error as at a real start."""
    with pytest.raises(ConfigError, match=r"exclude: .*pattern .x\["):
        lab.lines(exclude=["x["])
