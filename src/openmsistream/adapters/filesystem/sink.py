"""A folder as a sink (``ports.Sink``): partial files out of sight, then whole files under their final names.

Everything that is not finished stands in the work folder ``.openmsistream`` at the root: partial files, and
what was put into quarantine. Nothing else in the root is touched but the files that are delivered. It must not know
where versions come from, nor what is told of them.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from openmsistream.adapters.filesystem.durable import (
    sync_data,
    sync_everything_on_the_disk_of,
    sync_file,
    sync_folder,
)
from openmsistream.adapters.filesystem.mounts import ground_of
from openmsistream.adapters.filesystem.notes import file_note, record_note
from openmsistream.adapters.filesystem.partials import READ_BYTES, PartialFiles, partial_name
from openmsistream.adapters.filesystem.placing import DescriptorPlacing, PathPlacing
from openmsistream.adapters.filesystem.refusing import IN_USE, refused_all, refused_alone
from openmsistream.adapters.filesystem.rules import DeliveryRules, Existing
from openmsistream.adapters.filesystem.shared_files import hold_if_possible
from openmsistream.adapters.filesystem.spelling import Spelling, folds, spelling_on_disk
from openmsistream.core.chunk import HashName
from openmsistream.core.hashing import new_hasher
from openmsistream.core.names import VERSION_NAMES, Naming, naming_for, version_name
from openmsistream.core.paths import WORK_FOLDER
from openmsistream.core.versions import VersionKey
from openmsistream.errors import (
    BytesLostError,
    ConfigError,
    DeliveryError,
    OpenMSIStreamError,
    ProtocolError,
    StorageError,
)
from openmsistream.ports import NOT_KNOWN, Buffer, Failure, Publication, Record

_BY_DESCRIPTOR = os.rename in os.supports_dir_fd and os.open in os.supports_dir_fd
IN_USE_TRIES = 10
"""How often a file is tried to be replaced that another program has open: about once a second."""
_UNREADABLE = frozenset({errno.EACCES, errno.EPERM, errno.EIO})
Announce = Callable[[Sequence[Publication]], None]
"""Called with what is about to get its name, before it does; StorageError when it cannot take note of it."""


class FolderSink:
    """
    Delivers files below ``root``, which is made if need be.

    Args:
        root: The output folder.
        by_descriptor: Place files through descriptors of folders (POSIX) or by names (Windows).
        rules: How files are to stand there.
        names: What becomes of names that Windows cannot have: auto, keep, map or refuse (``core.names``).
        announce: See ``Announce``.
        spelling: Where paths stand there; None: the folder is asked.
        whose: Tells its partial files from those of other sinks on that folder, whose ``restore`` would remove them;
            of sinks with one name, one at a time may be there.

    Raises:
        ConfigError: The rules ask for what cannot be done there, or another program has that name there.
        StorageError: The folder cannot be made or written.
    """

    def __init__(
        self,
        root: Path,
        *,
        by_descriptor: bool = _BY_DESCRIPTOR,
        rules: DeliveryRules | None = None,
        names: str = "auto",
        announce: Announce | None = None,
        spelling: Spelling | None = None,
        whose: str = "",
    ) -> None:
        self.root, self._root_name = root, str(root)
        self._by_descriptor = by_descriptor
        self._rules = rules or DeliveryRules()
        self._announce = announce
        self._quarantine = root / WORK_FOLDER / "quarantine"
        self._placed: dict[VersionKey, str] = {}
        self._in_use: dict[VersionKey, int] = {}
        self._unsynced: set[str] = set()  # names given in a batch that failed behind that
        self._recognised: dict[str, str] = {}  # given before a kill, maybe: full paths, by what is placed there
        # Nobody may read more of a file while it comes in than when it is there; its owner can always go on with it.
        wanted = self._rules.file_mode
        mode = 0o666 if wanted is None else wanted & 0o666 | 0o600
        with ExitStack() as unless_it_fails, self._told():
            work = root / WORK_FOLDER
            work.mkdir(parents=True, exist_ok=True)
            held = hold_if_possible(work / f"{whose}.lock", _taken(root)) if whose else None
            if held is not None:
                unless_it_fails.callback(held.release)
            self._partials = PartialFiles(
                work / "partial",
                by_descriptor=by_descriptor,
                mode=mode,
                fs_type=ground_of(str(root.absolute())).fs_type,
                whose=whose,
            )
            self._quarantine.mkdir(parents=True, exist_ok=True)
            self._rules.check(self._partials.folder, root)
            if spelling is None:
                naming = naming_for(names, windows=os.name == "nt", folds=folds(root))
                spelling = spelling_on_disk(root, naming)
            self._let_go = unless_it_fails.pop_all()
        self._spelling = spelling

    @property
    def naming(self) -> Naming:
        """The names at this destination."""
        return self._spelling.naming

    def write(self, key: VersionKey, offset: int, data: Buffer) -> None:
        """
        Keep bytes of an open version at their offset.

        Raises:
            BytesLostError: The disk did not take what was written before: it is to be read again.
        """
        self._placed.pop(key, None)  # a version may come a second time, when its file was removed
        try:
            self._partials.write(key, offset, data)
        except OSError as error:
            raise refused_all(self.root, error) from error

    def read(self, key: VersionKey, start: int, stop: int) -> Iterator[Buffer]:
        """
        The bytes of an open version again, in pieces of up to 1 MiB.

        Raises:
            BytesLostError: Somebody cut or removed them, or the disk does not give them back. What is left of them is
                removed, so that nobody goes on with it.
        """
        try:
            yield from self._partials.read(key, start, stop)
        except BytesLostError:
            self.discard(key)
            raise
        except OSError as error:
            if error.errno != errno.EIO:
                raise refused_all(self.root, error) from error
            path = self._partials.path(key)
            self.discard(key)
            raise BytesLostError(
                f"{path}: the disk does not give back what was written: {error.strerror}",
                [key],
                hint="check that disk; the file is read from the topic again",
            ) from error

    def sync(self, keys: Iterable[VersionKey]) -> None:
        """
        Make what was written of these versions survive a power cut, and the files that were recognised.

        Raises:
            BytesLostError: The disk did not take it: it is to be read again.
        """
        with self._told():
            self._partials.sync(keys, self._recognised.values())
        self._unsynced.update(self._recognised)
        self._recognised.clear()

    def publish(self, publications: Sequence[Publication]) -> dict[VersionKey, OpenMSIStreamError]:
        """
        Make versions appear under their final names, each whole or not at all.

        A batch that failed half-way is published again as a whole: what has its name already is left as it is. A path
        that is refused while others can be written fails alone.

        Raises:
            BytesLostError: Partial files of some are gone; all others have their names.
            StorageError: Nothing can be written; or another program has some files open, and all others have names.
        """
        failed: dict[VersionKey, OpenMSIStreamError] = {}
        lost: list[VersionKey] = []
        in_use: StorageError | None = None
        self._placed = {p.key: self._placed[p.key] for p in publications if p.key in self._placed}
        self._in_use = {p.key: self._in_use[p.key] for p in publications if p.key in self._in_use}
        wanted = [publication for publication in publications if publication.key not in self._placed]
        if self._announce is not None and wanted:
            self._announce(wanted)
        with self._told():
            self._spelling.begin()
            placing = self._placing()
            try:
                closed = self._placed_before(placing)
                for publication in _by_folder(wanted):
                    key = publication.key
                    try:
                        self._finish(publication)
                        stored = self._put(placing, publication)
                        self._placed[key] = stored
                        self._unsynced.add(stored)
                        self._partials.gone(key)
                    except (ProtocolError, DeliveryError) as error:
                        failed[key] = error
                    except BytesLostError:
                        lost.append(key)
                    except StorageError as error:
                        in_use = error
                    except FileNotFoundError:
                        if self._partials.path(key).exists():
                            raise  # the folder it was to go to was removed meanwhile
                        lost.append(key)
                placing.sync()
                if closed:
                    sync_everything_on_the_disk_of(self._partials.folder_fd)
                self._unsynced.clear()
            finally:
                self._unsynced -= placing.safe
                placing.close()
        if lost:
            raise self._partials.lost(lost)
        if in_use is not None:
            raise in_use
        return failed

    def where(self, key: VersionKey) -> str:
        """The full path that a version of the last batch stands under; empty when it is not known."""
        stored = self._placed.get(key)
        return "" if stored is None else os.path.join(self._root_name, stored)

    def standing(self, publication: Publication, hash_name: HashName, digest: bytes) -> str:
        """The full path under which exactly this version stands, found by its bytes; empty when it does not."""
        try:
            stored = self._spelling.place(publication.path)
        except (ProtocolError, OSError):
            return ""
        names = [stored, *self._version_names(stored, publication)]
        found = (name for name in names if self._has(self.root / name, publication.size, hash_name, digest))
        name = next(found, None)
        return "" if name is None else str(self.root / name)

    def _placing(self) -> DescriptorPlacing | PathPlacing:
        made = self._rules.dress_folder if self._rules.folder_mode is not None or self._rules.owned else None
        if self._by_descriptor:
            return DescriptorPlacing(self.root, self._partials.folder_fd, made)
        return PathPlacing(self.root, self._partials.folder, made)

    def _finish(self, publication: Publication) -> None:
        """Everything that is done to a file before it gets its name."""
        key = publication.key
        if self._rules.dressing:
            fd = self._partials.file(key, create=False)
            self._rules.dress(fd, self._partials.path(key), publication.mtime_ns)
        self._partials.finish(key, publication.size)

    def _placed_before(self, placing: DescriptorPlacing | PathPlacing) -> bool:
        """Sync the folders of what was placed before, too; True when some of them may not be opened any more."""
        closed = False
        for stored in sorted(self._unsynced):  # one folder after the other
            try:
                placing.placed(stored)
            except ProtocolError:
                pass  # a folder of it became a link: it is not ours any more
            except PermissionError:
                closed = True
        return closed

    def _put(self, placing: DescriptorPlacing | PathPlacing, publication: Publication) -> str:
        """As ``_place``; DeliveryError when this path alone is refused, StorageError when it may not be so soon."""
        try:
            return self._place(placing, publication)
        except FileNotFoundError:
            raise
        except OSError as error:
            key, path = publication.key, publication.path
            failure = refused_alone(path, error, self.root, self._partials.folder)
            tries = self._in_use[key] = self._in_use.get(key, 0) + 1
            if error.errno in IN_USE and tries < IN_USE_TRIES:
                raise StorageError(
                    f"{path!r}: another program has a file of that name in use: {error.strerror}",
                    hint="close it there; after some tries the new version goes to quarantine",
                ) from error
            raise failure from error

    def _place(self, placing: DescriptorPlacing | PathPlacing, publication: Publication) -> str:
        """Give a file its name, as the rules say; the path that it stands under."""
        source, stored = partial_name(publication.key), self._spelling.place(publication.path)
        if self._rules.existing is Existing.REPLACE:
            placing.place(source, stored)
            self._spelling.placed(stored)
            return stored
        for name in (stored, *self._version_names(stored, publication)):
            if placing.place_new(source, name):
                self._spelling.placed(name)
                return name
        raise DeliveryError(
            f"{publication.path!r}: a file of that name is there already, and is never overwritten",
            hint="the new version is in quarantine; move one of them, or choose --on-existing keep-both",
        )

    def _version_names(self, stored: str, of: Publication) -> list[str]:
        if self._rules.existing is not Existing.KEEP_BOTH:
            return []
        return [version_name(stored, of.key, of.mtime_ns, attempt) for attempt in range(VERSION_NAMES)]

    def stands(self, path: str, size: int) -> bool:
        """True when a file of that size is there under its final path."""
        try:
            return _is_file(self._full(path), size)
        except (ProtocolError, OSError):
            return False

    def holds(self, path: str, size: int, hash_name: HashName, digest: bytes) -> bool:
        """True when the file under its final path has that size and that digest; it is synced at the next barrier."""
        try:
            stored = self._spelling.place(path)
        except (ProtocolError, OSError):
            return False
        file = os.path.join(self._root_name, stored)
        if not self._has(file, size, hash_name, digest):
            return False
        self._recognised[stored] = file
        return True

    def _full(self, path: str) -> str:
        return os.path.join(self._root_name, self._spelling.place(path))

    def _has(self, file: Path | str, size: int, hash_name: HashName, digest: bytes) -> bool:
        if not _is_file(file, size):
            return False
        hasher = new_hasher(hash_name)
        try:
            with open(file, "rb", buffering=0) as opened:
                while piece := opened.read(READ_BYTES):
                    hasher.update(piece)
        except OSError as error:
            if error.errno in _UNREADABLE:
                return False  # nobody knows what is in it: it is replaced as any other
            raise refused_all(self.root, error) from error
        return hasher.digest() == digest

    def discard(self, key: VersionKey) -> None:
        """Forget the bytes of an open version."""
        with self._told():
            self._partials.discard(key)

    def set_aside(self, key: VersionKey, reason: str, failure: Failure = NOT_KNOWN) -> None:
        """Move the bytes of an open version to quarantine, with the reason and what else is known."""
        self._partials.gone(key)
        name = partial_name(key)
        with self._told():
            with suppress(FileNotFoundError):
                sync_file(str(self._partials.path(key)))
                os.replace(self._partials.path(key), self._quarantine / name)
            self._note(name, file_note(key, reason, failure))

    def quarantine(self, topic: str, record: Record, reason: str, *, path: str = "", at_ns: int | None = None) -> None:
        """Keep a record that cannot be handled, with its origin, the reason, its file's path and when that was."""
        name = f"{topic}-{record.partition}-{record.offset}"
        with self._told():
            _write_durably(self._quarantine / f"{name}.value", record.value or b"")
            self._note(name, record_note(topic, record, reason, path, at_ns))

    def restore(self, known: Iterable[VersionKey]) -> set[VersionKey]:
        """Which of ``known`` still have bytes here; partial files of no known version are removed."""
        with self._told():
            return self._partials.restore(known)

    def close(self) -> None:
        """Let go of all files."""
        with self._let_go:
            self._partials.close()

    def _note(self, name: str, values: dict[str, object]) -> None:
        """The reason beside what was put into quarantine, both on the disk before the record counts as handled."""
        _write_durably(self._quarantine / f"{name}.json", json.dumps(values, indent=1).encode())
        if self._by_descriptor:
            folder = os.open(self._quarantine, os.O_RDONLY)
            try:
                sync_folder(folder)
            finally:
                os.close(folder)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise refused_all(self.root, error) from error


def _taken(root: Path) -> ConfigError:
    return ConfigError(
        f"{root}: a downloader of this topic to this folder is running already",
        hint="stop the other one, which may run on another computer, or give this one an output folder of its own",
    )


def _by_folder(publications: Iterable[Publication]) -> list[Publication]:
    """
    Those of one folder behind each other, so that it is opened and synced once.

    Files of one folder, and folders by their first files, stay in the order in which they came: the first of two
    names that differ in upper and lower case has its own.
    """
    folders: dict[str, list[Publication]] = {}
    for publication in publications:
        folders.setdefault(os.path.dirname(publication.path), []).append(publication)
    return [publication for together in folders.values() for publication in together]


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        sync_data(file.fileno())


def _is_file(file: Path | str, size: int) -> bool:
    try:
        found = os.lstat(file)
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == size
