"""Where ledgers stand on this computer, and opening the one of an uploader.

Chooses the state folder and tells what follows from the choice; knows the environment and the options. It must not
know Kafka's client, so that what only looks into ledgers starts quickly.
"""

from __future__ import annotations

import glob
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from openmsistream.adapters.filesystem.mounts import ground_of
from openmsistream.adapters.sqlite.beside import Names
from openmsistream.adapters.sqlite.database import is_locked
from openmsistream.adapters.sqlite.uploads import SqliteUploadLedger
from openmsistream.core.events import Note
from openmsistream.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from openmsistream.adapters.kafka.client import TopicInfo
    from openmsistream.config.options import WatchOptions
    from openmsistream.pipeline.runner import Control
    from openmsistream.ports import Clock, Events

STATE_VARIABLE = "OPENMSISTREAM_STATE_DIR"
MACHINE_FOLDER_MODE = 0o2775
"""What is made in it belongs to its group, whose members may all write it: a service and the people around it."""


@dataclass(frozen=True, slots=True)
class StateFolders:
    """
    The folders of this computer in which ledgers may stand.

    Attributes:
        chosen: What a user asked for, by option or environment: then no other counts.
        machine: The one that all accounts share.
        own: This account's own.
        administrator: This account may make the machine-wide folder.
    """

    chosen: Path | None
    machine: Path
    own: Path
    administrator: bool

    def to_look_in(self) -> list[Path]:
        """Where ledgers may be found; nothing is made."""
        return [self.machine, self.own] if self.chosen is None else [self.chosen]

    def for_new(self) -> Path:
        """
        Where a new ledger belongs; the machine-wide folder is made when an administrator is the first to need it.

        Raises:
            StorageError: It cannot be made.
        """
        if self.chosen is not None:
            return self.chosen
        if self.machine.is_dir() and os.access(self.machine, os.W_OK | os.X_OK):
            return self.machine
        if self.machine.exists() or not self.administrator:
            return self.own
        try:
            self.machine.mkdir(parents=True)
            if sys.platform != "win32":
                self.machine.chmod(MACHINE_FOLDER_MODE)
        except OSError as error:
            raise StorageError(
                f"{self.machine}: the folder for ledgers cannot be made: {error.strerror}",
                hint=f"give another one with --state-dir or ${STATE_VARIABLE}",
            ) from error
        return self.machine

    def place_of(self, name: str) -> tuple[Path, str]:
        """
        Where the ledger of that file name is, or belongs when there is none.

        Returns:
            Its path, and what a user should know of it; "" when it is where a new one would be.
        """
        if self.chosen is None:
            machine, own = self.machine / name, self.own / name
            if os.path.exists(machine):  # noqa: PTH110 - False where this account may not look
                return machine, ""  # also when it may not be written: its own error says so, a second ledger would not
            if own.exists() or Names(own).traces():
                moved = self.for_new() != self.own
                return (
                    own,
                    f"the ledger stays in this account's own folder {self.own}, where it was begun" if moved else "",
                )
        return self.for_new() / name, ""


def state_folders(given: Path | None) -> StateFolders:
    """
    The state folders as they are here: ``given``, else ``$OPENMSISTREAM_STATE_DIR``, else those of the system.

    The machine-wide folder counts when it is there and may be written, or for the administrator.
    """
    named = os.environ.get(STATE_VARIABLE, "")
    chosen = given or (Path(named) if named else None)
    own = platformdirs.user_state_path("openmsistream", appauthor=False)
    return StateFolders(chosen, machine_folder(), own, _is_administrator())


def state_folder(given: Path | None) -> Path:
    """
    Where new ledgers are kept: outside every watched folder.

    Raises:
        StorageError: The folder cannot be made.
    """
    return state_folders(given).for_new()


def machine_folder() -> Path:
    """The state folder that all accounts of this computer share."""
    if sys.platform == "win32":
        return Path(os.environ.get("PROGRAMDATA", r"C:\ProgramData")) / "openmsistream"
    if sys.platform == "darwin":
        return Path("/Library/Application Support/openmsistream")
    return Path("/var/lib/openmsistream")


def ledger_file(folder: Path, kind: str, topic: TopicInfo, *, of: Path, share: tuple[int, int] | None = None) -> Path:
    """
    The ledger of one program: its kind, topic and cluster, and the folder ``of`` which it knows.

    Args:
        folder: The state folder.
        kind: "upload" or "download".
        topic: Name and cluster count.
        of: The folder the program watches or writes; links in its path are followed.
        share: Which of how many parts of the folder is the program's; None: all of it.
    """
    part = f"-{share[0]}of{share[1]}" if share is not None and share[1] > 1 else ""
    return folder / f"{kind}-{_named(topic, os.path.realpath(of))}{part}.sqlite"


def partials_of(topic: TopicInfo) -> str:
    """
    What the partial files of a topic in an output folder are told by from those of other topics there.

    Where the output folder is moved to makes no difference: what a new ledger does not know of is removed then.
    """
    return _named(topic)


def _named(topic: TopicInfo, *more: str) -> str:
    text = "\0".join((topic.cluster_id, topic.name, *more))
    return f"{topic.name}-{blake2b(text.encode(errors='surrogateescape'), digest_size=8).hexdigest()}"


def upload_ledger(
    options: WatchOptions, topic: TopicInfo, clock: Clock, events: Events, control: Control
) -> SqliteUploadLedger:
    """
    The ledger of the uploader that has these options, open; its backups are made in the turns of ``control``.

    Args:
        options: Folder, selection, state folder, and what to do when the ledger is lost.
        topic: What the broker says of the topic.
        clock: Tells when a backup is due.
        events: Told where the ledger stands when that is not where a new one would, and what was put back.
        control: Its turns keep the backup up to date.

    Raises:
        ConfigError: Another program uses it; it would stand in the watched folder; it is lost and the user is to
            be asked.
        StorageError: It cannot be used, or this account has no right to.
    """
    root = options.upload_dir
    folders = state_folders(options.state_dir)
    name = ledger_file(Path(), "upload", topic, of=root, share=options.share).name
    path, stays = folders.place_of(name)
    if path.parent.resolve().is_relative_to(root.resolve()):
        raise ConfigError(
            f"the folder for the ledger {path.parent} lies in the watched folder {root}, where nothing of ours may "
            "stand",
            hint="choose a folder outside the watched one with --state-dir",
        )
    if stays:
        events(Note(stays, hint=f"to share it with other accounts, end the program and move it to {folders.machine}"))
    ground = ground_of(str(path.parent.absolute()))
    if ground.remote:
        events(
            Note(
                f"the folder for the ledger {path.parent} lies on a network share ({ground.fs_type}): the ledger is "
                "written in the way that is safe there, which is slower",
                hint="give a folder on a disk of this computer with --state-dir",
            )
        )
    ledger = SqliteUploadLedger(
        path,
        os.urandom,
        about=_about(options, topic),
        events=events,
        clock=clock,
        lost=options.ledger_lost,
        on_network=ground.remote,
    )
    overlapping = _overlapping(path, options)
    if overlapping is not None:
        ledger.close()
        raise ConfigError(
            f"another uploader of {root} to this topic is running, and sends files that are this one's part, too (its "
            f"ledger is {overlapping})",
            hint="stop it, or give each a part of the same whole: --share 1/2 and --share 2/2",
        )
    control.each_turn.append(ledger.turn)
    return ledger


def _overlapping(path: Path, options: WatchOptions) -> Path | None:
    """The ledger of an uploader that runs now and shares the files otherwise than by other parts of the same whole."""
    share = options.share if options.share is not None and options.share[1] > 1 else None
    whole = path.stem if share is None else path.stem.removesuffix(f"-{share[0]}of{share[1]}")
    for other in path.parent.glob(f"{glob.escape(whole)}*.sqlite"):
        part = re.fullmatch(r"(?:-[0-9]+of([0-9]+))?", other.stem.removeprefix(whole))
        if part is None or other == path:
            continue  # a backup, or another folder's
        if not (share is not None and part[1] == str(share[1])) and is_locked(other):
            return other
    return None


def _about(options: WatchOptions, topic: TopicInfo) -> Mapping[str, str]:
    selecting = {
        "upload_regex": options.upload_regex,
        "include": options.include,
        "exclude": options.exclude,
        "share": options.share,
        "symlinks": options.symlinks,
        "scan_seconds": options.scan_seconds,
    }
    return {
        "kind": "upload",
        "root": os.path.realpath(options.upload_dir),
        "topic": topic.name,
        "cluster_id": topic.cluster_id,
        "options": json.dumps(selecting),
    }


def _is_administrator() -> bool:
    if sys.platform == "win32":
        import ctypes  # noqa: PLC0415 - Windows only

        return bool(ctypes.windll.shell32.IsUserAnAdmin())
    return os.geteuid() == 0
