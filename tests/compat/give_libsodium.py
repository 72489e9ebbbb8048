"""Gives an environment without a system libsodium the one that the package rbcl carries.

Run by the peer's own Python, after rbcl was installed there. pysodium, which the peer imports at its start,
asks ``ctypes.util.find_library`` for it, and that looks in the system's folders only; so a line in a ``.pth``
file makes it answer with our copy. Knows nothing else of the peer. Needs no root rights.
"""

from __future__ import annotations

import importlib
import sys
import sysconfig
from pathlib import Path

ANSWER = '''\
"""Answers a search for libsodium with the copy beside this file, when the system has none."""
import ctypes.util
from pathlib import Path

_search = ctypes.util.find_library


def find_library(name):
    found = _search(name)
    if found is None and name in ("sodium", "libsodium"):
        return str(Path(__file__).with_name("{name}"))
    return found


ctypes.util.find_library = find_library
'''


def main() -> None:
    # rbcl holds the shared library as a bytes object, the same on every platform it has wheels for.
    sodium_bs: bytes = importlib.import_module("rbcl._sodium").sodium_bs

    suffix = {"win32": "dll", "darwin": "dylib"}.get(sys.platform, "so")
    packages = Path(sysconfig.get_path("purelib"))
    name = f"peer_libsodium.{suffix}"
    (packages / name).write_bytes(sodium_bs)
    (packages / "peer_sodium.py").write_text(ANSWER.format(name=name), encoding="utf-8")
    (packages / "peer_sodium.pth").write_text("import peer_sodium\n", encoding="utf-8")


if __name__ == "__main__":
    main()
