"""``openmsistream verify``: which places are compared, and by which rule; puts them together and runs the comparison.

Chooses the adapters. Must not know how a finding is shown.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmsistream.adapters.filesystem.listing import FolderListing
from openmsistream.adapters.kafka.whole_topic import WholeTopic
from openmsistream.adapters.s3 import require_boto3
from openmsistream.config.ini import Settings
from openmsistream.config.models import ProgramConfig
from openmsistream.config.options_download import DownloadOptions
from openmsistream.config.options_s3 import DEFAULT_TEMPLATE, connection, defaults_from_file, names_of
from openmsistream.config.s3 import s3_access
from openmsistream.core.chunk import HashName
from openmsistream.core.comparing import Finding, Item
from openmsistream.core.events import Event, Note
from openmsistream.core.selection import DEFAULT_REGEX_1X, Selection
from openmsistream.errors import ConfigError
from openmsistream.pipeline.runner import Control
from openmsistream.programs.comparing import Comparison, Listing, Progress, Summary
from openmsistream.programs.setup import PATIENCE_SECONDS, reach
from openmsistream.programs.topic_versions import TopicVersions

if TYPE_CHECKING:
    from openmsistream.adapters.s3.listing import BucketListing

_NAMED_LINKS = 20
_LOOKS = 32
"""So many objects are asked for their digests at once: a store far away takes long to answer each."""


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """
    What is compared, and how.

    Attributes:
        source: A folder that is, or was, watched.
        topic: A topic's name; needs a config file.
        destination: A folder that a downloader writes.
        bucket: A bucket that ``openmsistream s3`` writes.
        upload_regex, include, exclude, symlinks: As for ``watch``; None: what the config file says of that folder.
        names: As for ``download``; None: what the config file says.
        key_template: As for ``s3``; None: what the config file says.
        read_back: Read the objects of the bucket, instead of believing what they say of their digests.
        contents: Compare contents too; False: names and sizes only, which reads no file.
        extras: Files that the first place does not have are a difference.
    """

    source: Path | None = None
    topic: str | None = None
    destination: Path | None = None
    bucket: str | None = None
    upload_regex: str | None = None
    include: Sequence[str] | None = None
    exclude: Sequence[str] | None = None
    symlinks: str | None = None
    names: str | None = None
    key_template: str | None = None
    read_back: bool = False
    contents: bool = True
    extras: bool = True


def verify(
    options: VerifyOptions,
    config: ProgramConfig | None,
    tell: Callable[[Finding], None],
    progress: Progress,
) -> Summary:
    """
    Compare source folder, topic, destination folder and bucket; changes nothing, commits nothing.

    Args:
        options: What to compare: two places at least.
        config: Needed for a topic; for a bucket the environment is enough.
        tell: Called with each finding.
        progress: Told how far it is.

    Returns:
        What was found; everything is equal when ``found`` is empty.

    Raises:
        ConfigError: Fewer than two places, or something in options or config is wrong.
        SourceError: A folder cannot be listed.
        UnavailableError, DeliveryError: The topic cannot be read.
        StorageError: The bucket cannot be read, or the temporary folder is full.
    """
    rules = _rules(options, config)
    accepts = _accepts(rules, has_source=options.source is not None)
    notes: list[str] = []
    telling: list[TopicListing | BucketListing] = []
    with ExitStack() as stack:
        places: list[Listing] = []

        def add(place: Listing) -> None:
            places.append(place)
            stack.callback(place.close)

        if options.source is not None:
            follow = rules.get("symlinks") == "follow"
            add(FolderListing("source", _folder(options.source), follow_symlinks=follow, tell=_noting(notes)))
        if options.topic is not None:
            telling.append(TopicListing(_open_topic(options.topic, config), progress))
            add(telling[-1])
        if options.destination is not None:
            add(FolderListing("destination", _folder(options.destination), names=_names(options, config)))
        if options.bucket is not None:
            telling.append(_bucket(options, config, options.bucket))
            add(telling[-1])
        if len(places) < 2:
            raise ConfigError(
                "there is nothing to compare with",
                hint="give two or three of --source FOLDER, --topic-name TOPIC, --destination FOLDER, --bucket NAME",
            )
        # Folders first: what is sent while the topic is read was listed before, or is looked at again.
        summary = Comparison(places, accepts, tell, progress, contents=options.contents, extras=options.extras).run()
    summary.notes += [*notes, *(note for place in telling for note in place.notes())]
    return summary


class TopicListing:
    """
    What a topic holds (``comparing.Listing``), from its beginning to where it ended when this was made.

    Args:
        topic: The topic; closed with this.
        progress: Told how many of its records were read.
    """

    place = "topic"

    def __init__(self, topic: WholeTopic, progress: Progress) -> None:
        self._topic, self._progress = topic, progress
        self._versions = TopicVersions()

    def items(self) -> Iterator[Item]:
        """Read the topic, then every file on it: its newest version."""
        versions, done = self._versions, 0
        for record in self._topic.records():
            versions.take(record)
            done += len(record.value or b"")
            self._progress("reading topic", versions.records, self._topic.total, done)
        yield from versions.items()

    def digest(self, item: Item, hash_name: HashName, progress: Callable[[int], None]) -> bytes | None:
        """Only the digest that its sender gave is known: nothing by another function."""
        del progress
        return item.digest if item.hash_name is hash_name else None

    def unchanged(self, item: Item) -> bool:
        """What was on a topic at one time does not change."""
        del item
        return True

    def has(self, name: str) -> bool:
        """False: whatever is there now was not when the topic was read."""
        del name
        return False

    def notes(self) -> list[str]:
        """What a user should know of its records."""
        versions, notes = self._versions, list[str]()
        if versions.refused:
            notes.append(
                f"topic: {versions.refused:,} of {versions.records:,} records could not be used; the first: "
                + "; ".join(versions.reasons)
            )
        if versions.unchecked:
            notes.append(
                f"topic: the bytes of {versions.unchecked:,} files came too far out of order to be hashed (as "
                "OpenMSIStream 1.x sends them): for these the hash that their sender gave was taken"
            )
        if versions.crowded_out:
            notes.append(
                f"topic: too many files were begun and not ended at once: {versions.crowded_out:,} of them count as "
                "incomplete, though more of them may have come later"
            )
        return notes

    def close(self) -> None:
        """End the connection, and forget what was found."""
        self._versions.close()
        self._topic.close()


def _rules(options: VerifyOptions, config: ProgramConfig | None) -> dict[str, Any]:
    """The options of the selection: what was given, else what the config file says of the folder that is compared."""
    names = ("upload_regex", "include", "exclude", "symlinks")
    found: dict[str, Any] = {}
    if config is not None and options.source is not None:
        found = config.folder_defaults(options.source)
    given = {name: getattr(options, name) for name in names}
    return {name: value if value is not None else found.get(name) for name, value in given.items()}


def _accepts(rules: dict[str, Any], *, has_source: bool) -> Callable[[str], bool]:
    if has_source:
        return Selection(rules["upload_regex"], include=rules["include"], exclude=rules["exclude"]).accepts
    # Without a watched folder nothing says that hidden files stay behind, as 1.x's own expression does.
    given = {name: rules[name] for name in ("include", "exclude")}
    regex = None if rules["upload_regex"] == DEFAULT_REGEX_1X else rules["upload_regex"]
    return Selection.for_download(regex, **given).accepts


def _names(options: VerifyOptions, config: ProgramConfig | None) -> str:
    """What becomes of names that Windows cannot have: what was given, else what the config file says."""
    said = config.option_defaults(DownloadOptions).get("names") if config is not None else None
    return options.names or said or "auto"


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise ConfigError(f"{path}: there is no such folder", hint="check the path, and that its disk is mounted")
    return path


def _noting(notes: list[str]) -> Callable[[Note], None]:
    def note(event: Note) -> None:
        if len(notes) < _NAMED_LINKS:
            notes.append(event.text)

    return note


def _open_topic(name: str, config: ProgramConfig | None) -> WholeTopic:
    if config is None:
        raise ConfigError(f"topic {name}: no config file says where its broker is", hint="give --config NAME")
    settings = config.consumer.settings
    return WholeTopic(settings, reach(settings, name, _ignore, Control(), PATIENCE_SECONDS))


def _bucket(options: VerifyOptions, config: ProgramConfig | None, name: str) -> BucketListing:
    require_boto3()
    from openmsistream.adapters.s3.bucket import Bucket  # noqa: PLC0415 - boto3 is an extra
    from openmsistream.adapters.s3.keys import Keys  # noqa: PLC0415
    from openmsistream.adapters.s3.listing import BucketListing  # noqa: PLC0415

    section = config.s3 if config is not None else Settings({})
    said = {} if config is None else defaults_from_file(config.download, section, os.environ)
    name, template = names_of(name, options.key_template or said.get("key_template", DEFAULT_TEMPLATE))
    topic = options.topic or said.get("consumer_topic_name") or said.get("topic_name")
    if topic is None and config is not None and options.source is not None:
        topic = config.folder_defaults(options.source).get("topic_name")
    if topic is None and "{topic}" in template:
        raise ConfigError(
            f"bucket {name}: the keys are {template}, and nothing says what the topic is called",
            hint=f"give --key-template {template.replace('{topic}', 'NAME')} with the name of the topic in it, or"
            " --topic-name NAME to compare the topic, too",
        )
    access = s3_access(connection(section), os.environ)
    return BucketListing(
        Bucket(access, name, _LOOKS),
        Keys(template, topic or ""),
        contents=options.contents,
        read_back=options.read_back,
        threads=_LOOKS,
    )


def _ignore(event: Event) -> None:
    """That the broker is awaited is told by the error that follows, or by nothing."""
