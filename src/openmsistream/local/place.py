"""Where the user's own local broker lives, and the config file that leads programs to it.

Knows folders and the text of that file; it starts nothing and talks to no broker.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from platformdirs import user_data_dir

from openmsistream.errors import StorageError

CONFIG_FILE = "local.config"

_TEXT = """\
# How programs reach the broker on this computer.
# `openmsistream local start` writes this file anew each time: copy it before you change it.

# Where the broker is.
[broker]
bootstrap.servers = {bootstrap}

# For programs that send files: nothing more is needed here.
[producer]

# For programs that receive files: a new group begins with the oldest file on the topic.
[consumer]
auto.offset.reset = earliest
"""


def default_folder() -> Path:
    """Say where the local broker keeps everything: ``OPENMSISTREAM_LOCAL_DIR``, or the user's data folder."""
    chosen = os.environ.get("OPENMSISTREAM_LOCAL_DIR")
    return (Path(chosen) if chosen else Path(user_data_dir("openmsistream")) / "local-broker").absolute()


def write_config(folder: Path, bootstrap: str) -> Path:
    """
    Write the config file for programs into the broker's folder and return its path.

    Raises:
        StorageError: The folder refused it.
    """
    path = folder / CONFIG_FILE
    try:
        path.write_text(_TEXT.format(bootstrap=bootstrap), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}", hint="use a --folder that you may write to") from error
    return path


def program_name() -> str:
    """
    What a user types to start our command in this terminal.

    ``openmsistream`` where the shell finds that; else its path, which begins in the present folder if it lies below:
    a virtual environment need not be activated.
    """
    script = Path(sys.executable).with_name("openmsistream.exe" if sys.platform == "win32" else "openmsistream")
    found = shutil.which("openmsistream")
    if not script.exists() or (found is not None and Path(found).absolute() == script.absolute()):
        return "openmsistream"
    here = Path.cwd()
    return str(script.relative_to(here)) if script.is_relative_to(here) else str(script)
