"""The program that puts a topic's files into a bucket: ``S3TransferStreamProcessor``, in 0.9 ``OSNStreamProcessor``.

It chooses the adapters and gives them to the download flow. Same names, arguments and defaults as 1.x where it has
them; everything else is keyword-only. Its ledger and work folder stand in the state folder of this computer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmsistream.adapters.clock import SystemClock
from openmsistream.adapters.filesystem.sink import FolderSink
from openmsistream.adapters.kafka.client import TopicInfo
from openmsistream.adapters.kafka.consumer import KafkaConsumer
from openmsistream.adapters.s3 import require_boto3
from openmsistream.config.ini import Settings
from openmsistream.config.models import ProgramConfig
from openmsistream.config.options_s3 import S3Options, connection, defaults_from_file
from openmsistream.config.s3 import S3Access, s3_access
from openmsistream.core.events import Note
from openmsistream.core.heartbeat import Role
from openmsistream.core.versions import VersionKey
from openmsistream.errors import ConfigError, StorageError
from openmsistream.pipeline.delivery import BarrierSettings, final_path
from openmsistream.pipeline.download import Download
from openmsistream.pipeline.download_settings import DownloadSettings
from openmsistream.pipeline.expiry import ExpirySettings
from openmsistream.pipeline.runner import Control, DownloadTotals
from openmsistream.ports import Events, Sink
from openmsistream.programs.commands import CommandQueue
from openmsistream.programs.legacy import modern
from openmsistream.programs.reading import ignore, open_ledger, read_topic, selection_for, summary, with_the_place
from openmsistream.programs.setup import load_config, state_folder
from openmsistream.programs.telemetry import LogLines, telemetry

if TYPE_CHECKING:
    from openmsistream.adapters.s3.sink import About, S3Sink

_PROBE = ".openmsistream-may-we-write"


class S3TransferStreamProcessor:
    """
    Puts every file of a topic into a bucket, as an object that appears only once it is whole and verified.

    Args:
        bucket_name: The bucket, which exists.
        config_path: Config file, by path or name; its ``[s3]`` says where the store is.
        topic_name: The topic.
        filepath_regex: Deliver only files whose relative path matches it from its beginning.
        events: Called with what happens (``openmsistream.core.events``), mostly on the thread that runs the program.
        options: Further options by name, as on the command line (``mode``, ``output_dir``, ``key_template``, ...).

    Raises:
        ConfigError: An argument or the config file is wrong.
    """

    def __init__(
        self,
        bucket_name: str,
        config_path: Path | str,
        topic_name: str,
        filepath_regex: str | None = None,
        *,
        events: Events = ignore,
        **options: Any,
    ) -> None:
        self._options = S3Options(
            bucket_name=bucket_name,
            config=str(config_path),
            topic_name=topic_name,
            download_regex=filepath_regex,
            **modern(options),
        )
        self._config = load_config(str(config_path))
        self._events = events
        self.control = Control()
        self.control_command_queue = CommandQueue(self.control)

    def process_files_as_read(self) -> tuple[int, int, int, list[Path]]:
        """
        Read and deliver until told to stop (``control_command_queue.put("q")`` from another thread).

        Returns:
            Records read, records handled, files delivered, and up to 50 relative paths delivered last.

        Raises:
            As ``to_s3``.
        """
        return summary(lambda events: to_s3(self._options, self._config, events, self.control), self._events)

    def close(self) -> None:
        """There is nothing left to close; 1.x's programs call it."""


class OSNStreamProcessor(S3TransferStreamProcessor):
    """The name of ``S3TransferStreamProcessor`` in 0.9."""


def options_from_file(config: ProgramConfig) -> dict[str, Any]:
    """
    What a config file and the environment say about the options, by name.

    Raises:
        ConfigError: Something in them is wrong.
    """
    return defaults_from_file(config.download, config.s3, os.environ)


def to_s3(
    options: S3Options, config: ProgramConfig, events: Events, control: Control, lines: LogLines | None = None
) -> Download:
    """
    Put a topic's files into a bucket, until told to stop or idle for ``until_idle`` seconds.

    Args:
        options: What to do, as on the command line.
        config: The broker and the store, and how to talk to them.
        events: Called with what happens, mostly on this thread.
        control: Asked in every turn whether to stop or to report.
        lines: The log's lines, for ``--log_topic_name``.

    Returns:
        The flow, ended: its totals, and how many versions are not whole yet.

    Raises:
        ConfigError: Something in options, config, topic or bucket is wrong, or another program delivers this topic
            there from this computer.
        DeliveryError: The broker refuses for good.
        UnavailableError: It did not answer before the program was told to stop.
        StorageError: The store or the work folder could not be used when it was told to stop.
    """
    require_boto3()
    access = s3_access(connection(config.s3), os.environ)
    with telemetry(options, config, Role.DOWNLOAD, events, SystemClock(), lines) as observe:
        control.each_turn.append(observe.deliver)
        where = f"bucket {options.bucket_name} at {access.shown}"
        return read_topic(options, config, where, observe, control, partial(_flow, options, access, observe, control))


def set_abort_rule(options: S3Options, config: ProgramConfig, days: int) -> str:
    """
    Give the bucket a rule that removes what is left of unfinished uploads; its other rules stay.

    Returns:
        What was done, in a sentence.

    Raises:
        ConfigError: The config or the bucket is wrong.
        DeliveryError: The store has no such rules.
        StorageError: It does not answer, or our account may not do that.
    """
    require_boto3()
    from openmsistream.adapters.s3.bucket import Bucket  # noqa: PLC0415 - boto3 is an extra

    with closing(Bucket(s3_access(connection(config.s3), os.environ), options.bucket_name, 1)) as bucket:
        bucket.set_abort_rule(days)
        return f"{bucket.where}: unfinished uploads are removed {days} days after they were begun"


@contextmanager
def _flow(
    options: S3Options,
    access: S3Access,
    events: Events,
    control: Control,
    topic: TopicInfo,
    settings: Settings,
    totals: DownloadTotals,
) -> Iterator[Download]:
    work = _work_folder(options, access, topic)
    with (
        _sinks(options, access, topic, work, events) as (bucket, sink),
        closing(open_ledger(work / "download.sqlite", topic, events)) as ledger,
    ):
        flow = Download(
            topic.name,
            KafkaConsumer(settings, topic, events, lambda: control.stopping),
            sink,
            ledger,
            selection_for(options),
            SystemClock(),
            with_the_place(events, work),
            control,
            DownloadSettings(
                # Small files wait for it in memory.
                barrier=BarrierSettings(files=1000, seconds=0.5, look_first=False),
                expiry=ExpirySettings(seconds=options.expire_after),
                until_idle_seconds=options.until_idle,
                alive_seconds=options.update_seconds,
                topic_id=topic.identity,
            ),
            totals,
        )
        bucket.describe = partial(_described, flow)
        yield flow


def _described(flow: Download, key: VersionKey) -> About | None:
    """What is known of a version when its first bytes come."""
    from openmsistream.adapters.s3.sink import About  # noqa: PLC0415 - boto3 is an extra

    version = flow.open_version(key)
    return None if version is None else About(final_path(version), version.order)


@contextmanager
def _sinks(
    options: S3Options, access: S3Access, topic: TopicInfo, work: Path, events: Events
) -> Iterator[tuple[S3Sink, Sink]]:
    """The bucket, and the same with a folder beside it if there is to be one."""
    from openmsistream.adapters.s3.bucket import Bucket  # noqa: PLC0415 - boto3 is an extra
    from openmsistream.adapters.s3.copies import BucketAndFolder  # noqa: PLC0415
    from openmsistream.adapters.s3.naming import object_key  # noqa: PLC0415
    from openmsistream.adapters.s3.sink import S3Settings, S3Sink  # noqa: PLC0415
    from openmsistream.adapters.s3.work_folder import Goes, note  # noqa: PLC0415

    parts = max(options.upload_threads, options.n_threads)
    how = S3Settings(topic.name, options.key_template, parts, options.put_threads, read_back=options.verify_read_back)
    bucket = Bucket(access, options.bucket_name, parts + options.put_threads)
    try:
        bucket.check(object_key(options.key_template, topic.name, _PROBE))
    except StorageError as error:
        events(Note(f"{error.message}; it is tried again when there is something to deliver", hint=error.hint))
    with closing(S3Sink(bucket, work, how, events)) as sink:
        note(work, Goes(options.bucket_name, access.endpoint or "", topic.name, options.key_template))
        if options.copies is None:
            yield sink, sink
            return
        with closing(FolderSink(options.copies, whose=work.name)) as folder:
            yield sink, BucketAndFolder(sink, folder)


def _work_folder(options: S3Options, access: S3Access, topic: TopicInfo) -> Path:
    """The place of ledger and work files: one for each topic and where its files go, whatever the group is called."""
    text = "\0".join((topic.cluster_id, topic.name, access.endpoint or "", options.bucket_name, options.key_template))
    digest = blake2b(text.encode(), digest_size=8).hexdigest()
    folder = state_folder(options.state_dir) / f"s3-{topic.name}-{digest}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ConfigError(f"{folder}: is a file, and should be a folder for work files") from error
    except OSError as error:
        raise StorageError(f"{folder}: cannot be made: {error.strerror or error}", hint="check --state-dir") from error
    return folder
