"""How a downloader's files are to stand, from its options: the output folder as a sink, and the user's command.

It chooses the adapters for both; what is downloaded, and when, is the business of ``programs.downloading``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from openmsistream.adapters.filesystem.rules import DeliveryRules, Existing, owner_ids
from openmsistream.adapters.filesystem.sink import FolderSink
from openmsistream.adapters.hook import DeliveredHook, HookSettings
from openmsistream.config.options_download import DownloadOptions
from openmsistream.config.words import command_words
from openmsistream.core.events import Event, FileDelivered, Note
from openmsistream.core.names import Naming
from openmsistream.pipeline.runner import Control
from openmsistream.ports import Events


def rules_for(options: DownloadOptions) -> DeliveryRules:
    """
    How files are to stand in the output folder.

    Raises:
        ConfigError: This computer does not know the owner.
    """
    owner, group = (-1, -1) if options.owner is None else owner_ids(options.owner)
    return DeliveryRules(
        existing=Existing(options.on_existing),
        keep_mtime=options.keep_mtime,
        file_mode=options.file_mode,
        folder_mode=options.folder_mode,
        owner=owner,
        group=group,
    )


class Announced:
    """
    The events of a downloader, with the user's command run for every delivered file.

    Args:
        hook: What runs it, or None.
        root: The output folder.
        events: Called with every event.
    """

    def __init__(self, hook: DeliveredHook | None, root: Path, events: Events) -> None:
        self.hook, self._root, self._events = hook, root, events
        self._naming = Naming()

    def __call__(self, event: Event) -> None:
        """Pass an event on."""
        self._events(event)
        if not isinstance(event, FileDelivered):
            return
        if event.file and event.file != str(self._root / self._naming.stored(event.path)):
            self._events(Note(f"{event.path}: its name is taken by another file here: written as {event.file}"))
        if self.hook is not None:
            self.hook.take(event if event.file else replace(event, file=str(self._root / event.path)))

    def sink(self, options: DownloadOptions, whose: str) -> FolderSink:
        """
        The output folder; ``whose`` tells the partial files of this topic from those of others there.

        Raises:
            ConfigError: The options ask for what cannot be done there.
            StorageError: The folder cannot be made or written.
        """
        hook = self.hook
        announce = None if hook is None else hook.announce
        sink = FolderSink(
            options.output_dir, rules=rules_for(options), names=options.names, announce=announce, whose=whose
        )
        self._naming = sink.naming
        if hook is not None:
            hook.recover(lambda each: sink.standing(each, each.hash_name, each.digest))
        return sink


@contextmanager
def announced(
    options: DownloadOptions, topic: str, journal: Path, events: Events, control: Control
) -> Iterator[Announced]:
    """
    Run the user's command, if there is one, for what is delivered within.

    Args:
        options: Say which command.
        topic: For its environment.
        journal: Where the calls that are still to be made are kept.
        events: Called with every event.
        control: Its loop hands the calls out. When it ends by itself, all calls are made before this returns.

    Raises:
        ConfigError: There is no such program, or another downloader uses the journal.
        StorageError: The journal cannot be used.
    """
    if options.on_delivered is None:
        yield Announced(None, options.output_dir, events)
        return
    settings = HookSettings(
        command_words(options.on_delivered),
        topic,
        parallel=options.n_threads,
        seconds=options.on_delivered_seconds,
        tries=options.on_delivered_tries,
    )
    hook = DeliveredHook(settings, journal, events)
    control.each_turn.append(hook.turn)
    well = False
    try:
        yield Announced(hook, options.output_dir, events)
        well = True
    finally:
        control.each_turn.remove(hook.turn)
        hook.close(drain=lambda: well and not control.stopping)
