"""Keyword arguments of 1.x's classes that are called differently here, or have nothing to do here."""

from __future__ import annotations

from typing import Any

from openmsistream.errors import ConfigError

_RENAMED = {
    "update_secs": "update_seconds",
    "logger_file": "logger_file_path",
    "streamlevel": "logger_stream_level",
    "filelevel": "logger_file_level",
}
# A logger of the caller's: this library reports by events and never logs by itself.
_WITHOUT_EFFECT = frozenset({"logger"})


def modern(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments under the names that the option models have."""
    return {_RENAMED.get(name, name): value for name, value in arguments.items() if name not in _WITHOUT_EFFECT}


def refuse_type(datafile_type: object, standard: tuple[type, ...]) -> None:
    """
    1.x lets a caller put a class of his own in the place of a file's.

    Raises:
        ConfigError: One is given: it would silently not be used.
    """
    if datafile_type is not None and datafile_type not in standard:
        raise ConfigError(
            f"datafile_type: {datafile_type!r} cannot be used, this version has no file types of its own",
            hint="leave datafile_type out",
        )
