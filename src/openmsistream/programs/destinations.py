"""Where ``quarantine retry`` delivers: beside the other files of an output folder, or into the bucket of a work folder.

Chooses the adapters. It must not know what is delivered.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

from openmsistream.adapters.filesystem.quarantine import Quarantine
from openmsistream.adapters.filesystem.staging import FreeNames
from openmsistream.adapters.s3 import require_boto3
from openmsistream.adapters.s3.work_folder import Goes, noted
from openmsistream.config.ini import Settings
from openmsistream.config.models import ProgramConfig
from openmsistream.config.options_download import DownloadOptions
from openmsistream.config.options_s3 import connection
from openmsistream.config.s3 import S3Access, s3_access
from openmsistream.errors import ConfigError
from openmsistream.ports import Events, Publication
from openmsistream.programs.comparing import Progress

_WORK = "retry-bucket"


class Destination(Protocol):
    """
    Where files are delivered, which never replaces one.

    Attributes:
        where: For people, e.g. ``in the output folder``.
    """

    where: str

    def check(self, path: str) -> str:
        """The path, when a file of that path can be delivered there; else ProtocolError."""

    def add(self, file: Path, publication: Publication) -> bool:
        """
        Deliver a file, if the name is free.

        Returns:
            True when it has the name now, or had it before with the same content; False when something else has.

        Raises:
            ProtocolError, DeliveryError, IntegrityError: It cannot be delivered there.
            StorageError: It cannot now.
        """


@contextmanager
def destination(
    quarantine: Quarantine, config: ProgramConfig | None, events: Events, progress: Progress
) -> Iterator[Destination]:
    """
    Where the files of a quarantine go.

    Args:
        quarantine: Of an output folder, or of the work folder of deliveries to a bucket.
        config: How names are written to an output folder, and how to reach a store; None: the environment says it.
        events: Told what a user should know.
        progress: Told how many bytes of a file were sent to a store.

    Raises:
        ConfigError: The config file is wrong, or is one for another store.
        StorageError: The work folder cannot be used.
    """
    goes = noted(quarantine.root)
    if goes is None:
        names = config.option_defaults(DownloadOptions).get("names", "auto") if config is not None else "auto"
        yield FreeNames(quarantine.root, names)
        return
    require_boto3()
    from openmsistream.adapters.s3.free_keys import FreeKeys  # noqa: PLC0415 - boto3 is an extra

    access = _access(goes, config)
    with closing(FreeKeys(access, goes, quarantine.work / _WORK, events, progress)) as keys:
        yield keys


def _access(goes: Goes, config: ProgramConfig | None) -> S3Access:
    """How to reach the store: the very one that the other files of that folder went to."""
    section = config.s3 if config is not None else Settings({})
    access = s3_access(connection(section), os.environ)
    if (access.endpoint or "") != goes.endpoint:
        raise ConfigError(
            f"bucket {goes.bucket}: is at {goes.store}, and what is configured here is {access.shown}",
            hint="give --config NAME with the config file of openmsistream s3",
        )
    return access
