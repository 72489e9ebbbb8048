"""The programs that send: ``DataFileUploadDirectory`` (a folder, for ever) and ``UploadDataFile`` (one file, once).

They choose the adapters and give them to the upload flow. Same names, arguments and defaults as 1.x where it has
them; everything else is keyword-only.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from openmsistream.adapters.clock import SystemClock
from openmsistream.adapters.filesystem.reading import FolderReader
from openmsistream.adapters.filesystem.registry_1x import Registry1x, already_uploaded
from openmsistream.adapters.filesystem.watching import FolderWatcher
from openmsistream.adapters.filesystem.writers import OpenWriters
from openmsistream.adapters.kafka.client import TopicInfo
from openmsistream.adapters.kafka.producer import KafkaProducer
from openmsistream.adapters.priority import lower_priority
from openmsistream.adapters.sqlite.database import MEMORY
from openmsistream.adapters.sqlite.uploads import SqliteUploadLedger
from openmsistream.config.ini import Settings
from openmsistream.config.models import ProgramConfig, WireFormat
from openmsistream.config.options import UploadOptions, WatchOptions
from openmsistream.core.chunk import DEFAULT_CHUNK_BYTES
from openmsistream.core.events import Event, FileSent, Note, ProgramStarted
from openmsistream.core.heartbeat import Role
from openmsistream.core.rate import Rate
from openmsistream.core.selection import Selection
from openmsistream.errors import ConfigError, DeliveryError, SourceError
from openmsistream.pipeline.frames import Wire
from openmsistream.pipeline.noticing import Root, UploadSettings
from openmsistream.pipeline.runner import Control, Totals
from openmsistream.pipeline.sender import Sender
from openmsistream.pipeline.sender_settings import SenderSettings
from openmsistream.pipeline.upload import DirectoryUpload, upload_files
from openmsistream.ports import Events
from openmsistream.programs.commands import CommandQueue
from openmsistream.programs.ledgers import upload_ledger
from openmsistream.programs.legacy import modern, refuse_type
from openmsistream.programs.setup import (
    PATIENCE_SECONDS,
    load_config,
    random_bytes,
    reach,
)
from openmsistream.programs.telemetry import LogLines, Telemetry, telemetry

ONE_FILE_TIMEOUT_MS = "300000"
"""librdkafka's own default: a program that sends one file gives up at last, and says so."""
ONCE_TRIES = 3
RECENT_PATHS = 100_000


def _ignore(event: Event) -> None:
    """Nobody listens."""


class DataFileUploadDirectory:
    """
    Sends every file that is, or comes, below a folder.

    Args:
        dirpath: The folder to watch; it is only ever read.
        config_path: Config file, by path or name.
        upload_regex: Send only files whose relative path matches it from its beginning; None: all but hidden
            files and ``*.log``.
        datafile_type: Only there because 1.x has it; ``UploadDataFile`` or nothing.
        watchdog_lag_time: How many seconds a file must stay unchanged before it is sent.
        use_polling_observer: Look for changes by scanning, as network drives need it.
        events: Called with what happens (``openmsistream.core.events``), on the thread that runs the program.
        options: Further options by name, as on the command line (``state_dir``, ``scan_seconds``, ``once``, ...).

    Raises:
        ConfigError: The folder is not there, or an argument or the config file is wrong.
    """

    def __init__(
        self,
        dirpath: Path | str,
        config_path: Path | str = "test",
        upload_regex: str | None = None,
        datafile_type: type | None = None,
        watchdog_lag_time: float = 3,
        use_polling_observer: bool = False,
        *,
        events: Events = _ignore,
        **options: Any,
    ) -> None:
        refuse_type(datafile_type, (UploadDataFile,))
        self._options: dict[str, Any] = {
            **modern(options),
            "upload_dir": Path(dirpath),
            "config": str(config_path),
            "upload_regex": upload_regex,
            "watchdog_lag_time": watchdog_lag_time,
            "use_polling_observer": use_polling_observer,
        }
        WatchOptions(**self._options)
        self._config = load_config(str(config_path))
        self._events = events
        self.control = Control()
        self.control_command_queue = CommandQueue(self.control)

    def upload_files_as_added(
        self,
        topic_name: str = "test",
        n_threads: int = 2,
        chunk_size: int = DEFAULT_CHUNK_BYTES,
        max_queue_size: int = 500,
        upload_existing: bool = False,
    ) -> list[Path]:
        """
        Watch and send until told to stop (``control_command_queue.put("q")`` from another thread).

        Returns:
            The relative paths that were sent, the latest 100,000 of them.

        Raises:
            ConfigError, DeliveryError, UnavailableError: As ``watch``.
        """
        options = WatchOptions(
            **{
                **self._options,
                "topic_name": topic_name,
                "n_threads": n_threads,
                "chunk_size": chunk_size,
                "queue_max_size": max_queue_size,
                "upload_existing": upload_existing,
            }
        )
        sent: deque[Path] = deque(maxlen=RECENT_PATHS)

        def events(event: Event) -> None:
            if isinstance(event, FileSent):
                sent.append(Path(event.path))
            self._events(event)

        watch(options, self._config, events, self.control)
        return list(sent)


class UploadDataFile:
    """
    Sends one file, once.

    Args:
        filepath: The file.
        rootdir: The folder its path on the topic is relative to; the folder it lies in by default.
        events: Called with what happens.

    Raises:
        ConfigError: The file is not there, or not below ``rootdir``.
    """

    def __init__(
        self,
        filepath: Path | str,
        *,
        rootdir: Path | str | None = None,
        events: Events = _ignore,
        **options: Any,
    ) -> None:
        self._filepath, self._events, self._options = Path(filepath), events, modern(options)
        self._root = Path(rootdir) if rootdir is not None else self._filepath.absolute().parent
        self.control = Control()

    def upload_whole_file(
        self,
        config_path: Path | str,
        topic_name: str,
        n_threads: int = 2,
        chunk_size: int = DEFAULT_CHUNK_BYTES,
    ) -> None:
        """
        Send the file; returns once the broker acknowledged all of it.

        Raises:
            ConfigError: The config or an argument is wrong, or the topic is not there.
            UnavailableError: The broker did not answer, or not take everything in time.
            DeliveryError: The broker refused it.
            SourceError: The file cannot be read, or changed while it was read.
        """
        options = UploadOptions(
            filepath=self._filepath,
            config=str(config_path),
            topic_name=topic_name,
            n_threads=n_threads,
            chunk_size=chunk_size,
            **self._options,
        )
        upload(options, load_config(str(config_path)), self._events, self.control, root=self._root)


def watch(
    options: WatchOptions, config: ProgramConfig, events: Events, control: Control, lines: LogLines | None = None
) -> Totals:
    """
    Send what is, or comes, below a folder, until told to stop.

    Args:
        options: What to do, as on the command line.
        config: The broker and how to talk to it.
        events: Called with what happens, on this thread.
        control: Asked in every turn whether to stop or to report.
        lines: The log's lines, for ``--log_topic_name``.

    Raises:
        ConfigError: Something in options, config or topic is wrong, or the folder is watched already.
        UnavailableError: The broker did not answer before the program was told to stop.
        StorageError: The ledger cannot be used.
    """
    with telemetry(options, config, Role.UPLOAD, events, SystemClock(), lines) as observe:
        control.each_turn.append(observe.deliver)
        return _watch(options, config, observe, control)


def _watch(options: WatchOptions, config: ProgramConfig, events: Telemetry, control: Control) -> Totals:
    config.producer.check_chunk_size(options.chunk_size)
    wire = _wire(config)
    if options.stream_growing and wire is not Wire.V2:
        raise ConfigError(
            f"--stream_growing cannot be used with the wire format of {config.path} ({wire.value})",
            hint="v1 needs the whole file before its first chunk: set value.serializer = DataFileChunkV2Serializer",
        )
    if options.low_priority:
        events(Note(lower_priority()))
    settings = config.producer.settings
    root, clock = options.upload_dir, SystemClock()
    patience = PATIENCE_SECONDS if options.once else None
    rules = config.settle_rules(options)

    def ledger_for(topic: TopicInfo) -> SqliteUploadLedger:
        return upload_ledger(options, topic, clock, events, control)

    with _connected(settings, options.topic, ledger_for, events, control, patience) as (topic, producer, ledger):
        events.count(lambda: {"n_messages_produced": producer.records, "n_bytes_produced": producer.value_bytes})
        follow = options.symlinks == "follow"
        reader = FolderReader(root, follow_symlinks=follow)
        sender_settings = SenderSettings(
            wire,
            options.chunk_size,
            at_once=options.n_threads,
            tries=ONCE_TRIES if options.once else 0,
            rate=Rate(options.max_rate, max(options.chunk_size, options.max_rate / 4)) if options.max_rate else None,
        )
        before = _sent_by_1x(options, ledger, events)
        parts = Root(
            FolderWatcher(root, events, polling=options.use_polling_observer, follow_symlinks=follow),
            reader,
            OpenWriters(root),
            Sender(producer, reader, ledger, clock, random_bytes(), events, sender_settings),
            ledger,
            Selection(options.upload_regex, include=options.include, exclude=options.exclude, share=options.share),
            clock,
            events,
            sent_before=before.completed.get if before.completed else None,
            unfinished_before=before.in_progress,
        )
        parts.watcher.start()  # before anybody is told: what comes from then on is not "there before the first start"
        events(ProgramStarted("upload", topic.name, str(root), settings.get("bootstrap.servers", "")))
        settings_here = UploadSettings(
            rule_for=rules,
            scan_seconds=options.scan_seconds,
            poll_seconds=min(options.poll_seconds, options.scan_seconds),
            upload_existing=options.upload_existing or options.once,
            once=options.once,
            stream_growing=options.stream_growing,
            stream_temporary=options.stream_temporary,
            alive_seconds=options.update_seconds,
        )
        return DirectoryUpload(parts, settings_here, pid=os.getpid(), rules=options.settle).run(control)


def _sent_by_1x(options: WatchOptions, ledger: SqliteUploadLedger, events: Events) -> Registry1x:
    """What OpenMSIStream 1.x sent from this folder before, by its own registries; only at the first start."""
    if not ledger.is_new:
        return Registry1x()
    registry = already_uploaded(options.upload_dir, options.topic, options.logger_file_path)
    if registry.files:
        doubt = f"; {registry.skipped} lines cannot be understood" if registry.skipped else ""
        text = f"OpenMSIStream 1.x sent {len(registry.completed)} files before, as {registry.files[0]} says{doubt}"
        events(Note(text, "they are not sent again unless they change"))
    for problem in registry.problems:
        events(Note(problem))
    return registry


def upload(
    options: UploadOptions, config: ProgramConfig, events: Events, control: Control, root: Path | None = None
) -> Totals:
    """
    Send one file; returns once the broker acknowledged all of it, or the program was told to stop.

    Raises:
        As ``UploadDataFile.upload_whole_file``.
    """
    config.producer.check_chunk_size(options.chunk_size)
    wire = _wire(config)
    settings = config.producer.settings
    if settings.origin("message.timeout.ms") == settings.origin(""):  # the user did not set it
        settings = settings.replaced({"message.timeout.ms": ONE_FILE_TIMEOUT_MS})
    file = options.filepath.absolute()
    root = (root or file.parent).absolute()
    if not file.is_relative_to(root):
        raise ConfigError(f"{file} does not lie below the root folder {root}")
    path = file.relative_to(root).as_posix()
    reader = FolderReader(root)
    stat = reader.stat(path)
    if stat is None:
        raise SourceError(f"{file}: it is not a regular file", hint="name one file; a folder is sent by watch")
    clock = SystemClock()

    def no_ledger(_: TopicInfo) -> SqliteUploadLedger:
        # Who asks for one file wants it sent, whatever was sent before.
        return SqliteUploadLedger(MEMORY, random_bytes())

    with _connected(settings, options.topic, no_ledger, events, control, PATIENCE_SECONDS) as (topic, producer, ledger):
        sender = Sender(
            producer,
            reader,
            ledger,
            clock,
            random_bytes(),
            events,
            SenderSettings(wire, options.chunk_size, at_once=1, tries=1),
        )
        events(ProgramStarted("upload", topic.name, str(file), settings.get("bootstrap.servers", "")))
        totals = upload_files([(path, stat)], sender, clock, events, control)
    for error in sender.retries.errors:
        raise error
    if totals.files == 0:
        raise DeliveryError(f"{file}: not sent whole: {control.reason or 'the broker did not take everything'}")
    return totals


@contextmanager
def _connected(
    settings: Settings,
    topic_name: str,
    ledger_for: Callable[[TopicInfo], SqliteUploadLedger],
    events: Events,
    control: Control,
    patience_seconds: float | None,
) -> Iterator[tuple[TopicInfo, KafkaProducer, SqliteUploadLedger]]:
    """The topic, once the broker told what it is, with a producer for it and the ledger."""
    with ExitStack() as until_connected:
        producer = KafkaProducer(settings, topic_name, events)  # first: it connects while the broker is asked
        until_connected.callback(producer.close)
        topic = reach(settings, topic_name, events, control, patience_seconds)
        producer.attach(topic)
        ledger = ledger_for(topic)
        connected = until_connected.pop_all()
    with closing(ledger), connected:  # what the broker still answers at the end goes into the ledger
        yield topic, producer, ledger


def _wire(config: ProgramConfig) -> Wire:
    if config.producer.wire is WireFormat.V2:
        return Wire.V2
    return Wire.V1_9 if config.producer.v1_fields == 9 else Wire.V1_10
