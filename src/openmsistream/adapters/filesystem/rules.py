"""How files are to stand in an output folder: what an existing file means, rights, owner, time of modification.

Owns what can be said of it, whether this system and this folder can do it, and doing it to one open file. It must
not know where files go.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from openmsistream.errors import ConfigError

_BY_DESCRIPTOR = os.utime in os.supports_fd and os.chmod in os.supports_fd
_ALONE = "this option is for Linux and macOS only"


class Existing(Enum):
    """What happens when something stands under the name of a version that is to be delivered."""

    REPLACE = "replace"  # the newer version takes its place in one step
    KEEP_BOTH = "keep-both"  # the newer version gets a name of its own
    NEVER = "never"  # the newer version goes to quarantine


@dataclass(frozen=True, slots=True)
class DeliveryRules:
    """
    How files are to stand.

    Attributes:
        existing: What an existing file means, whoever wrote it.
        keep_mtime: They get the sender's time of modification; else they have the time at which they were written.
        file_mode, folder_mode: The permissions of files, and of folders that are made for them; None: the umask's.
        owner, group: Their numbers; -1: as it comes.
    """

    existing: Existing = Existing.REPLACE
    keep_mtime: bool = False
    file_mode: int | None = None
    folder_mode: int | None = None
    owner: int = -1
    group: int = -1

    @property
    def owned(self) -> bool:
        """True when owner or group are given."""
        return self.owner >= 0 or self.group >= 0

    @property
    def dressing(self) -> bool:
        """True when there is something to be done to a file before it gets its name."""
        return self.keep_mtime or self.file_mode is not None or self.owned

    def check(self, folder: Path, root: Path) -> None:
        """
        Find out with a file of our own whether this can be done in a folder of ours below ``root``.

        Raises:
            ConfigError: It cannot; the text says which and why.
            OSError: The folder cannot be written at all.
        """
        if sys.platform == "win32" and (self.file_mode is not None or self.folder_mode is not None or self.owned):
            raise ConfigError("files cannot get a mode or an owner on Windows", hint=_ALONE)
        if not self.dressing and self.folder_mode is None:
            return
        trial = folder / "trial"
        fd = os.open(trial, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            self.dress(fd, trial, 10**18)
            self.dress_folder(fd)
        except OSError as error:
            raise _cannot(self, root, error) from error
        finally:
            os.close(fd)
            trial.unlink()

    def dress(self, fd: int, path: Path, mtime_ns: int | None) -> None:
        """Do to an open file what is to be done before it gets its name; ``path`` is where it stands now."""
        if sys.platform != "win32":
            if self.owned:
                os.fchown(fd, self.owner, self.group)
            if self.file_mode is not None:
                os.fchmod(fd, self.file_mode)
        if self.keep_mtime and mtime_ns is not None:
            # A sender may claim any time: one that this file system cannot have is left out.
            with suppress(OverflowError):
                _set_mtime(fd if _BY_DESCRIPTOR else path, mtime_ns)

    def dress_folder(self, fd: int) -> None:
        """The same for a folder that was made just now."""
        if sys.platform != "win32":
            if self.owned:
                os.fchown(fd, self.owner, self.group)
            if self.folder_mode is not None:
                os.fchmod(fd, self.folder_mode)


def owner_ids(text: str) -> tuple[int, int]:
    """
    The numbers of ``user``, ``user:group`` or ``:group``, by name or number; -1 for what is not said.

    Raises:
        ConfigError: There is no such user or group, or this system has none.
    """
    user, _, group = text.partition(":")
    if sys.platform == "win32":
        raise ConfigError("owner: files cannot get an owner on Windows", hint=_ALONE)
    import grp  # noqa: PLC0415 - not on Windows
    import pwd  # noqa: PLC0415

    return (
        _number("user", user, lambda name: pwd.getpwnam(name).pw_uid),
        _number("group", group, lambda name: grp.getgrnam(name).gr_gid),
    )


def _number(kind: str, name: str, known: Callable[[str], int]) -> int:
    if not name or name.isdecimal():
        return int(name) if name else -1
    try:
        return known(name)
    except KeyError as error:
        raise ConfigError(
            f"owner: this computer knows no {kind} {name!r}", hint="give an existing name, or a number"
        ) from error


def _set_mtime(file: int | Path, mtime_ns: int) -> None:
    try:
        os.utime(file, ns=(mtime_ns, mtime_ns))
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOVERFLOW):
            raise


def _cannot(rules: DeliveryRules, root: Path, error: OSError) -> ConfigError:
    wanted = [
        *(["owner"] if rules.owned else []),
        *(["mode"] if rules.file_mode is not None or rules.folder_mode is not None else []),
        *(["time of modification"] if rules.keep_mtime else []),
    ]
    hint = "leave the option away, or choose a folder on a file system that has such things"
    if rules.owned:
        hint = "only root may give files away; others can choose a group that they belong to, as :archive"
    what = " or ".join(wanted)
    return ConfigError(f"{root}: files cannot get the {what} that was asked for: {error.strerror}", hint=hint)
