"""The demo's folders: where they are, that they have room, and that nothing of them stays unless asked.

Owns one folder with everything in it. Knows nothing about what the files mean.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from openmsistream.errors import ConfigError, StorageError

_REMOVE_SECONDS = 5.0
# Kafka's own files, logs and the small samples.
_EXTRA_BYTES = 300_000_000


class Place:
    """
    One folder for everything the demo writes.

    Attributes:
        top: The folder itself.
        source: The watched folder: the instrument's.
        copy: The folder that files are delivered to.
        logs: Log files of the programs.
        state: What both programs remember.
        broker: The local broker's folder.
        config: The config file for the local broker.
        kept: True when the user gave the folder: then it stays.
    """

    def __init__(self, top: Path, *, kept: bool) -> None:
        self.top = top
        self.kept = kept
        self.source = top / "measurements"
        self.copy = top / "copies"
        self.logs = top / "logs"
        self.state = top / "state"
        self.broker = top / "broker"
        self.config = top / "demo.config"

    @classmethod
    def make(cls, keep: Path | None, size_bytes: int, *, copies: int) -> Place:
        """
        Make the folder: ``keep`` when given, else a temporary one.

        Args:
            keep: A folder that does not exist yet, or an empty one.
            size_bytes: How much the demo sends.
            copies: How often that is on this disk at the same time.

        Raises:
            ConfigError: ``keep`` is not empty.
            StorageError: The folder cannot be made, or its disk has too little room.
        """
        try:
            if keep is None:
                top = Path(tempfile.mkdtemp(prefix="openmsistream-demo-")).resolve()
            else:
                top = keep.absolute()
                top.mkdir(parents=True, exist_ok=True)
                if any(top.iterdir()):
                    raise ConfigError(
                        f"--keep {keep}: the folder is not empty", hint="name a new folder, or an empty one"
                    )
            place = cls(top, kept=keep is not None)
            free, needed = shutil.disk_usage(top).free, size_bytes * copies + _EXTRA_BYTES
            if free < needed:
                place.remove()
                raise StorageError(
                    f"{top}: {free // 1_000_000} MB free, the demo needs {needed // 1_000_000} MB",
                    hint="send less: --size-mb 20; or use another disk: --keep FOLDER",
                )
            for folder in (place.source, place.copy, place.logs, place.state):
                folder.mkdir()
        except OSError as error:
            raise StorageError(
                f"{error.filename or keep}: {error.strerror or error}",
                hint="name a folder you may write to: --keep FOLDER",
            ) from error
        return place

    def remove(self, *, but_logs: bool = False) -> bool:
        """
        Delete everything, or of a folder that the user gave only what is of no use afterwards.

        Args:
            but_logs: Keep the log files, those of the broker too.

        Returns:
            True when all that should go is gone.
        """
        if but_logs:
            for log in self.broker.glob("*.log*"):
                shutil.copy2(log, self.logs / log.name)
        if self.kept:
            doomed = [self.broker, self.state]
        elif but_logs:
            doomed = [self.source, self.copy, self.state, self.broker]
            self.config.unlink(missing_ok=True)
        else:
            doomed = [self.top]
        left = [folder for folder in doomed if not _gone(folder)]
        return not left


def _gone(folder: Path) -> bool:
    """Delete a folder; for a while, since on Windows a file stays open for a moment after its process."""
    deadline = time.monotonic() + _REMOVE_SECONDS
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
    return True
