"""
Move instrument files through Apache Kafka: whole, verified, once.

The public names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openmsistream.programs.downloading import DataFileDownloadDirectory
    from openmsistream.programs.uploading import DataFileUploadDirectory, UploadDataFile

__version__ = "2.0.0.dev0"
__all__ = ["DataFileDownloadDirectory", "DataFileUploadDirectory", "UploadDataFile", "__version__"]

_WHERE = {
    "DataFileDownloadDirectory": "openmsistream.programs.downloading",
    "DataFileUploadDirectory": "openmsistream.programs.uploading",
    "UploadDataFile": "openmsistream.programs.uploading",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
