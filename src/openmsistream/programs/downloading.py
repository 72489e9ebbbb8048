"""The program that writes a topic's files to a folder: ``DataFileDownloadDirectory``.

It chooses the adapters and gives them to the download flow. Same name, arguments and defaults as 1.x where it
has them; everything else is keyword-only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from openmsistream.adapters.clock import SystemClock
from openmsistream.adapters.filesystem.rules import Existing
from openmsistream.adapters.kafka.client import TopicInfo
from openmsistream.adapters.kafka.consumer import KafkaConsumer
from openmsistream.config.ini import Settings
from openmsistream.config.models import ProgramConfig
from openmsistream.config.options_download import DownloadOptions
from openmsistream.core.heartbeat import Role
from openmsistream.core.paths import WORK_FOLDER
from openmsistream.pipeline.download import Download
from openmsistream.pipeline.download_settings import DownloadSettings
from openmsistream.pipeline.expiry import ExpirySettings
from openmsistream.pipeline.runner import Control, DownloadTotals
from openmsistream.ports import Events
from openmsistream.programs.commands import CommandQueue
from openmsistream.programs.delivering import announced
from openmsistream.programs.ledgers import partials_of
from openmsistream.programs.legacy import modern, refuse_type
from openmsistream.programs.reading import ignore, open_ledger, read_topic, selection_for, summary, with_the_place
from openmsistream.programs.setup import ledger_file, load_config
from openmsistream.programs.telemetry import LogLines, telemetry


class DataFileDownloadDirectory:
    """
    Writes every file of a topic below a folder, each under its final name only once it is whole and verified.

    Args:
        dirpath: The output folder; made if need be.
        config_path: Config file, by path or name.
        topic_name: The topic.
        datafile_type: Only there because 1.x has it; nothing else than None can be given.
        filepath_regex: Write only files whose relative path matches it from its beginning.
        events: Called with what happens (``openmsistream.core.events``), on the thread that runs the program.
        options: Further options by name, as on the command line (``consumer_group_id``, ``until_idle``, ...).

    Raises:
        ConfigError: An argument or the config file is wrong.
    """

    def __init__(
        self,
        dirpath: Path | str,
        config_path: Path | str,
        topic_name: str,
        datafile_type: type | None = None,
        filepath_regex: str | None = None,
        *,
        events: Events = ignore,
        **options: Any,
    ) -> None:
        refuse_type(datafile_type, ())
        self._options = DownloadOptions(
            output_dir=Path(dirpath),
            config=str(config_path),
            topic_name=topic_name,
            download_regex=filepath_regex,
            **modern(options),
        )
        self._config = load_config(str(config_path))
        self._events = events
        self.control = Control()
        self.control_command_queue = CommandQueue(self.control)

    def reconstruct(self) -> tuple[int, int, int, list[Path]]:
        """
        Read and write until told to stop (``control_command_queue.put("q")`` from another thread).

        Returns:
            Records read, records handled, files written, and up to 50 relative paths written last.

        Raises:
            As ``download``.
        """
        return summary(lambda events: download(self._options, self._config, events, self.control), self._events)


def download(
    options: DownloadOptions, config: ProgramConfig, events: Events, control: Control, lines: LogLines | None = None
) -> Download:
    """
    Write a topic's files below a folder, until told to stop or idle for ``until_idle`` seconds.

    Args:
        options: What to do, as on the command line.
        config: The broker and how to talk to it.
        events: Called with what happens, on this thread.
        control: Asked in every turn whether to stop or to report.
        lines: The log's lines, for ``--log_topic_name``.

    Returns:
        The flow, ended: its totals, and how many versions are not whole yet.

    Raises:
        ConfigError: Something in options, config or topic is wrong, or another program writes this topic there.
        DeliveryError: The broker refuses for good.
        UnavailableError: It did not answer before the program was told to stop.
        StorageError: The folder or the ledger cannot be used.
    """
    # What is noted for a later run, which may be started elsewhere, is to name the same files.
    options = replace(options, output_dir=options.output_dir.absolute())
    with telemetry(options, config, Role.DOWNLOAD, events, SystemClock(), lines) as observe:
        control.each_turn.append(observe.deliver)
        flow = partial(_flow, options, observe, control)
        return read_topic(options, config, str(options.output_dir), observe, control, flow)


@contextmanager
def _flow(
    options: DownloadOptions,
    events: Events,
    control: Control,
    topic: TopicInfo,
    settings: Settings,
    totals: DownloadTotals,
) -> Iterator[Download]:
    with (
        announced(options, topic.name, _file(options, "calls", topic), events, control) as announcing,
        closing(announcing.sink(options, partials_of(topic))) as sink,
        closing(open_ledger(_file(options, "download", topic), topic, events)) as ledger,
    ):
        yield Download(
            topic.name,
            KafkaConsumer(settings, topic, events, lambda: control.stopping),
            sink,
            ledger,
            selection_for(options),
            SystemClock(),
            with_the_place(announcing, options.output_dir),
            control,
            DownloadSettings(
                expiry=ExpirySettings(seconds=options.expire_after),
                until_idle_seconds=options.until_idle,
                naming=sink.naming,
                keep_others=options.on_existing != Existing.REPLACE.value,
                keep_option=f"--on-existing {Existing.KEEP_BOTH.value}",
                alive_seconds=options.update_seconds,
                topic_id=topic.identity,
            ),
            totals,
        )


def _file(options: DownloadOptions, kind: str, topic: TopicInfo) -> Path:
    # Inside the output folder: who removes that folder to begin anew removes the memory of it, too.
    state = options.state_dir or options.output_dir / WORK_FOLDER
    return ledger_file(state, kind, topic, of=options.output_dir)
