"""Watching several folders in one program, each as ``uploading.watch`` watches one.

Owns the threads, who is asked to stop when, what is told of which folder, and what the failure of one means for the
others. It must not know how a folder is watched.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from queue import Empty, Queue
from threading import Thread
from time import monotonic

from openmsistream.adapters.clock import SystemClock
from openmsistream.adapters.priority import lower_priority
from openmsistream.config.models import ProgramConfig
from openmsistream.config.options import WatchOptions
from openmsistream.core.events import Event, FolderFailed, Note, ProgramStarted
from openmsistream.core.heartbeat import Role
from openmsistream.errors import ConfigError, OpenMSIStreamError
from openmsistream.pipeline.runner import SHUTDOWN_SECONDS, Control, Totals
from openmsistream.ports import Events
from openmsistream.programs.setup import random_bytes
from openmsistream.programs.telemetry import LogLines, telemetry
from openmsistream.programs.uploading import watch

TURN_SECONDS = 0.1
"""How soon a request to stop or to report reaches the folders, however little happens in them."""
MAX_WAITING_EVENTS = 1_000
"""So many events wait to be told; then the folders wait, too, as one does whose events are told on its own thread."""
_NAME_BYTES = 4

Program = Callable[[WatchOptions, ProgramConfig, Events, Control, LogLines | None], Totals]
"""What watches one folder until it is told to stop: ``uploading.watch``."""


class _Folder:
    """One folder and its thread."""

    def __init__(self, name: str, options: WatchOptions) -> None:
        self.name, self.options = name, options
        self.control = Control()
        self.totals = Totals()
        self.error: Exception | None = None
        self.started = False
        self.thread: Thread | None = None


_Waiting = Queue[tuple[_Folder, Event | None]]  # None: its thread ends


def watch_many(
    options: Mapping[str, WatchOptions],
    config: ProgramConfig,
    events: Events,
    control: Control,
    lines: LogLines | None = None,
    *,
    program: Program = watch,
) -> Totals:
    """
    Send what is, or comes, below several folders, until told to stop.

    Each folder has a thread, a connection to its topic, a ledger and heartbeats of its own; where several have one
    ``heartbeat_program_id``, "-" and the folder's name are appended. Log lines are sent once for all.

    A folder that cannot be watched at all (``ConfigError`` before it started) ends the whole program, so that a
    mistake in a config file is seen at once. One that fails later, for whatever reason, is told as ``FolderFailed``
    and counts as one failure; the others go on.

    Args:
        options: What to do, by the names of the folders; at least one.
        config: The broker and how to talk to it.
        events: Called with what happens, on this thread; ``folder_name`` says where.
        control: Asked all the time whether to stop or to report.
        lines: The log's lines, for ``--log_topic_name``.
        program: What watches one folder.

    Returns:
        What all of them did together.

    Raises:
        ConfigError: A folder could not be watched at all, or options or config are wrong.
    """
    clock = SystemClock()
    logging = next((each for each in options.values() if each.log_topic_name), next(iter(options.values())))
    with telemetry(replace(logging, heartbeat_topic_name=None), config, Role.UPLOAD, events, clock, lines) as tell:
        control.each_turn.append(tell.deliver)
        for note in _same_topics(options):
            tell(note)
        if any(each.low_priority for each in options.values()):
            tell(Note(lower_priority()))  # once, and before there are threads: those inherit it
        folders = [_Folder(name, each) for name, each in _own_names(options).items()]
        waiting: _Waiting = Queue(MAX_WAITING_EVENTS)
        try:
            for folder in folders:
                _start(folder, config, waiting, program)
            wrong = _serve(folders, waiting, tell, control)
        finally:
            _abandon(folders, waiting)
    for folder in wrong:
        error = folder.error
        if isinstance(error, OpenMSIStreamError):
            raise type(error)(f"folder {folder.name}: {error.message}", hint=error.hint) from error
        if error is not None:
            raise error
    return _sum(folders)


def _start(folder: _Folder, config: ProgramConfig, waiting: _Waiting, program: Program) -> None:
    def run() -> None:
        try:
            folder.totals = program(
                folder.options, config, lambda event: waiting.put((folder, event)), folder.control, None
            )
        except Exception as error:
            folder.error = error
        finally:
            waiting.put((folder, None))

    # A daemon: a second request to stop ends the program, whatever a thread waits for.
    folder.thread = Thread(target=run, name=f"folder {folder.name}", daemon=True)
    folder.thread.start()


def _serve(folders: list[_Folder], waiting: _Waiting, tell: Events, control: Control) -> list[_Folder]:
    """Tell what happens until all have ended; the folders whose errors end the program, the worst first."""
    refused: list[_Folder] = []
    broken: list[_Folder] = []
    left = len(folders)
    while left:
        control.turn()
        _pass_on(control, folders)
        try:
            folder, event = waiting.get(timeout=TURN_SECONDS)
        except Empty:
            continue
        if event is not None:
            folder.started |= isinstance(event, ProgramStarted)
            tell(replace(event, folder_name=folder.name))
            continue
        left -= 1
        error = folder.error
        if error is None:
            continue
        if not refused and isinstance(error, ConfigError) and not folder.started:
            refused.append(folder)
            if not control.stopping:
                control.stop(f"folder {folder.name} cannot be watched")
            continue
        if isinstance(error, OpenMSIStreamError):
            tell(FolderFailed(error.message, error.hint, folder_name=folder.name))
        else:
            # A mistake of ours: the others are no worse off for it, and its traceback is shown at the end.
            tell(FolderFailed(f"{type(error).__name__}: {error}", folder_name=folder.name))
            broken.append(folder)
    return refused + broken


def _pass_on(control: Control, folders: Iterable[_Folder]) -> None:
    """What the program is asked for, each folder is asked for."""
    wanted = control.take_check()
    for folder in folders:
        if wanted:
            folder.control.check()
        if control.stopping and not folder.control.stopping:
            folder.control.stop(control.reason)
        if control.stop_now and not folder.control.stop_now:
            folder.control.stop(control.reason)


def _abandon(folders: Iterable[_Folder], waiting: _Waiting) -> None:
    """Whatever ended the program, no thread of it goes on; those that have ended need nothing."""
    running = [folder for folder in folders if folder.thread is not None and folder.thread.is_alive()]
    give_up = monotonic() + SHUTDOWN_SECONDS
    while running and monotonic() < give_up:
        for folder in running:
            if not folder.control.stop_now:
                folder.control.stop("the program ended")
        try:
            waiting.get(timeout=TURN_SECONDS)  # nobody listens, but a thread that waits to tell must not
        except Empty:
            continue
        finally:
            running = [folder for folder in running if folder.thread is not None and folder.thread.is_alive()]


def _own_names(options: Mapping[str, WatchOptions]) -> dict[str, WatchOptions]:
    """The options of each folder's own program: heartbeats with a name of their own, nothing that is done for all."""
    ids = Counter(each.heartbeat_program_id for each in options.values() if each.heartbeat_topic_name)
    made_up = f"upload-{random_bytes()(_NAME_BYTES).hex()}"
    named = {}
    for name, each in options.items():
        own = each.heartbeat_program_id
        if own is None or ids[own] > 1:
            own = f"{own or made_up}-{name}"
        named[name] = replace(each, heartbeat_program_id=own, log_topic_name=None, low_priority=False)
    return named


def _same_topics(options: Mapping[str, WatchOptions]) -> list[Note]:
    """What a user should know of folders that share a topic: a consumer tells files apart by their paths alone."""
    topics: dict[str, list[str]] = defaultdict(list)
    for name, each in options.items():
        topics[each.topic].append(name)
    return [
        Note(
            f"the folders {', '.join(names)} share the topic {topic}: where two have a file of the same path below "
            "them, a consumer keeps the one that was sent last",
            hint="give each folder a topic_name of its own, unless their paths differ",
        )
        for topic, names in topics.items()
        if len(names) > 1
    ]


def _sum(folders: Iterable[_Folder]) -> Totals:
    total = Totals()
    for folder in folders:
        for item in fields(Totals):
            setattr(total, item.name, getattr(total, item.name) + getattr(folder.totals, item.name))
        total.failed += folder.error is not None
    return total
