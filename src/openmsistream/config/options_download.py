"""The options of the programs that read a topic; the model of the one that writes files to a folder.

Owns names, kinds, defaults and help texts, as ``config.options`` does for the others.
"""

# ruff: noqa: RUF009 - every option is written as one call that also holds its help text
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from openmsistream.config.delivering import Command, Mode, Owner
from openmsistream.config.kinds import Choice, Duration, FilePath, Number, Patterns, Regex, Switch, Whole
from openmsistream.config.options import (
    DEFAULT_GROUP,
    DEFAULT_TOPIC,
    GROUPS,
    WEEK_SECONDS,
    CommonOptions,
    StreamOptions,
    option,
    positional,
)

_YEAR_SECONDS = 366 * 86_400
_KAFKA, _FILES, _, _RUN, _, _ = GROUPS


@dataclass(frozen=True, kw_only=True)
class ReadingOptions(StreamOptions, CommonOptions):
    """Which topic is read, as a member of which group."""

    @property
    def topic(self) -> str:
        """The topic to read from."""
        named = self.consumer_topic_name
        return self.topic_name if named == DEFAULT_TOPIC else named

    def group_id(self, configured: str | None) -> str:
        """
        The text that says which consumer group to join (for ``resolve_group_id``).

        An option that was given counts, then the config file, then the option's default.

        Args:
            configured: ``ConsumerConfig.group_id``.
        """
        if "consumer_group_id" in self.given or self.consumer_group_id != DEFAULT_GROUP:
            return self.consumer_group_id
        return configured or self.consumer_group_id


@dataclass(frozen=True, kw_only=True)
class DownloadOptions(ReadingOptions):
    """Write every file of a topic: ``DataFileDownloadDirectory``, ``openmsistream download``."""

    SECTION: ClassVar[str] = "download"

    output_dir: Path = positional(FilePath("FOLDER", "new folder"), "the folder to write to; it is made if need be")
    download_regex: str | None = option(
        None,
        Regex(),
        "write only files whose path matches from its beginning",
        group=_FILES,
        unset="all files",
    )
    expire_after: float = option(
        float(WEEK_SECONDS),
        Duration(_YEAR_SECONDS),
        "wait no longer for the rest of a file when nothing of it came for so long, and say so; none: wait for ever",
        group=_FILES,
    )
    include: tuple[str, ...] | None = option(
        None,
        Patterns(),
        "write only files that match, as in a .gitignore: *.h5, raw/**, !test*; may be repeated",
        group=_FILES,
        unset="all files",
    )
    exclude: tuple[str, ...] | None = option(
        None,
        Patterns(),
        "never write files that match, as in a .gitignore; may be repeated",
        group=_FILES,
        unset="none",
    )
    on_existing: str = option(
        "replace",
        Choice(("replace", "keep-both", "never")),
        "when a file of that name is there, whoever wrote it. replace: the newer version takes its place; keep-both: "
        "it is written beside it, as scan~20260131-174501-9f3c2e51.csv; never: it goes to quarantine",
        group=_FILES,
    )
    names: str = option(
        "auto",
        Choice(("auto", "keep", "map", "refuse")),
        "names that Windows cannot have, as 12:30.csv. keep: as they are; map: as 12%3A30.csv; refuse: into "
        "quarantine; auto: map on Windows, else keep",
        group=_FILES,
    )
    keep_mtime: bool = option(
        False, Switch(), "give files the time of modification that they have at their sender's", group=_FILES
    )
    file_mode: int | None = option(
        None, Mode(), "permissions of the files, as 640", group=_FILES, unset="as the umask says"
    )
    folder_mode: int | None = option(
        None,
        Mode(least=0o700),
        "permissions of the folders that are made for them, as 750",
        group=_FILES,
        unset="as the umask says",
    )
    owner: str | None = option(
        None, Owner(), "owner of files and folders, as lab, lab:xrd or :xrd", group=_FILES, unset="who runs this"
    )
    on_delivered: str | None = option(
        None,
        Command(),
        "command to run for each file that was written, without a shell; {path}, {name}, {size} and {digest} stand "
        "for the file's",
        group=_RUN,
        unset="none",
    )
    on_delivered_seconds: float = option(
        60.0, Number(0.1, WEEK_SECONDS), "end that command when it takes longer", group=_RUN
    )
    on_delivered_tries: int = option(3, Whole(1, 100), "how often that command is tried when it fails", group=_RUN)
    until_idle: float | None = option(
        None,
        Number(0.1, WEEK_SECONDS),
        "end when the topic was read to its end and nothing arrived for so long",
        group=_RUN,
        unset="run until stopped",
    )
