"""One real Kafka broker on this computer, in a folder of its own: start, ready, stop, kill, start again.

Owns the broker's process and the order in which its folder (data, server properties, log file) is made
ready. It knows nothing about files, chunks or the programs that use the broker.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import subprocess
import sys
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from openmsistream.errors import ConfigError, OpenMSIStreamError, StorageError, UnavailableError
from openmsistream.local import ports, process
from openmsistream.local.parts import Parts, ensure_parts
from openmsistream.local.process import ProcessId
from openmsistream.local.settings import (
    DATA_FOLDER,
    MIB,
    OFFSETS_PARTITIONS,
    PROPERTIES_FILE,
    TEMPORARY_FOLDER,
    java_options,
    server_properties,
)
from openmsistream.local.state import (
    LOG_FILE,
    BrokerState,
    failure_in_log,
    read_state,
    storage_errors,
    write_state,
)

# A topic's index files and the first segments need this much; with less, the broker dies within minutes.
MIN_FREE_BYTES = 128 * MIB
STOP_SECONDS = 30.0
_POLL_SECONDS = 0.05
# How long a second `start` in the same folder waits for the first one to finish.
_START_LOCK_SECONDS = 90.0


class LocalBroker:
    """
    A one-node Apache Kafka broker on 127.0.0.1, with its own process and folder.

    Make one with ``LocalBroker.start`` or ``LocalBroker.find``.

    Attributes:
        folder: Everything the broker writes is below it. Topics survive a stop, a kill and a restart.
    """

    def __init__(self, folder: Path, state: BrokerState) -> None:
        self.folder = folder
        self._state = state
        self._outlive = True
        self._guard: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(
        cls,
        folder: Path,
        *,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        ready_seconds: float = 60,
        outlive: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> LocalBroker:
        """
        Start a broker on this folder and return it when it answers clients (about 4 s; then about 3 s).

        Args:
            folder: Where its data is or will be; made when missing.
            port: Where clients connect. None: the folder's last port, else a free one. 0: a free one.
            settings: Kafka's own server settings that replace or add to ours.
            ready_seconds: How long it may take until it answers.
            outlive: Leave it running when this program ends. Else it is stopped then, whatever ended this
                program: a crash or ``kill -9`` leaves no broker behind.
            say: Called with one line for the user before something slow (the first fetch).

        Raises:
            ConfigError: It already runs on this folder, the port is taken, or a setting is refused.
            StorageError: The folder cannot be written, or its disk is full.
            UnavailableError: It did not answer in time; the error names the log file.
        """
        folder = Path(folder).absolute()
        parts = ensure_parts(say=say)
        with _start_lock(folder):
            running = cls.find(folder)
            if running is not None:
                raise ConfigError(
                    f"a broker already runs on {folder}: address {running.bootstrap}, process {running.pid}",
                    hint="use that one, stop it with `openmsistream local stop`, or give another --folder",
                )
            last = read_state(folder)
            chosen = _choose_port(port, last)
            state = BrokerState(
                port=chosen,
                controller_port=_choose_controller_port(chosen, last),
                settings=dict(settings or {}),
            )
            broker = cls(folder, state)
            broker._outlive = outlive
            broker._launch(parts, ready_seconds)
        if not outlive:
            atexit.register(broker.stop)
        return broker

    @classmethod
    def find(cls, folder: Path) -> LocalBroker | None:
        """Return the broker whose process runs on this folder now; None when there is none."""
        folder = Path(folder).absolute()
        state = read_state(folder)
        if state is None or state.process is None or not state.process.is_alive():
            return None
        return cls(folder, state)

    @property
    def bootstrap(self) -> str:
        """The value for ``bootstrap.servers``."""
        return f"{ports.LOOPBACK}:{self._state.port}"

    @property
    def port(self) -> int:
        """The port clients connect to."""
        return self._state.port

    @property
    def pid(self) -> int:
        """
        The id of the broker's process.

        Raises:
            UnavailableError: It does not run.
        """
        return self._running().pid

    @property
    def log_file(self) -> Path:
        """The broker's own log since its last start; the one before is beside it, with ``.1``."""
        return self.folder / LOG_FILE

    @property
    def data_folder(self) -> Path:
        """Where Kafka keeps topics, one folder a partition."""
        return self.folder / DATA_FOLDER

    def is_alive(self) -> bool:
        """True while its process exists (also when frozen)."""
        return self._state.process is not None and self._state.process.is_alive()

    def is_ready(self, seconds: float = 2.0) -> bool:
        """Ask it for its metadata as any client does; True when it answers within ``seconds``."""
        if not self.is_alive():
            return False
        from openmsistream.local.topics import admin_client, answers  # noqa: PLC0415  see _wait_until_ready

        return answers(admin_client(self.bootstrap), seconds)

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """
        End it cleanly and return when its process is gone. Does nothing when it does not run.

        Args:
            seconds: After this time it is killed; its data is kept either way. On Windows it is always
                killed, because Windows has no request to end for a process without a window.
        """
        running = self._state.process
        if running is not None:
            running.terminate()
            running.thaw()  # a frozen process would never hear the request
            if not running.wait(seconds):
                running.kill()
                running.wait(STOP_SECONDS)
        self._forget_process()

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL) and return when its process is gone."""
        running = self._running()
        running.kill()
        running.wait(STOP_SECONDS)

    def freeze(self) -> None:
        """Stop its process where it is (SIGSTOP): connections stay open and nothing answers."""
        self._running().freeze()

    def thaw(self) -> None:
        """Let a frozen broker go on (SIGCONT)."""
        self._running().thaw()

    def restart(self, *, ready_seconds: float = 60) -> None:
        """
        Stop it if it runs and start it on the same folder and port with the same settings.

        Raises:
            ConfigError: Its port was taken meanwhile.
            UnavailableError: It did not answer in time.
        """
        parts = ensure_parts()
        with _start_lock(self.folder):
            self.stop()
            _require_free(self._state.port)
            controller_port = _choose_controller_port(self._state.port, self._state)
            self._state = replace(self._state, controller_port=controller_port)
            self._launch(parts, ready_seconds)

    def _running(self) -> ProcessId:
        if self._state.process is None or not self._state.process.is_alive():
            raise UnavailableError(
                f"the broker on {self.folder} does not run", hint="start it with `openmsistream local start`"
            )
        return self._state.process

    def _forget_process(self) -> None:
        ended, self._state = self._state.process, replace(self._state, process=None)
        # The folder may be gone already (a temporary one, at the end of the program), or another program
        # may have started a broker on it after ours had ended.
        last = read_state(self.folder)
        if last is not None and last.process == ended:
            # On a full disk the file goes on naming a process that is no more, which everyone checks.
            with contextlib.suppress(StorageError):
                write_state(self.folder, self._state)
        self._dismiss_guard()

    def _dismiss_guard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None and guard.stdin is not None:
            guard.stdin.close()
            guard.wait()

    def _launch(self, parts: Parts, ready_seconds: float) -> None:
        deadline = time.monotonic() + ready_seconds
        with storage_errors(self.folder):
            _require_space(self.folder)
            shutil.rmtree(self.folder / TEMPORARY_FOLDER, ignore_errors=True)
            (self.folder / TEMPORARY_FOLDER).mkdir()
            (self.folder / PROPERTIES_FILE).write_text(
                server_properties(self._state.port, self._state.controller_port, self._state.settings),
                encoding="ascii",
            )
            if self.log_file.exists():
                self.log_file.replace(self.log_file.with_name(LOG_FILE + ".1"))
            self._format(parts)
            command = [str(parts.java), *java_options(), "kafka.Kafka", PROPERTIES_FILE]
            started = process.launch(
                command, folder=self.folder, log_file=self.log_file, environment=_environment(parts)
            )
            self._state = replace(self._state, process=started)
        try:
            write_state(self.folder, self._state)
            self._dismiss_guard()  # that of a process which was killed
            if not self._outlive:
                self._guard = process.guard(started)
            self._wait_until_ready(deadline, ready_seconds)
        except BaseException:
            # Also on Ctrl-C: a broker nobody was told about must not stay.
            started.kill()
            started.wait(STOP_SECONDS)
            self._forget_process()
            raise

    def _format(self, parts: Parts) -> None:
        """Give the data folder its cluster id, once; Kafka refuses a folder without one."""
        if (self.data_folder / "meta.properties").exists():
            return
        # Kafka wants the base64 of 16 bytes; one that begins with "-" would be taken for an option.
        cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")
        done = subprocess.run(
            [
                str(parts.java),
                *java_options(),
                "kafka.tools.StorageTool",
                *("format", "-t", cluster_id, "-c", PROPERTIES_FILE, "--ignore-formatted"),
            ],
            cwd=self.folder,
            env=_environment(parts),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        with self.log_file.open("a", encoding="utf-8") as log:
            log.write(done.stdout + done.stderr)
        if done.returncode != 0:
            raise self._failure("could not prepare its data folder")

    def _wait_until_ready(self, deadline: float, ready_seconds: float) -> None:
        # Here, not above: the client library takes a while to import, and `local stop` does without it.
        from openmsistream.local.topics import admin_client, answers, make_offsets_topic  # noqa: PLC0415

        admin = admin_client(self.bootstrap)
        while not answers(admin, 0.5):
            if not self.is_alive():
                raise self._failure("ended while starting")
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"the broker on {self.folder} did not answer at {self.bootstrap} within {ready_seconds:g} s",
                    hint=f"see {self.log_file}",
                )
            time.sleep(_POLL_SECONDS)
        make_offsets_topic(admin, int(self._state.settings.get("offsets.topic.num.partitions", OFFSETS_PARTITIONS)))

    def _failure(self, what: str) -> OpenMSIStreamError:
        """Say why the broker's process ended, from its own log."""
        return failure_in_log(self.log_file, f"the broker on {self.folder} {what}", self.bootstrap)


def _choose_port(asked: int | None, last: BrokerState | None) -> int:
    if asked:
        _require_free(asked)
        return asked
    if asked is None and last is not None and ports.is_free(last.port):
        return last.port
    return ports.free_port()


def _choose_controller_port(port: int, last: BrokerState | None) -> int:
    if last is not None and last.controller_port != port and ports.is_free(last.controller_port):
        return last.controller_port
    return ports.free_port(avoid=frozenset({port}))


def _require_free(port: int) -> None:
    if not 0 < port < 65_536:
        raise ConfigError(f"port {port} is not from 1 to 65535", hint="e.g. --port 9092, or leave it out")
    if not ports.is_free(port):
        raise ConfigError(
            f"port {port} on {ports.LOOPBACK} is taken by another program",
            hint="end that program, or start with another --port (0: any free one)",
        )


def _require_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < MIN_FREE_BYTES:
        raise StorageError(
            f"{folder}: the disk is full: {free // MIB} MiB free, the broker needs {MIN_FREE_BYTES // MIB} MiB",
            hint="free space there, or use another --folder",
        )


@contextlib.contextmanager
def _start_lock(folder: Path) -> Iterator[None]:
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "start.lock", timeout=_START_LOCK_SECONDS)
        try:
            lock.acquire()
        except Timeout as error:
            raise UnavailableError(
                f"another program has been starting a broker on {folder} for {_START_LOCK_SECONDS:.0f} s",
                hint="end that program, or use another --folder",
            ) from error
    try:
        yield
    finally:
        lock.release()


def _environment(parts: Parts) -> dict[str, str]:
    """Our environment with the class path, without the variables that would change the Java runtime."""
    ours = {"CLASSPATH", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS"}
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    environment["CLASSPATH"] = parts.classpath
    if sys.platform == "linux":
        # Java takes the encoding of file names from the locale; in a service there is often none.
        environment["LC_ALL"] = "C.UTF-8"
    return environment
