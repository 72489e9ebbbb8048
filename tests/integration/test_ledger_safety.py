"""The uploader's ledger over a year: killed, damaged, deleted, shared by two accounts, and looked at meanwhile."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openmsistream.adapters.memory.clock import FakeClock
from openmsistream.adapters.sqlite.beside import Names
from openmsistream.adapters.sqlite.database import Database
from openmsistream.adapters.sqlite.lookup import open_read_only
from openmsistream.adapters.sqlite.recovery import damage
from openmsistream.adapters.sqlite.tables import SCHEMA
from openmsistream.adapters.sqlite.uploads import SqliteUploadLedger
from openmsistream.core.events import Event, Note
from openmsistream.core.settle import Stat
from openmsistream.errors import ConfigError, OpenMSIStreamError, StorageError
from openmsistream.ports import Failed, Known, Parked
from openmsistream.programs.ledgers import StateFolders
from tests.faults.support import SEEDS

FILES = 600
DIGEST, VERSION = b"D" * 32, b"V" * 16
HOUR = 3600.0
OTHER, GROUP = 12_345, 12_346  # an account and a group that nobody has

two_accounts = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="only root can start a program under another account"
)

# A program that writes into a ledger for ever, and says on its standard output what it has committed.
WRITER = """
import os, sys
from pathlib import Path
from openmsistream.adapters.sqlite.uploads import SqliteUploadLedger
from openmsistream.core.settle import Stat
ledger = SqliteUploadLedger(Path(sys.argv[1]), os.urandom)
ledger.first_scan_done()
number = int(sys.argv[2])
while True:
    for _ in range(7):
        ledger.record_sent(f"run {number % 5}/{number}", Stat(number, number), b"V" * 16, number, b"D" * 32, number)
        number += 1
    ledger.commit()
    ledger.turn()
    if number % 3 == 0:
        ledger.first_scan_done()  # worth a backup: so a kill also meets one that is being made
    print(number, flush=True)
"""


def path_of(number: int) -> str:
    return f"run {number % 5}/{number}"


def known_of(number: int) -> Known:
    return Known(Stat(number, number), DIGEST, sent=True)


class Lab:
    """A ledger's file and what its program was told."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "upload-xrd-0123456789abcdef.sqlite"
        self.names = Names(self.path)
        self.clock = FakeClock()
        self.notes: list[str] = []

    def open(self, *, lost: str = "resend", on_network: bool = False) -> SqliteUploadLedger:
        def listen(event: Event) -> None:
            assert isinstance(event, Note)
            self.notes.append(event.text)

        return SqliteUploadLedger(
            self.path, os.urandom, events=listen, clock=self.clock, lost=lost, on_network=on_network
        )

    def filled(self, start: int = 0, stop: int = FILES, **more: bool) -> SqliteUploadLedger:
        """Open, with that many files sent since the first start."""
        ledger = self.open(**more)
        ledger.first_scan_done()
        send(ledger, start, stop)
        return ledger

    def year(self) -> bytes:
        """Run once and stop cleanly, so that there are a ledger and its backup; the uploader's identity."""
        ledger = self.filled()
        ledger.close()
        return ledger.src


def send(ledger: SqliteUploadLedger, start: int, stop: int) -> None:
    for number in range(start, stop):
        stat = Stat(number, number, 7)
        ledger.record_sent(path_of(number), stat, VERSION, ledger.next_gen(number), DIGEST, number, "closed")
    ledger.commit()


def copied(ledger: SqliteUploadLedger) -> None:
    """Let the program turn until a backup that is being made is there."""
    assert ledger._backup is not None
    ledger.turn()
    if ledger._backup._thread is not None:
        ledger._backup._thread.join()
    ledger.turn()


def scramble(path: Path, seed: int, count: int) -> None:
    """Overwrite so many bytes, anywhere, with others."""
    source, content = random.Random(seed), bytearray(path.read_bytes())
    for _ in range(count):
        content[source.randrange(len(content))] ^= source.randrange(1, 256)
    path.write_bytes(content)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


# -- killed -------------------------------------------------------------------------------------------------------


@pytest.mark.fault
@pytest.mark.parametrize("seed", range(3))
def test_what_was_committed_before_a_kill_is_known_and_the_backup_stays_whole(lab: Lab, seed: int):
    """Killed between two writes or in the middle of a backup, again and again: nothing committed is lost."""
    source, done = random.Random(seed), 0
    for _ in range(3):
        command = [sys.executable, "-c", WRITER, str(lab.path), str(done)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(source.randrange(1, 60)):
                done = int(writer.stdout.readline())
            writer.kill()
        assert damage(lab.names.backup, at_rest=True) == ""

    ledger = lab.open()
    assert [ledger.known(path_of(number)) for number in range(done)] == [known_of(number) for number in range(done)]
    ledger.close()
    assert lab.notes == []


# -- damaged ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_a_ledger_with_scrambled_bytes_is_put_back_and_told(lab: Lab, seed: int):
    """What the backup knows is known; what was sent since is looked at anew; the damaged file is kept."""
    src = lab.year()
    shutil.copy(lab.names.backup, lab.path.parent / "hour ago")
    later = lab.filled(FILES, FILES + 50)
    highest = later.next_gen(0)
    later.close()
    (lab.path.parent / "hour ago").replace(lab.names.backup)
    scramble(lab.path, seed, 500)

    ledger = lab.open()

    assert (ledger.src, ledger.is_new) == (src, False)
    assert [ledger.known(path_of(number)) for number in range(FILES)] == [known_of(number) for number in range(FILES)]
    assert [ledger.known(path_of(number)) for number in range(FILES, FILES + 50)] == [None] * 50
    assert ledger.next_gen(lab.clock.now_ns()) > highest
    ledger.close()
    (note,) = lab.notes
    assert "is damaged" in note
    assert "put back from its backup of 20" in note
    assert lab.names.damaged(1).exists()
    assert lab.open().known("never sent") is None
    assert len(lab.notes) == 1


@pytest.mark.parametrize("seed", range(40))
def test_a_single_changed_byte_never_makes_a_file_that_was_not_sent_look_sent(lab: Lab, seed: int):
    """It is found and the backup put back, or a file looks unknown or changed and is looked at anew."""
    lab.filled(0, 60).close()
    scramble(lab.path, seed, 1)

    ledger = lab.open()

    folders = {name for number in range(60) for name in ledger.known_in(f"run {number % 5}")}
    assert len(folders) <= 60
    for number in range(60):
        known = ledger.known(path_of(number))
        as_it_is = known is not None and known.sent and known.stat.same_content(Stat(number, number))
        assert as_it_is or known is None or known != known_of(number)
    for number in range(60, 100):
        known = ledger.known(path_of(number))
        assert known is None or not known.stat.same_content(Stat(number, number))
    ledger.close()


def test_without_the_look_at_opening_scrambled_bytes_are_met_in_the_middle_of_the_work(lab: Lab):
    """The control: opened as it is, a damaged ledger ends the program, at every start."""
    lab.filled(0, 60).close()
    whole, ended = lab.path.read_bytes(), 0
    for seed in SEEDS:
        lab.path.write_bytes(whole)
        scramble(lab.path, seed, 500)
        try:
            database = Database(lab.path, SCHEMA, durable=False, owner="a test")
        except StorageError:
            ended += 1
            continue
        try:
            database.rows("SELECT * FROM files")
            assert database.meta("src") is not None
        except StorageError:
            ended += 1
        finally:
            database.close()
    assert ended == len(SEEDS)


@pytest.mark.parametrize("content", [b"", b"this is no database" * 500, b"SQLite format 3\0" + bytes(84)])
def test_a_file_that_is_no_ledger_any_more_is_put_back(lab: Lab, content: bytes):
    """Cut to nothing, or overwritten by something else."""
    lab.year()
    lab.path.write_bytes(content)

    ledger = lab.open()

    assert ledger.known(path_of(5)) == known_of(5)
    ledger.close()
    assert len(lab.notes) == 1


# -- deleted ------------------------------------------------------------------------------------------------------


def test_a_deleted_ledger_is_put_back_from_its_backup(lab: Lab):
    """With the same identity, counters that go on growing, and a line that says so."""
    src = lab.year()
    lab.path.unlink()

    ledger = lab.open()

    assert (ledger.src, ledger.is_new, ledger.known(path_of(7))) == (src, False, known_of(7))
    assert ledger.next_gen(0) > FILES
    ledger.close()
    assert "is gone: it was put back" in lab.notes[0]


def test_a_log_that_is_left_of_a_deleted_ledger_is_not_applied_to_the_copy(lab: Lab):
    """SQLite would take the log of the old file for one of the new, and mix both."""
    ledger = lab.filled()
    ledger.turn()
    copied(ledger)
    send(ledger, FILES, FILES + 300)
    wal = lab.names.wal.read_bytes()
    ledger.close()
    lab.path.unlink()
    lab.names.wal.write_bytes(wal)

    again = lab.open()

    assert again.known(path_of(5)) == known_of(5)
    again.close()
    assert damage(lab.path) == ""
    assert Names(lab.names.damaged(1)).wal.read_bytes() == wal


def test_a_ledger_deleted_right_after_its_birth_is_no_first_start(lab: Lab):
    """What is there then may have been sent: none of it is taken for old files that nobody wants."""
    lab.open().close()
    lab.path.unlink()

    ledger = lab.open()

    assert not ledger.is_new
    ledger.close()
    assert "is gone" in lab.notes[0]


def test_a_ledger_deleted_with_everything_else_is_a_first_start(lab: Lab):
    """Nothing else can be known."""
    lab.year()
    for path in lab.path.parent.iterdir():
        path.unlink()

    ledger = lab.open()

    assert ledger.is_new
    ledger.close()
    assert lab.notes == []


def lose(lab: Lab, *, backup: bytes | None) -> None:
    lab.year()
    scramble(lab.path, 1, 5000)
    if backup is None:
        lab.names.backup.unlink()
    else:
        lab.names.backup.write_bytes(backup)


@pytest.mark.parametrize("backup", [None, b"", b"no database either" * 400])
def test_a_lost_ledger_sends_everything_again_and_says_so(lab: Lab, backup: bytes | None):
    """Damaged, and no backup that can be used: what cannot be proved sent is sent again."""
    lose(lab, backup=backup)

    ledger = lab.open()

    assert (ledger.is_new, ledger.known(path_of(5))) == (False, None)
    ledger.close()
    assert "all files are sent again" in lab.notes[0]
    assert damage(lab.names.backup, at_rest=True) == ""


@pytest.mark.parametrize("backup", [None, b"no database either" * 400])
def test_a_lost_ledger_can_be_asked_about_first(lab: Lab, backup: bytes | None):
    """With --ledger-lost ask nothing is touched, and the error says what was lost and the two ways on."""
    lose(lab, backup=backup)
    before = {path.name: path.read_bytes() for path in lab.path.parent.iterdir()}

    with pytest.raises(ConfigError, match="which files were sent is not known any more") as caught:
        lab.open(lost="ask")

    assert "put a copy of the ledger or of its backup back" in caught.value.hint
    assert "--ledger-lost resend" in caught.value.hint
    assert {path.name: path.read_bytes() for path in lab.path.parent.iterdir()} == before


# -- under a running program --------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", ["path", "wal"])
def test_a_ledger_removed_under_a_running_program_ends_it_and_the_next_start_goes_on(lab: Lab, gone: str):
    """What is written from then on would be lost with the program, so it says so at once."""
    ledger = lab.filled()
    copied(ledger)
    getattr(lab.names, gone).unlink()

    with pytest.raises(StorageError, match="was removed or replaced while the program was running"):
        send(ledger, FILES, FILES + 1)
    with pytest.raises(StorageError, match="was removed or replaced"):
        ledger.close()

    again = lab.open()
    assert (again.is_new, again.known(path_of(5))) == (False, known_of(5))
    again.close()


def test_a_damaged_page_under_a_running_program_does_not_get_into_the_backup(lab: Lab):
    """The copy is looked at before it takes the place of the good one; the program ends, the next start recovers."""
    lab.year()
    ledger = lab.open()
    good = lab.names.backup.read_bytes()
    content = bytearray(lab.path.read_bytes())
    for at in range(10 * 4096, len(content), 4096):  # the first pages hold what is written all the time
        content[at : at + 64] = b"\xff" * 64
    with lab.path.open("r+b") as file:
        file.write(content)
    ledger.record_failed(Failed("other", "no rights", 1, 1))
    ledger.commit()
    lab.clock.move(HOUR + 1)

    with pytest.raises(StorageError, match="the ledger is damaged"):
        copied(ledger)

    with pytest.raises(StorageError, match="the ledger is damaged"):
        ledger.close()
    assert lab.names.backup.read_bytes() == good
    again = lab.open()
    assert again.known(path_of(5)) == known_of(5)
    again.close()


# -- backups ------------------------------------------------------------------------------------------------------


def in_backup(lab: Lab, folder: Path) -> set[str]:
    shutil.copy(lab.names.backup, folder / "look.sqlite")
    with open_read_only(folder / "look.sqlite") as view:
        return {row.path for row in view.files()}


def test_backups_are_made_at_birth_after_the_first_scan_every_hour_and_at_a_clean_stop(lab: Lab, tmp_path: Path):
    """And only when something changed since the last one."""
    look = tmp_path / "look"
    look.mkdir()
    ledger = lab.open()
    assert in_backup(lab, look) == set()

    ledger.record_existing("old", Stat(1, 1))
    ledger.first_scan_done()
    ledger.commit()
    copied(ledger)
    assert in_backup(lab, look) == {"old"}

    ledger.record_existing("later", Stat(1, 1))
    ledger.commit()
    lab.clock.move(HOUR - 1)
    copied(ledger)
    assert in_backup(lab, look) == {"old"}
    lab.clock.move(2)
    copied(ledger)
    assert in_backup(lab, look) == {"old", "later"}

    before = lab.names.backup.stat()
    lab.clock.move(HOUR + 1)
    copied(ledger)
    assert lab.names.backup.stat().st_ino == before.st_ino
    ledger.record_existing("last", Stat(1, 1))
    ledger.close()
    assert in_backup(lab, look) == {"old", "later", "last"}

    before = lab.names.backup.stat()
    lab.open().close()
    assert lab.names.backup.stat().st_ino == before.st_ino


def test_files_are_recorded_while_a_backup_is_made(lab: Lab, tmp_path: Path):
    """The copy holds one state of the ledger, and does not begin anew with every commit."""
    ledger = lab.filled(0, 20_000)
    ledger.turn()
    assert ledger._backup is not None
    thread, commits = ledger._backup._thread, 0
    assert thread is not None
    while thread.is_alive():
        send(ledger, 20_000 + commits, 20_001 + commits)
        commits += 1
    ledger.turn()

    assert commits > 3
    found = in_backup(lab, tmp_path)
    assert {path_of(number) for number in range(20_000)} <= found
    ledger.close()


def test_a_stop_in_the_middle_of_a_backup_waits_for_neither_and_loses_neither(lab: Lab, tmp_path: Path):
    """The copy that was being made is given up, and the one at the stop has everything."""
    ledger = lab.filled(0, 20_000)
    ledger.turn()
    assert ledger._backup is not None
    assert ledger._backup._thread is not None
    ledger.record_existing("last", Stat(1, 1))
    ledger.close()

    assert not lab.names.backup.with_suffix(".new").exists()
    assert in_backup(lab, tmp_path) == {"last", *map(path_of, range(20_000))}
    assert lab.notes == []


def test_a_backup_that_cannot_be_made_is_told_once_and_the_program_goes_on(lab: Lab):
    """The disk may be full for a day; the copy from before stays until a new one is whole."""
    ledger = lab.filled()
    copied(ledger)
    good = lab.names.backup.read_bytes()
    blocked = lab.names.backup.with_suffix(".new")
    blocked.mkdir()
    for _ in range(3):
        send(ledger, FILES, FILES + 1)
        lab.clock.move(HOUR)
        copied(ledger)

    assert len(lab.notes) == 1
    assert "backup of the ledger could not be made" in lab.notes[0]
    assert lab.names.backup.read_bytes() == good
    blocked.rmdir()
    ledger.close()
    assert lab.names.backup.read_bytes() != good


def test_a_ledger_on_a_network_share_keeps_its_promises_without_a_log(lab: Lab):
    """No write-ahead log, which needs memory that two computers cannot share; backup and looking in work as well."""
    lab.year()
    ledger = lab.filled(FILES, FILES + 10, on_network=True)
    copied(ledger)
    assert not lab.names.wal.exists()
    with open_read_only(lab.path) as view:
        assert view.totals().sent == FILES + 10
        send(ledger, FILES + 10, FILES + 20)
        assert view.totals().sent == FILES + 20
    ledger.close()
    lab.path.unlink()

    again = lab.open(on_network=True)
    assert again.known(path_of(FILES + 15)) == known_of(FILES + 15)
    again.close()
    assert lab.path.read_bytes()[18:20] == b"\x01\x01"


# -- versions of the tables ---------------------------------------------------------------------------------------

OLD_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE files (
    folder BLOB NOT NULL, name BLOB NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    digest BLOB NOT NULL, sent INTEGER NOT NULL, version BLOB NOT NULL, gen INTEGER NOT NULL,
    at_ns INTEGER NOT NULL, PRIMARY KEY (folder, name)) WITHOUT ROWID;
CREATE TABLE open_versions (
    path BLOB PRIMARY KEY, version BLOB NOT NULL, gen INTEGER NOT NULL, size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, chunk_bytes INTEGER NOT NULL, partition INTEGER NOT NULL,
    first_offset INTEGER NOT NULL, acknowledged INTEGER NOT NULL, prefix_digest BLOB NOT NULL,
    started_ns INTEGER NOT NULL) WITHOUT ROWID;
"""


def test_a_ledger_with_the_tables_of_before_is_brought_up_to_date_in_place(lab: Lab):
    """Nothing it knew is lost, and it can be looked at before."""
    with sqlite3.connect(lab.path) as old:
        old.executescript(OLD_TABLES)
        old.execute("INSERT INTO meta VALUES ('src', ?), ('first_scan', 'done'), ('gen', '77')", ("ab" * 16,))
        old.execute("INSERT INTO files VALUES (?, ?, 5, 5, ?, 1, ?, 5, 5)", (b"run 0", b"5", DIGEST, VERSION))
    old.close()
    with open_read_only(lab.path) as view:
        assert view.failed() == []
        assert [(row.path, row.sent, row.evidence) for row in view.files()] == [(path_of(5), True, "")]

    ledger = lab.open()

    assert (ledger.src, ledger.is_new, ledger.known(path_of(5))) == (b"\xab" * 16, False, known_of(5))
    assert ledger.next_gen(0) == 78
    send(ledger, 6, 7)
    ledger.close()
    with open_read_only(lab.path) as view:
        row = view.known(path_of(6))
    assert row is not None
    assert row.evidence == "closed"


def test_a_ledger_of_a_later_version_is_refused_and_left_as_it_is(lab: Lab):
    """An older program would not know what it must keep up to date."""
    lab.year()
    with sqlite3.connect(lab.path) as later:
        later.execute("UPDATE meta SET value = '99' WHERE key = 'version'")
    later.close()

    with pytest.raises(StorageError, match="made by a later version"):
        lab.open()
    assert lab.notes == []


# -- two accounts -------------------------------------------------------------------------------------------------


@pytest.fixture
def shared() -> Iterator[Lab]:
    """A ledger in a folder that other accounts can reach."""
    folder = Path(tempfile.mkdtemp(prefix="openmsistream-shared-"))
    try:
        folder.chmod(0o755)
        state = folder / "state"
        state.mkdir()
        yield Lab(state)
    finally:
        shutil.rmtree(folder)


def under_another_account(path: Path, work: str, group: int = GROUP) -> subprocess.CompletedProcess[str]:
    """Run some lines with a ledger's path as another user, who has imported everything before it became that one."""
    script = f"""
        import fcntl, json, os, pwd, grp, sys, dataclasses
        from pathlib import Path
        from openmsistream.adapters.sqlite.lookup import open_read_only
        from openmsistream.adapters.sqlite.uploads import SqliteUploadLedger
        from openmsistream.core.settle import Stat
        from openmsistream.errors import OpenMSIStreamError
        from openmsistream.programs.ledgers import StateFolders
        os.setgroups([]); os.setgid({group}); os.setuid({OTHER}); os.umask(0o077)
        path = Path(sys.argv[1])
        try:
            {work}
        except OpenMSIStreamError as error:
            print(error.message, "|", error.hint)
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


WRITE = "ledger = SqliteUploadLedger(path, os.urandom); ledger.record_existing('theirs', Stat(1, 1)); ledger.close()"
READ = "print(*(row.path for row in open_read_only(path).files()), sep=',')"


@two_accounts
def test_two_accounts_of_a_group_share_one_ledger(shared: Lab):
    """A service and a user, one after the other: every file of it can be written by both."""
    shared.path.parent.chmod(0o2775)
    os.chown(shared.path.parent, 0, GROUP)
    shared.filled(0, 3).close()

    done = under_another_account(shared.path, WRITE)
    assert done.stdout == ""
    ledger = shared.open()
    assert ledger.known("theirs") is not None
    ledger.record_live("{}")
    ledger.close()
    done = under_another_account(shared.path, WRITE.replace("theirs", "again"))

    assert done.stdout == ""
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in shared.path.parent.iterdir()}
    assert set(modes.values()) == {"0o664"}, modes
    assert {path.stat().st_gid for path in shared.path.parent.iterdir()} == {GROUP}


@two_accounts
def test_an_account_without_the_rights_is_told_who_it_is_which_file_and_what_to_do(shared: Lab):
    """And nothing is taken for damaged, moved or made."""
    shared.filled(0, 3).close()
    before = sorted(path.name for path in shared.path.parent.iterdir())

    done = under_another_account(shared.path, WRITE)

    message, _, hint = done.stdout.partition(" | ")
    assert str(shared.path.parent) in message
    assert f"the account {OTHER} has no right to write" in message
    assert "belongs to root:root" in message
    assert "chmod g+s" in hint
    assert sorted(path.name for path in shared.path.parent.iterdir()) == before


@two_accounts
def test_an_account_that_may_only_read_looks_in_while_the_program_runs_and_when_it_is_stopped_or_killed(shared: Lab):
    """It leaves nothing of its own behind that the program could not write."""
    ledger = shared.filled(0, 2)
    assert under_another_account(shared.path, READ).stdout == "run 0/0,run 1/1\n"
    ledger.close()
    before = sorted(path.name for path in shared.path.parent.iterdir())
    assert under_another_account(shared.path, READ).stdout == "run 0/0,run 1/1\n"
    assert sorted(path.name for path in shared.path.parent.iterdir()) == before

    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(shared.path), "2"], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
    seen = under_another_account(shared.path, READ).stdout.strip().split(",")
    assert {path_of(number) for number in range(9)} <= set(seen)


@two_accounts
def test_an_account_that_may_not_even_read_is_told_so(shared: Lab):
    """Not that the ledger is damaged."""
    shared.filled(0, 2).close()
    shared.path.chmod(0o600)

    done = under_another_account(shared.path, READ)

    assert f"{shared.path}: the account {OTHER} has no right to read the ledger" in done.stdout


# -- where ledgers stand ------------------------------------------------------------------------------------------

NAME = "upload-xrd-0123456789abcdef.sqlite"


@pytest.fixture
def folders(tmp_path: Path) -> Callable[..., StateFolders]:
    def here(*, chosen: Path | None = None, administrator: bool = False) -> StateFolders:
        return StateFolders(chosen, tmp_path / "machine", tmp_path / "own", administrator)

    return here


def test_what_was_asked_for_comes_first(folders: Callable[..., StateFolders], tmp_path: Path):
    """Whatever other folders there are, and whoever asks."""
    (tmp_path / "machine").mkdir()
    assert folders(chosen=tmp_path / "asked", administrator=True).place_of(NAME) == (tmp_path / "asked" / NAME, "")


def test_a_user_without_a_machine_wide_folder_has_their_own(folders: Callable[..., StateFolders], tmp_path: Path):
    """It is not made for them; once it is there, new ledgers stand in it."""
    assert folders().place_of(NAME) == (tmp_path / "own" / NAME, "")
    assert not (tmp_path / "machine").exists()
    (tmp_path / "machine").mkdir()
    assert folders().place_of(NAME) == (tmp_path / "machine" / NAME, "")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no setgid bit")
def test_the_administrator_makes_the_machine_wide_folder_for_a_group(
    folders: Callable[..., StateFolders], tmp_path: Path
):
    """What is made in it belongs to its group, whatever the administrator's umask is."""
    before = os.umask(0o077)
    try:
        assert folders(administrator=True).place_of(NAME) == (tmp_path / "machine" / NAME, "")
    finally:
        os.umask(before)
    assert oct((tmp_path / "machine").stat().st_mode & 0o7777) == "0o2775"


@pytest.mark.parametrize("left", [NAME, NAME.replace(".sqlite", ".backup.sqlite")])
def test_a_ledger_in_the_accounts_own_folder_stays_there_when_a_machine_wide_folder_appears(
    folders: Callable[..., StateFolders], tmp_path: Path, left: str
):
    """Nobody sends a year of files again because of a folder; it is told. A backup alone counts as well."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / left).touch()
    (tmp_path / "machine").mkdir()

    path, told = folders().place_of(NAME)

    assert path == tmp_path / "own" / NAME
    assert "stays in this account's own folder" in told


@two_accounts
def test_a_ledger_in_the_machine_wide_folder_is_not_passed_over_by_who_may_not_write_it(shared: Lab):
    """A second ledger of the same folder and topic would send everything twice."""
    shared.filled(0, 2).close()
    place = "StateFolders(None, path.parent, Path('/nowhere'), False).place_of(path.name)"

    done = under_another_account(shared.path, f"print({place}[0])")

    assert done.stdout == f"{shared.path}\n"


def test_every_error_of_the_ledger_is_one_of_ours(lab: Lab):
    """A folder where the ledger should be is told as any other trouble, with what to try."""
    lab.path.mkdir()
    with pytest.raises(OpenMSIStreamError) as caught:
        lab.open()
    assert str(lab.path) in caught.value.message
    assert caught.value.hint


def test_a_version_under_way_is_resumed_after_the_ledger_was_put_back(lab: Lab):
    """The backup holds where it was; what was acknowledged since is sent again."""
    parked = Parked("big", VERSION, 5, Stat(10, 10), 524_288, 0, 7, 1_048_576, DIGEST, 1)
    ledger = lab.filled()
    ledger.record_open(parked)
    ledger.close()
    lab.path.unlink()

    again = lab.open()

    assert again.open_versions() == [parked]
    again.close()
