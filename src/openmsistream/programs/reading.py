"""What the programs that read a topic have in common: from the name of their group to the end of the flow.

Where whole files go, and which adapters that takes, each of them chooses itself.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from openmsistream.adapters.kafka.client import TopicInfo
from openmsistream.adapters.sqlite.downloads import SqliteDownloadLedger
from openmsistream.config.ini import Settings
from openmsistream.config.models import ProgramConfig, resolve_group_id
from openmsistream.config.options_download import DownloadOptions
from openmsistream.config.options_s3 import S3Options
from openmsistream.config.words import command_line
from openmsistream.core.events import (
    Event,
    FileDelivered,
    Note,
    ProgramStarted,
    Quarantined,
    StorageBack,
    StoragePaused,
)
from openmsistream.core.selection import Selection
from openmsistream.errors import StorageError, UnavailableError
from openmsistream.pipeline.download import Download
from openmsistream.pipeline.runner import Control, DownloadTotals
from openmsistream.ports import Events
from openmsistream.programs.setup import PATIENCE_SECONDS, reach
from openmsistream.programs.telemetry import Telemetry

RECENT_PATHS = 50
REST_SECONDS, REST_SECONDS_MAX = 1.0, 60.0
"""Before what was lost is read again: twice as long each time that nothing was delivered."""
TURN_SECONDS = 0.1

Options = DownloadOptions | S3Options
Flow = Callable[[TopicInfo, Settings, DownloadTotals], AbstractContextManager[Download]]
"""Makes the flow for a topic, with everything it needs, from the consumer's settings; the totals go on over flows."""


def ignore(event: Event) -> None:
    """Nobody listens."""


def selection_for(options: Options) -> Selection:
    """Which files of the topic are wanted."""
    return Selection.for_download(options.download_regex, include=options.include, exclude=options.exclude)


def open_ledger(path: Path, topic: TopicInfo, events: Events) -> SqliteDownloadLedger:
    """
    The ledger at ``path``; told when it is about an earlier topic of that name.

    Raises:
        ConfigError, StorageError: As ``SqliteDownloadLedger``.
    """
    ledger = SqliteDownloadLedger(path, topic.identity)
    if ledger.topic_changed:
        events(Note(f"topic {topic.name} was deleted and made again: it is read from its beginning"))
    return ledger


def read_topic(
    options: Options, config: ProgramConfig, where: str, events: Telemetry, control: Control, flow: Flow
) -> Download:
    """
    Run flows until told to stop or idle for ``until_idle`` seconds; a new one where the last could not go on.

    Once one has begun, a ledger or destination that cannot be used, and a broker that does not say what it has, are
    waited for.

    Args:
        options: The program's.
        config: The broker and how to talk to it.
        where: Where the files go, for people.
        events: Told when it started.
        control: Asked whether to stop.
        flow: See ``Flow``.

    Returns:
        The last flow, ended.

    Raises:
        As ``reach``, ``flow`` and ``Download.run``.
    """
    group = resolve_group_id(options.group_id(config.consumer.group_id), lambda: f"openmsistream-{uuid.uuid4()}")
    settings = config.consumer.settings.replaced({"group.id": group})
    totals, patience = DownloadTotals(), None if options.until_idle is None else PATIENCE_SECONDS
    events.count(
        lambda: {
            "n_messages_read": totals.records,
            "n_messages_processed": totals.handled,
            "n_bytes_read": totals.record_bytes,
            "n_bytes_processed": totals.handled_bytes,
        }
    )
    started = paused = False
    rest, delivered = REST_SECONDS, -1
    while True:
        topic = reach(settings, options.topic, events, control, patience)
        try:
            with flow(topic, settings, totals) as running:
                if not started:
                    events(ProgramStarted("download", topic.name, where, settings.get("bootstrap.servers", "")))
                    started = True
                if paused:
                    events(StorageBack())
                    paused = False
                running.run()
        except (StorageError, UnavailableError) as error:
            if control.stopping or not started or (patience is not None and isinstance(error, UnavailableError)):
                raise
            if not paused and isinstance(error, StorageError):
                events(StoragePaused(error.message, error.hint))
                paused = True
        else:
            if not running.anew:
                return running
            if not running.unfit:
                continue
        rest = min(2 * rest, REST_SECONDS_MAX) if totals.files == delivered else REST_SECONDS
        _rest(rest, control)
        delivered = totals.files


def with_the_place(events: Events, root: Path) -> Events:
    """The events, and behind the first of something that went into quarantine where that is: below ``root``."""
    told = False

    def tell(event: Event) -> None:
        nonlocal told
        events(event)
        if isinstance(event, Quarantined) and not told:
            told = True
            events(
                Note(
                    "what cannot be handled is kept, and looked at and tried again with openmsistream quarantine",
                    hint=command_line("openmsistream", "quarantine", "list", str(root)),
                )
            )

    return tell


def _rest(seconds: float, control: Control) -> None:
    """A disk that loses what is written is not given more at once."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not control.stopping:
        time.sleep(TURN_SECONDS)


def summary(run: Callable[[Events], Download], events: Events) -> tuple[int, int, int, list[Path]]:
    """
    Run a program as 1.x's classes do.

    Args:
        run: Runs it, with events.
        events: Called with all of them.

    Returns:
        Records read, records handled, files delivered, and up to 50 relative paths delivered last.
    """
    recent: deque[Path] = deque(maxlen=RECENT_PATHS)

    def note(event: Event) -> None:
        if isinstance(event, FileDelivered):
            recent.append(Path(event.path))
        events(event)

    done = run(note).totals
    return done.records, done.records - done.quarantined, done.files, list(recent)
