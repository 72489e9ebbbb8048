"""The peer: OpenMSIStream 1.8.8 in a virtual environment of its own, and its programs as processes.

Owns that environment (made once, in the user's cache folder), config files for it, and how its programs are
started and ended. It knows the peer as a user does, by its command line, and must never import or read it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from filelock import FileLock
from platformdirs import user_cache_dir

from openmsistream.errors import UnavailableError

VERSION = "1.8.8"
HERE = Path(__file__).parent
CONSTRAINTS = HERE / "peer-constraints.txt"

# What the peer itself puts into the folder it downloads to, besides the files.
DOWNLOAD_EXTRAS = frozenset({"DataFileDownloadDirectory.log", "ENCRYPTED_MESSAGES"})

# It reads one character of its standard input a second, then waits for a poll of 5 s in each of two threads.
QUIT_SECONDS = 30.0
_INSTALL_SECONDS = 600.0
_POLL_SECONDS = 0.05
# Either of them makes each of its programs end at once with an error (seen by running it).
_UNUSABLE_VARIABLES = ("OPENMSISTREAM_CONFIG_FILE_DIR", "OPENMSISTREAM_SERVICES_WORKING_DIR")


@dataclass(frozen=True, slots=True)
class Peer:
    """An installed peer; ``folder`` is its virtual environment."""

    folder: Path

    def command(self, program: str) -> str:
        """The path of one of its console scripts, e.g. ``DataFileUploadDirectory``."""
        return str(_scripts(self.folder) / (program + (".exe" if sys.platform == "win32" else "")))

    def start(self, program: str, *arguments: str | Path, log: Path) -> PeerProgram:
        """
        Start one of its programs in the background.

        Args:
            program: The console script's name.
            arguments: Its command line, without the name.
            log: The file that gets its standard output and error.
        """
        return PeerProgram([self.command(program), *map(str, arguments)], log)


class PeerProgram:
    """
    One running program of the peer. As a context manager it is surely gone at the end.

    Attributes:
        log: What it wrote to its standard output and error.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=environment()
            )

    def __enter__(self) -> PeerProgram:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(QUIT_SECONDS)
        with contextlib.suppress(BrokenPipeError):
            self._stdin().close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def is_alive(self) -> bool:
        """True while it runs."""
        return self._process.poll() is None

    def text(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait(self, seconds: float) -> int:
        """
        Return its exit code when it ends by itself.

        Raises:
            UnavailableError: It still ran after ``seconds``; it was killed.
        """
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            self._process.kill()
            raise UnavailableError(
                f"the peer did not end within {seconds:g} s: {self.text()[-500:]}",
                hint=f"see {self.log}",
            ) from error

    def quit(self, seconds: float = QUIT_SECONDS) -> int:
        """Ask it to end, as its users do (``q`` on its standard input), and return its exit code."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin().write(b"q\n")
            self._stdin().flush()
        return self.wait(seconds)

    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin


def environment() -> dict[str, str]:
    """Our environment without what the peer cannot stand, and without our own Python settings."""
    unwanted = {*_UNUSABLE_VARIABLES, "PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV"}
    return {name: value for name, value in os.environ.items() if name not in unwanted}


def write_config(path: Path, bootstrap: str) -> Path:
    """
    Write a config file as users of 1.x have them, and return its path.

    Args:
        path: Where; its name must end in ``.config``.
        bootstrap: The broker's address.
    """
    path.write_text(
        f"""\
[broker]
bootstrap.servers = {bootstrap}

[producer]
key.serializer = StringSerializer
value.serializer = DataFileChunkSerializer

[consumer]
auto.offset.reset = earliest
enable.auto.commit = False
key.deserializer = StringDeserializer
value.deserializer = DataFileChunkDeserializer
""",
        encoding="utf-8",
    )
    return path


def install(cache: Path | None = None) -> Peer:
    """
    Return the installed peer; the first call makes it (about 30 s and 300 MB), later ones take no time.

    Args:
        cache: The folder for the environment. None: ``$OPENMSISTREAM_CACHE_DIR``, else the user's.

    Raises:
        UnavailableError: It could not be installed; the error carries pip's last lines.
    """
    chosen = os.environ.get("OPENMSISTREAM_CACHE_DIR") or user_cache_dir("openmsistream")
    cache = Path(chosen) if cache is None else cache
    # Another Python or another set of versions is another environment.
    made_of = hashlib.sha256(CONSTRAINTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = cache.absolute() / f"peer-{VERSION}-{made_of}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock", timeout=_INSTALL_SECONDS):
        # Written last, so an installation that was broken off is made anew.
        ready = folder / "ready"
        if not ready.exists():
            shutil.rmtree(folder, ignore_errors=True)
            _make(folder)
            ready.touch()
    return Peer(folder)


def _make(folder: Path) -> None:
    python = str(_scripts(folder) / ("python.exe" if sys.platform == "win32" else "python"))
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]  # most is unused
    pip += ["--constraint", str(CONSTRAINTS)]
    _run([sys.executable, "-m", "venv", str(folder)])
    _run([*pip, f"openmsistream=={VERSION}"])
    if not _has_libsodium(python):
        _run([*pip, "rbcl"])
        _run([python, str(HERE / "give_libsodium.py")])
    _run([Peer(folder).command("UploadDataFile"), "--help"])


def _has_libsodium(python: str) -> bool:
    question = "import ctypes.util, sys; sys.exit(ctypes.util.find_library('sodium') is None)"
    return subprocess.run([python, "-c", question], check=False, env=environment()).returncode == 0


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(
        command, check=False, env=environment(), capture_output=True, text=True, timeout=_INSTALL_SECONDS
    )
    if done.returncode != 0:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        hint = "the peer needs the network once, to fetch it from PyPI with pip; then try again"
        if "libsodium" in last:
            hint = "install the system's libsodium, e.g. Debian's libsodium23, and try again"
        raise UnavailableError(
            f"OpenMSIStream {VERSION}, the peer, was not installed: {' '.join(command[:4])} ...:\n{last}",
            hint=hint,
        )


def _scripts(folder: Path) -> Path:
    return folder / ("Scripts" if sys.platform == "win32" else "bin")


def wait_until(what: str, condition: Callable[[], bool], seconds: float) -> None:
    """
    Return when ``condition()`` is true.

    Raises:
        UnavailableError: It was not within ``seconds``; ``what`` says what was waited for.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise UnavailableError(f"waited {seconds:g} s for {what}")
        time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    # `python -m tests.compat.peer`: fetch it now, for a computer that is to be without a network later.
    print(install().folder)
