"""The demo from beginning to end: files, broker, both real programs, every byte compared, everything put away.

Owns the order of the steps and every deadline. It does not know how a program works: it starts the commands
that a user would type, and believes only what stands in the folders afterwards.
"""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue

from rich.console import Console

from openmsistream.demo import broker as kafka
from openmsistream.demo import report
from openmsistream.demo.children import Child, Heard
from openmsistream.demo.place import Place
from openmsistream.demo.samples import Sample, samples_before, samples_while_running
from openmsistream.demo.signals import Interrupted, Signals
from openmsistream.demo.tally import DOWNLOADER, UPLOADER, Tally
from openmsistream.demo.verify import compare, strangers
from openmsistream.demo.view import View, say, size_text, view_for
from openmsistream.errors import (
    ConfigError,
    DeliveryError,
    IntegrityError,
    OpenMSIStreamError,
    StorageError,
    UnavailableError,
)
from openmsistream.local.broker import LocalBroker

DEFAULT_SIZE_MB = 300
PROGRAM = (sys.executable, "-m", "openmsistream")

_TICK_SECONDS = 0.1
# A new file appears so long after the one before, so that a reader can follow.
_DROP_SECONDS = 0.7
_LAG_SECONDS = 1.0
_CLOSE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Deadlines:
    """
    How long the demo waits before it says that something is wrong, in seconds.

    Attributes:
        ready: For both programs to be ready after their start.
        silence: Without any progress.
        whole: For the transfer as a whole; one more for each MB to send.
        stop: For a program to end when asked.
    """

    ready: float = 60.0
    silence: float = 60.0
    whole: float = 180.0
    stop: float = 20.0


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """
    What the user chose.

    Attributes:
        size_mb: Size of the large file, in units of 1,000,000 bytes; 1 to 100,000.
        config: Config file of an existing broker; None: the demo starts one of its own.
        topic: Its topic; needed with ``config``.
        keep: Folder to keep all files in; None: a temporary one that is removed.
        program: How both programs are started: the words before ``watch`` and ``download``.
        deadlines: How long to wait for what.
    """

    size_mb: int = DEFAULT_SIZE_MB
    config: str | None = None
    topic: str | None = None
    keep: Path | None = None
    program: Sequence[str] = PROGRAM
    deadlines: Deadlines = Deadlines()

    def check(self) -> None:
        """
        Refuse what cannot work, before anything is made.

        Raises:
            ConfigError: The size is out of range, or ``config`` stands without ``topic``.
        """
        if not 1 <= self.size_mb <= 100_000:
            raise ConfigError(f"--size-mb {self.size_mb} is not from 1 to 100000", hint="e.g. --size-mb 300")
        if self.config is not None and self.topic is None:
            raise ConfigError(
                f"--config {self.config}: a topic is needed with it",
                hint="add --topic_name NAME; it is made when it does not exist",
            )


def run_demo(options: DemoOptions, out: Console, err: Console) -> int:
    """
    Show the whole of OpenMSIStream's main job on this computer, in well below a minute.

    Args:
        options: What the user chose.
        out: Where the demo is shown: bars when it is a terminal, else plain lines.
        err: Where problems go.

    Returns:
        0 when every file was delivered and compared equal; 1 with one line for each problem; 128 and the
        signal's number when it was interrupted (130: Ctrl-C).

    Raises:
        ConfigError: An option is wrong; nothing was started.
        StorageError: There is no room, or no right to write; nothing was started.
    """
    options.check()
    with Signals() as signals:
        demo: _Demo | None = None
        problems: list[OpenMSIStreamError] = []
        interrupted: Interrupted | None = None
        try:
            with signals.held():
                # What the broker keeps and what is delivered are copies of what is written.
                copies = 3 if options.config is None else 2
                demo = _Demo(options, out, signals, Place.make(options.keep, options.size_mb * 1_000_000, copies=copies))
            demo.run()
        except Interrupted as error:
            interrupted = error
        except OpenMSIStreamError as error:
            if demo is None:
                raise
            problems.append(error)
        finally:
            signals.clean_up()
            if demo is not None:
                problems = [*demo.problems, *problems]
                logs = demo.close(failed=bool(problems) or (interrupted is None and sys.exc_info()[0] is not None))
        if interrupted is not None:
            ...
    return 0
