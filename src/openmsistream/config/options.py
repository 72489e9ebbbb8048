"""The options of the programs: one model per program, for the command line, config files and Python.

Owns names, kinds, defaults and help texts; names and defaults are those of OpenMSIStream 1.x wherever it
has the option. It must not know argparse, nor how an option is spelled there.
"""

# ruff: noqa: RUF009 - every option is written as one call that also holds its help text
from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from openmsistream.config.kinds import (
    Choice,
    Duration,
    FilePath,
    Kind,
    Level,
    Marker,
    Number,
    Patterns,
    Rate,
    Regex,
    Share,
    Switch,
    Text,
    Topic,
    Whole,
)
from openmsistream.core.chunk import DEFAULT_CHUNK_BYTES
from openmsistream.errors import ConfigError

# librdkafka's highest message.max.bytes less what a record holds besides the payload.
_MAX_CHUNK_BYTES = 1_000_000_000 - 32_768
WEEK_SECONDS = 604_800
DEFAULT_TOPIC = "test"
DEFAULT_GROUP = "create_new"


@dataclass(frozen=True, slots=True)
class Option:
    """
    What is known of one option.

    Attributes:
        kind: What values it takes.
        text: Its help text, without the default.
        group: The heading it stands under in a help text.
        positional: It is given by its place, not by its name, and has to be given.
        by_config: It may be left out on the command line where a config file can say it.
        unset: What happens without it, for options whose default is None.
    """

    kind: Kind
    text: str
    group: str
    positional: bool = False
    unset: str = ""
    by_config: bool = False


def option(default: object, kind: Kind, text: str, *, group: str, unset: str = "") -> Any:
    """The field of a model for an option; see ``Option``."""
    return field(default=default, metadata={"option": Option(kind, text, group, unset=unset)})


def positional(kind: Kind, text: str, *, by_config: bool = False) -> Any:
    """The same for one that is given by its place."""
    return field(metadata={"option": Option(kind, text, "", positional=True, by_config=by_config)})


GROUPS = ("Kafka", "files", "when a file is complete", "running", "what is reported", "encryption")
"""The headings of a help text, in its order."""
_KAFKA, _FILES, _SETTLE, _RUN, _REPORT, _CRYPTO = GROUPS


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """
    The options that every program has.

    Attributes:
        given: The names of the options that a user gave, on the command line or in a config file.

    Raises:
        ConfigError: A value is not allowed; the error names option, value and what is allowed.
    """

    SECTION: ClassVar[str] = ""

    config: str = option("test", Text("NAME"), "config file: its path, or its name in a config folder", group=_KAFKA)
    topic_name: str = option(DEFAULT_TOPIC, Topic(), "Kafka topic", group=_KAFKA)
    n_threads: int = option(2, Whole(1, 64), "how many threads work in parallel", group=_RUN)
    state_dir: Path | None = option(
        None,
        FilePath("FOLDER", "new folder"),
        "folder for the ledger, in which the program remembers what is done",
        group=_RUN,
        unset="a folder of its own for this user",
    )
    json: bool = option(False, Switch(), "write what happens as JSON, one line per event", group=_REPORT)
    progress: str = option("auto", Choice(("auto", "bar", "plain", "none")), "how progress is shown", group=_REPORT)
    logger_stream_level: int = option(20, Level(), "what is shown on screen", group=_REPORT)
    logger_file_level: int = option(30, Level(), "what goes to the log file", group=_REPORT)
    logger_file_path: Path | None = option(
        None, FilePath("PATH"), "log file, or a folder for it", group=_REPORT, unset="no log file"
    )
    given: frozenset[str] = field(default=frozenset(), compare=False, repr=False)

    def __post_init__(self) -> None:
        for item, known in options_of(type(self)).values():
            value = getattr(self, item.name)
            if value is None and item.default is None:
                continue
            try:
                # The dataclass is frozen for its users; here it is still being made.
                object.__setattr__(self, item.name, known.kind.accept(value))
            except ValueError as error:
                raise ConfigError(f"{item.name}: {str(value)!r} {error}") from None

    @property
    def topic(self) -> str:
        """The topic this program works on."""
        return self.topic_name


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """The options of the programs that run until they are stopped."""

    consumer_topic_name: str = option(
        DEFAULT_TOPIC, Topic(), "topic to read from, when it is another one", group=_KAFKA
    )
    producer_topic_name: str = option(DEFAULT_TOPIC, Topic(), "topic to write to, when it is another one", group=_KAFKA)
    consumer_group_id: str = option(
        DEFAULT_GROUP,
        Text("GROUP"),
        "consumer group; create_new: the one in the config file, else a new one at each start",
        group=_KAFKA,
    )
    treat_undecryptable_as_plaintext: bool = option(
        False, Switch(), "take records that cannot be decrypted as they are", group=_CRYPTO
    )
    max_wait_per_decrypt: float = option(
        5.0, Number(0, WEEK_SECONDS), "how long to wait for the key of a record", group=_CRYPTO
    )
    max_initial_wait_per_decrypt: float = option(
        60.0, Number(0, WEEK_SECONDS), "the same for the first record", group=_CRYPTO
    )
    update_seconds: int = option(
        300, Whole(-1, WEEK_SECONDS, "SECONDS"), 'time between "still alive" lines; -1: none', group=_REPORT
    )
    heartbeat_topic_name: str | None = option(
        None, Topic(), "topic for heartbeats", group=_REPORT, unset="no heartbeats"
    )
    heartbeat_program_id: str | None = option(
        None, Text("NAME"), "name in heartbeats", group=_REPORT, unset="a made-up name"
    )
    heartbeat_interval_secs: float = option(900, Number(0.1, WEEK_SECONDS), "time between heartbeats", group=_REPORT)
    log_topic_name: str | None = option(
        None, Topic(), "topic for log lines", group=_REPORT, unset="log lines stay here"
    )
    log_program_id: str | None = option(
        None, Text("NAME"), "name on log lines in the topic", group=_REPORT, unset="a made-up name"
    )
    log_interval_secs: float = option(60, Number(0.1, WEEK_SECONDS), "time between sending log lines", group=_REPORT)


def _chunk_size() -> Any:
    return option(
        DEFAULT_CHUNK_BYTES,
        Whole(1, _MAX_CHUNK_BYTES, "BYTES"),
        "bytes of a file in one Kafka record; at most message.max.bytes less 32768 (8355840 unless the "
        "config file says otherwise)",
        group=_FILES,
    )


@dataclass(frozen=True, kw_only=True)
class UploadOptions(CommonOptions):
    """Send one file: ``UploadDataFile``, ``openmsistream upload``."""

    SECTION: ClassVar[str] = "upload"

    filepath: Path = positional(FilePath("FILE", "file"), "the file to send")
    chunk_size: int = _chunk_size()


@dataclass(frozen=True, kw_only=True)
class WatchOptions(StreamOptions, CommonOptions):
    """Send every file of a folder: ``DataFileUploadDirectory``, ``openmsistream watch``."""

    SECTION: ClassVar[str] = "upload"

    upload_dir: Path = positional(
        FilePath("FOLDER", "folder"),
        "the folder to watch; it is only ever read. Without it, the [folder NAME] sections of the config file say "
        "which folders are watched",
        by_config=True,
    )
    upload_regex: str | None = option(
        None,
        Regex(),
        "send only files whose path below the folder matches from its beginning",
        group=_FILES,
        unset="all files but hidden ones and *.log",
    )
    upload_existing: bool = option(
        False, Switch(), "also send the files that are there at the first start", group=_FILES
    )
    once: bool = option(
        False, Switch(), "send everything that is there now, wait until Kafka has it, and end", group=_RUN
    )
    include: tuple[str, ...] | None = option(
        None,
        Patterns(),
        "send only files that match, as in a .gitignore: *.h5, raw/**, !test*; may be repeated",
        group=_FILES,
        unset="all files",
    )
    exclude: tuple[str, ...] | None = option(
        None, Patterns(), "never send files that match, as in a .gitignore; may be repeated", group=_FILES, unset="none"
    )
    symlinks: str = option(
        "skip", Choice(("skip", "follow")), "symbolic links: leave out, or follow within the folder", group=_FILES
    )
    share: tuple[int, int] | None = option(
        None,
        Share(),
        "send only this part of the files, so that two programs (1/2 and 2/2) share one folder",
        group=_FILES,
        unset="all of them",
    )
    use_polling_observer: bool = option(
        False,
        Switch(),
        "look for changes by scanning alone; network drives are recognised by themselves",
        group=_FILES,
    )
    scan_seconds: float = option(30.0, Number(0.1, 86_400), "time between scans of the whole folder", group=_FILES)
    poll_seconds: float = option(
        5.0, Number(0.1, 86_400), "the same where the system does not tell what changes (network drives)", group=_FILES
    )
    dry_run: bool = option(
        False, Switch(), "only say which files would be sent and why, and end; needs no broker", group=_RUN
    )
    settle: str = option(
        "auto",
        Choice(("auto", "close", "quiet", "marker")),
        "when a file is taken to be complete. auto: by all the evidence there is; close: as soon as it is closed; "
        "quiet: after the quiet time alone; marker: when its marker file is there",
        group=_SETTLE,
    )
    watchdog_lag_time: float = option(
        3.0,
        Number(0, WEEK_SECONDS),
        "how long a file must stay unchanged before it is sent",
        group=_SETTLE,
    )
    closed_lag_time: float = option(
        1.0,
        Number(0, WEEK_SECONDS),
        "the same for a file that was closed after writing, or got its name from a temporary one",
        group=_SETTLE,
    )
    max_wait: float = option(
        3600.0,
        Duration(WEEK_SECONDS),
        "send an unchanged file after so long even if a program still holds it open or it has a temporary name; "
        "none: never, as with --settle marker",
        group=_SETTLE,
    )
    marker: str | None = option(
        None,
        Marker(),
        "the marker file of scan.dat, with --settle marker: {name}.done is scan.dat.done, {stem}.done is scan.done, a "
        "plain name is one marker for all files of its folder",
        group=_SETTLE,
        unset="{name}.done",
    )
    temporary_names: tuple[str, ...] | None = option(
        None,
        Patterns(of_names=True),
        "names that files have only while they are written; may be repeated",
        group=_SETTLE,
        unset="*.tmp, *.part, ~* and the like",
    )
    check_writers: bool = option(
        True, Switch(), "wait while a program on this computer has the file open for writing", group=_SETTLE
    )
    stream_growing: bool = option(
        False, Switch(), "send large files while they are still being written (not in the format of 1.x)", group=_SETTLE
    )
    stream_temporary: bool = option(
        False, Switch(), "stream also files that still have a temporary name", group=_SETTLE
    )
    max_rate: float | None = option(
        None, Rate(), "never send more bytes per second than this, as 20MB/s", group=_RUN, unset="as fast as possible"
    )
    low_priority: bool = option(
        False, Switch(), "let every other program on this computer go first (processor and disk)", group=_RUN
    )
    ledger_lost: str = option(
        "resend",
        Choice(("resend", "ask")),
        "when the ledger is lost and has no backup: send again what cannot be proved sent, or stop and say so",
        group=_RUN,
    )
    chunk_size: int = _chunk_size()
    queue_max_size: int = option(
        500,
        Whole(1, 1_000_000, "MEGABYTES"),
        "upper limit for data waiting to be sent; memory use is far below it by itself",
        group=_RUN,
    )

    @property
    def topic(self) -> str:
        """The topic to write to."""
        named = self.producer_topic_name
        return self.topic_name if named == DEFAULT_TOPIC else named


def options_of(model: type) -> dict[str, tuple[Field[Any], Option]]:
    """The options of a model by name: the positional one first, then in the order of the model."""
    found = {item.name: (item, item.metadata["option"]) for item in fields(model) if "option" in item.metadata}
    return dict(sorted(found.items(), key=lambda entry: not entry[1][1].positional))


def default_text(item: Field[Any], option: Option) -> str:
    """The default as a user reads it; empty for a positional and for what is off unless asked for."""
    if item.default is MISSING or item.default is False:
        return ""
    return option.unset if item.default is None else option.kind.show(item.default)
