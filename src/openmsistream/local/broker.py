"""One real Kafka broker on this computer, in a folder of its own: start, ready, stop, kill, start again.

Owns the broker's process and the order in which its folder (data, server properties, log file) is made
ready. It knows nothing about files, chunks or the programs that use the broker.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from openmsistream.errors import ConfigError, OpenMSIStreamError, UnavailableError
from openmsistream.local import ports, process
from openmsistream.local.parts import Parts, ensure_parts
from openmsistream.local.server import END_SECONDS, LocalServer
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
    require_space,
    start_lock,
    storage_errors,
    write_state,
)

# A topic's index files and the first segments need this much; with less, the broker dies within minutes.
MIN_FREE_BYTES = 128 * MIB
_POLL_SECONDS = 0.05


class LocalBroker(LocalServer[BrokerState]):
    """
    A one-node Apache Kafka broker on 127.0.0.1, with its own process and folder.

    Make one with ``LocalBroker.start`` or ``LocalBroker.find``.

    Attributes:
        folder: Everything the broker writes is below it. Topics survive a stop, a kill and a restart.
    """

    NAME = "broker"
    HOW = "openmsistream local start"
    GUARD_SECONDS = process.GUARD_SECONDS

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
        with start_lock(folder, "a broker"):
            running = cls.find(folder)
            if running is not None:
                raise ConfigError(
                    f"a broker already runs on {folder}: address {running.bootstrap}, process {running.pid}",
                    hint="use that one, stop it with `openmsistream local stop`, or give another --folder",
                )
            last = read_state(folder)

            def launch() -> LocalBroker:
                chosen = _choose_port(port, last)
                state = BrokerState(
                    port=chosen,
                    controller_port=_choose_controller_port(chosen, last),
                    settings=dict(settings or {}),
                )
                broker = cls(folder, state)
                broker._outlive = outlive
                broker._launch(parts, ready_seconds)
                return broker

            broker = ports.with_others(launch)
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
    def log_file(self) -> Path:
        """The broker's own log since its last start; the one before is beside it, with ``.1``."""
        return self.folder / LOG_FILE

    @property
    def data_folder(self) -> Path:
        """Where Kafka keeps topics, one folder a partition."""
        return self.folder / DATA_FOLDER

    def is_ready(self, seconds: float = 2.0) -> bool:
        """Ask it for its metadata as any client does; True when it answers within ``seconds``."""
        if not self.is_alive():
            return False
        from openmsistream.local.topics import admin_client, answers  # noqa: PLC0415  see _wait_until_ready

        return answers(admin_client(self.bootstrap), seconds)

    def stop(self, seconds: float = END_SECONDS) -> None:
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
                running.wait(END_SECONDS)
        self._forget_process()

    def restart(self, *, ready_seconds: float = 60) -> None:
        """
        Stop it if it runs and start it on the same folder and port with the same settings.

        Raises:
            ConfigError: Its port was taken meanwhile.
            UnavailableError: It did not answer in time.
        """
        parts = ensure_parts()
        with start_lock(self.folder, "a broker"):
            self.stop()
            ports.require_free(self._state.port)
            controller_port = _choose_controller_port(self._state.port, self._state)
            self._state = replace(self._state, controller_port=controller_port)
            self._launch(parts, ready_seconds)

    def _launch(self, parts: Parts, ready_seconds: float) -> None:
        deadline = time.monotonic() + ready_seconds
        with storage_errors(self.folder):
            require_space(self.folder, MIN_FREE_BYTES, "the broker")
            shutil.rmtree(self.folder / TEMPORARY_FOLDER, ignore_errors=True)
            (self.folder / TEMPORARY_FOLDER).mkdir()
            (self.folder / PROPERTIES_FILE).write_text(
                server_properties(self._state.port, self._state.controller_port, self._state.settings),
                encoding="ascii",
            )
            self._keep_log()
            self._format(parts)
            command = [str(parts.java), *java_options(), "kafka.Kafka", PROPERTIES_FILE]
            started = process.launch(
                command, folder=self.folder, log_file=self.log_file, environment=_environment(parts)
            )
        self._take_charge(started, lambda: self._wait_until_ready(deadline, ready_seconds))

    def _read_state(self) -> BrokerState | None:
        return read_state(self.folder)

    def _write_state(self) -> None:
        write_state(self.folder, self._state)

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
        ports.require_free(asked)
        return asked
    if asked is None and last is not None and ports.is_free(last.port):
        return last.port
    return ports.free_port()


def _choose_controller_port(port: int, last: BrokerState | None) -> int:
    if last is not None and last.controller_port != port and ports.is_free(last.controller_port):
        return last.controller_port
    return ports.free_port(avoid=frozenset({port}))


def _environment(parts: Parts) -> dict[str, str]:
    """Our environment with the class path, without the variables that would change the Java runtime."""
    ours = {"CLASSPATH", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS"}
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    environment["CLASSPATH"] = parts.classpath
    if sys.platform == "linux":
        # Java takes the encoding of file names from the locale; in a service there is often none.
        environment["LC_ALL"] = "C.UTF-8"
    return environment
