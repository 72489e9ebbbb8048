"""
Move instrument files through Apache Kafka: whole, verified, once.

The public names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openmsistream.programs.downloading import DataFileDownloadDirectory
    from openmsistream.programs.to_s3 import OSNStreamProcessor, S3TransferStreamProcessor
    from openmsistream.programs.uploading import DataFileUploadDirectory, UploadDataFile

__version__ = "2.0.0.dev0"
__all__ = [
    "DataFileDownloadDirectory",
    "DataFileUploadDirectory",
    "OSNStreamProcessor",
    "S3TransferStreamProcessor",
    "UploadDataFile",
    "__version__",
]

_WHERE = {
    "DataFileDownloadDirectory": "openmsistream.programs.downloading",
    "DataFileUploadDirectory": "openmsistream.programs.uploading",
    "OSNStreamProcessor": "openmsistream.programs.to_s3",
    "S3TransferStreamProcessor": "openmsistream.programs.to_s3",
    "UploadDataFile": "openmsistream.programs.uploading",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
