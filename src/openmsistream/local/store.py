"""One real S3 object store on this computer, in a folder of its own: start, ready, stop, kill, freeze, start again.

Owns the store's process and the order in which its folder (keys, data, log file) is made ready. It knows
nothing about files, chunks or the programs that use the store; what clients do is in ``buckets``.
"""

from __future__ import annotations

import atexit
import contextlib
import secrets
import string
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from openmsistream.errors import ConfigError, UnavailableError
from openmsistream.local import buckets, ports, process, weed
from openmsistream.local.buckets import Access, UnfinishedUpload
from openmsistream.local.server import END_SECONDS, LocalServer
from openmsistream.local.state import require_space, start_lock, storage_errors
from openmsistream.local.store_state import (
    LOG_FILE,
    StoreState,
    failure_in_store_log,
    read_store_state,
    write_store_state,
)
from openmsistream.local.weed import DATA_FOLDER, Keys, StorePorts

REGION = "us-east-1"
# With less, the store refuses to write from the beginning.
MIN_FREE_BYTES = (weed.MIN_FREE_MIB + 28) * 1024 * 1024
_POLL_SECONDS = 0.05
_PROBE_SECONDS = 1.0
_KEY_LETTERS = string.ascii_letters + string.digits


class LocalStore(LocalServer[StoreState]):
    """
    An S3 object store (SeaweedFS) on 127.0.0.1, with its own process, keys and folder.

    Make one with ``LocalStore.start`` or ``LocalStore.find``.

    Attributes:
        folder: Everything the store writes is below it. Objects and unfinished uploads survive a stop, a kill
            and a restart.
        region: The region that clients name; the store takes any.
    """

    NAME = "object store"
    HOW = "openmsistream local start --s3"
    GUARD_SECONDS = 0.0  # as in `stop`

    region = REGION

    @classmethod
    def start(
        cls, folder: Path, *, port: int | None = None, ready_seconds: float = 60, outlive: bool = False
    ) -> LocalStore:
        """
        Start a store on this folder and return it when it answers clients (about 3 s).

        Args:
            folder: Where its data is or will be; made when missing.
            port: Where clients connect. None: the folder's last port, else a free one. 0: a free one.
            ready_seconds: How long it may take until it answers.
            outlive: Leave it running when this program ends. Else it is ended then, whatever ended this
                program: a crash or ``kill -9`` leaves no store behind.

        Raises:
            ConfigError: It already runs on this folder, the port is taken, or a package is not installed.
            StorageError: The folder cannot be written, or its disk is full.
            UnavailableError: It ended or did not answer in time; the error names the log file.
        """
        folder = Path(folder).absolute()
        program = weed.find_weed()
        with start_lock(folder, "an object store"):
            running = cls.find(folder)
            if running is not None:
                raise ConfigError(
                    f"an object store already runs on {folder}: address {running.endpoint}, process {running.pid}",
                    hint="use that one, stop it with `openmsistream local stop`, or give another --folder",
                )
            last = read_store_state(folder)

            def launch() -> LocalStore:
                state = StoreState(
                    ports=_choose_ports(port, None if last is None else last.ports),
                    keys=_new_keys() if last is None else last.keys,
                )
                store = cls(folder, state)
                store._outlive = outlive
                store._launch(program, ready_seconds)
                return store

            store = ports.with_others(launch)
        if not outlive:
            atexit.register(store.stop)
        return store

    @classmethod
    def find(cls, folder: Path) -> LocalStore | None:
        """Return the store whose process runs on this folder now; None when there is none."""
        folder = Path(folder).absolute()
        state = read_store_state(folder)
        if state is None or state.process is None or not state.process.is_alive():
            return None
        return cls(folder, state)

    @property
    def endpoint(self) -> str:
        """Its address for clients, with ``http://``."""
        return f"http://{ports.LOOPBACK}:{self.port}"

    @property
    def port(self) -> int:
        """The port clients connect to."""
        return self._state.ports.s3

    @property
    def access_key(self) -> str:
        """The access key of the owner, who may do everything."""
        return self._state.keys.access_key

    @property
    def secret_key(self) -> str:
        """The secret key of the owner."""
        return self._state.keys.secret_key

    @property
    def access(self) -> Access:
        """What a client needs to do everything."""
        return Access(self.endpoint, self.access_key, self.secret_key, self.region)

    @property
    def reader(self) -> Access:
        """What a client needs that may read and list, and write nothing."""
        keys = self._state.keys
        return Access(self.endpoint, keys.reader_access_key, keys.reader_secret_key, self.region)

    @property
    def log_file(self) -> Path:
        """The store's own log since its last start; the one before is beside it, with ``.1``."""
        return self.folder / LOG_FILE

    @property
    def data_folder(self) -> Path:
        """Where the store keeps the bytes of objects, and what it knows of them."""
        return self.folder / DATA_FOLDER

    def client(self, **config: Any) -> Any:
        """Return a boto3 client with the owner's keys; ``config`` is for ``botocore.config.Config``."""
        return buckets.s3_client(self.access, **config)

    def create_bucket(self, name: str) -> bool:
        """Make a bucket; False when it is there already. ConfigError when S3 does not allow its name."""
        with contextlib.closing(self.client()) as client:
            return buckets.create_bucket(client, name)

    def bucket_names(self) -> list[str]:
        """Return the names of all buckets, sorted."""
        with contextlib.closing(self.client()) as client:
            return buckets.bucket_names(client)

    def unfinished_uploads(self, bucket: str, prefix: str = "") -> list[UnfinishedUpload]:
        """Return the multipart uploads of a bucket that were begun and neither completed nor aborted."""
        with contextlib.closing(self.client()) as client:
            return buckets.unfinished_uploads(client, bucket, prefix)

    def is_ready(self, seconds: float = 2.0) -> bool:
        """Ask for its buckets as any client does; True when it answers within about ``seconds``."""
        if not self.is_alive():
            return False
        with contextlib.closing(buckets.probing_client(self.access, seconds)) as client:
            return buckets.answers(client, self._state.ports.master, seconds)

    def stop(self) -> None:
        """
        End it and return when its process is gone. Does nothing when it does not run.

        What it had acknowledged is kept; requests that are under way fail.
        """
        running = self._state.process
        if running is not None:
            # Asked to end, it goes on taking requests and waits 15 s for connections that it holds to itself
            # (SeaweedFS 4.48). What it acknowledged is with the operating system already.
            running.kill()
            running.wait(END_SECONDS)
        self._forget_process()

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL) and return when its process is gone."""
        super().kill()
        self._remove_sockets()

    def restart(self, *, ready_seconds: float = 60) -> None:
        """
        Stop it if it runs and start it on the same folder and port with the same keys.

        Raises:
            ConfigError: Its port was taken meanwhile.
            UnavailableError: It did not answer in time.
        """
        program = weed.find_weed()
        with start_lock(self.folder, "an object store"):
            self.stop()
            self._state = replace(self._state, ports=_choose_ports(self.port, self._state.ports))
            self._launch(program, ready_seconds)

    def _forget_process(self) -> None:
        ended = self._state.process
        super()._forget_process()
        if ended is not None:
            self._remove_sockets()

    def _leftovers(self) -> list[Path]:
        return weed.sockets(self.folder, self._state.ports)

    def _read_state(self) -> StoreState | None:
        return read_store_state(self.folder)

    def _write_state(self) -> None:
        write_store_state(self.folder, self._state)

    def _remove_sockets(self) -> None:
        for path in self._leftovers():
            with contextlib.suppress(OSError):  # one that stays is overwritten by the next start
                path.unlink(missing_ok=True)

    def _launch(self, program: Path, ready_seconds: float) -> None:
        deadline = time.monotonic() + ready_seconds
        with storage_errors(self.folder):
            require_space(self.folder, MIN_FREE_BYTES, "the object store")
            weed.write_files(self.folder, self._state.keys)
            self._keep_log()
            started = process.launch(
                weed.command(program, self._state.ports),
                folder=self.folder,
                log_file=self.log_file,
                environment=weed.environment(),
            )
        self._take_charge(started, lambda: self._wait_until_ready(deadline, ready_seconds))

    def _wait_until_ready(self, deadline: float, ready_seconds: float) -> None:
        with contextlib.closing(buckets.probing_client(self.access, _PROBE_SECONDS)) as client:
            while not buckets.answers(client, self._state.ports.master, _PROBE_SECONDS):
                if not self.is_alive():
                    raise failure_in_store_log(self.log_file, f"the object store on {self.folder} ended while starting")
                if time.monotonic() > deadline:
                    raise UnavailableError(
                        f"the object store on {self.folder} did not answer at {self.endpoint}"
                        f" within {ready_seconds:g} s",
                        hint=f"see {self.log_file}",
                    )
                time.sleep(_POLL_SECONDS)


def _choose_ports(asked: int | None, last: StorePorts | None) -> StorePorts:
    """Choose eight different ports: those of the last start where they are free, else new ones."""
    chosen: dict[str, int] = {}
    if asked:
        ports.require_free(asked)
        chosen["s3"] = asked
    before = {} if last is None else asdict(last)
    if asked == 0:
        before.pop("s3", None)
    for name in weed.PORT_NAMES:
        if name in chosen:
            continue
        taken = frozenset(chosen.values())
        port = before.get(name)
        if port is None or port in taken or not ports.is_free(port):
            port = ports.free_port(avoid=taken)
        chosen[name] = port
    return StorePorts(**chosen)


def _new_keys() -> Keys:
    return Keys(
        access_key="LOCAL" + _random_letters(15).upper(),
        secret_key=_random_letters(40),
        reader_access_key="READER" + _random_letters(14).upper(),
        reader_secret_key=_random_letters(40),
    )


def _random_letters(count: int) -> str:
    return "".join(secrets.choice(_KEY_LETTERS) for _ in range(count))
