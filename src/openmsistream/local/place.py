"""Where the user's own local broker and object store live, and the config file that leads programs to them.

Knows folders and the text of that file; it starts nothing and talks to neither.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from platformdirs import user_data_dir

from openmsistream.local.buckets import Access
from openmsistream.local.state import storage_errors
from openmsistream.local.weed import write_private

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

_STORE_TEXT = """
# For programs that deliver to the object store on this computer: where it is, and its keys.
[s3]
endpoint_url = {access.endpoint}
access_key_id = {access.access_key}
secret_key_id = {access.secret_key}
region = {access.region}
"""


def default_folder() -> Path:
    """Say where the local broker keeps everything: ``OPENMSISTREAM_LOCAL_DIR``, or the user's data folder."""
    chosen = os.environ.get("OPENMSISTREAM_LOCAL_DIR")
    return (Path(chosen) if chosen else Path(user_data_dir("openmsistream")) / "local-broker").absolute()


def store_folder(folder: Path) -> Path:
    """Say where the object store that belongs to a broker's folder keeps everything."""
    return folder / "store"


def write_config(folder: Path, bootstrap: str, store: Access | None = None) -> Path:
    """
    Write the config file for programs into the broker's folder and return its path.

    Args:
        folder: The broker's folder.
        bootstrap: The broker's address.
        store: The object store that runs beside it. Its keys are in the file then, and nobody else may read it.

    Raises:
        StorageError: The folder refused it.
    """
    path = folder / CONFIG_FILE
    text = _TEXT.format(bootstrap=bootstrap)
    with storage_errors(path):
        if store is None:
            path.write_text(text, encoding="utf-8")
        else:
            write_private(path, text + _STORE_TEXT.format(access=store))
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
