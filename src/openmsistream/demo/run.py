"""The demo from beginning to end: files, broker, both real programs, every byte compared, all put away.

Owns the order of the steps and every deadline. It does not know how a program works: it starts the commands
that a user would type, and believes only what stands in the folders afterwards.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue

from rich.console import Console

from openmsistream.config.words import command_line
from openmsistream.demo import broker as kafka
from openmsistream.demo import report
from openmsistream.demo.children import Child, Heard
from openmsistream.demo.place import Place
from openmsistream.demo.samples import Sample, samples_before, samples_while_running
from openmsistream.demo.signals import Interrupted, Signals
from openmsistream.demo.tally import DOWNLOADER, UPLOADER, Tally
from openmsistream.demo.verify import compare, strangers
from openmsistream.demo.view import View, say, view_for
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
_LAG_SECONDS = 1
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
                hint="add --topic-name NAME; it is made when it does not exist",
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
        code = 0
        try:
            try:
                with signals.held():
                    demo = _Demo(options, out, signals)
                demo.run()
            except OpenMSIStreamError as error:
                if demo is None:
                    raise
                demo.problems.append(error)
            signals.clean_up()
        except Interrupted as error:
            code = error.exit_code
        except (SystemExit, BrokenPipeError):
            code = 1  # who read our output is gone, so nobody would learn where logs are kept
            raise
        finally:
            signals.clean_up()
            logs = demo.close(keep_logs=code == 0 and not demo.verified) if demo is not None else None
    if code:
        say(err, "Interrupted: both programs and the broker are stopped" + _left_over(options))
    elif demo is not None and demo.problems:
        report.show_problems(err, demo.problems, logs)
        code = 1
    elif demo is not None:
        report.show_next_steps(out, options.config, demo.topic)
    return code


def _left_over(options: DemoOptions) -> str:
    return f"; files are in {options.keep}" if options.keep else ", the demo's files are removed"


class _Demo:
    """One run of the demo: what it made so far, so that ``close`` can put it away at any moment."""

    def __init__(self, options: DemoOptions, out: Console, signals: Signals) -> None:
        # What the broker keeps and what is delivered are copies of what is written.
        copies = 3 if options.config is None else 2
        self.place = Place.make(options.keep, options.size_mb * 1_000_000, copies=copies)
        self.topic = options.topic or kafka.DEFAULT_TOPIC
        self.verified = False
        self.problems: list[OpenMSIStreamError] = []
        self._options = options
        self._out = out
        self._signals = signals
        self._broker: LocalBroker | None = None
        self._children: list[Child] = []
        self._heard: SimpleQueue[Heard] = SimpleQueue()
        # On a topic with other people's files, ours stand in a folder of their own.
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
        self._name = f"openmsistream-demo-{stamp}"
        self._below = "" if options.config is None else f"{self._name}/"
        self._tally = Tally(self._below)

    def run(self) -> None:
        """
        Do all steps.

        Raises:
            OpenMSIStreamError: A step failed; ``problems`` may hold more.
        """
        began = time.monotonic()
        before = [self._ours(sample) for sample in samples_before(self._options.size_mb)]
        self._say(f"1/6  Writing measurement files as instruments would, {self._options.size_mb} MB in all")
        for sample in before:
            self._write(sample)
        self._say(f"     {len(before)} files in {self.place.source}")
        self._prepare_broker()
        self._start_programs()
        self._say("4/6  Sending and receiving; more files appear meanwhile, as on a measuring day")
        with view_for(self._out) as view:
            self._transfer(view)
        self._say("5/6  Stopping both programs, as `q` and Enter would")
        self._stop_programs()
        self._say("6/6  Comparing every byte of both folders")
        self._verify()
        if not self.problems:
            self.verified = True
            seconds = time.monotonic() - began
            self._say(f"All {len(self._tally.rows)} files arrived whole; the demo took {seconds:.0f} s.")
            if self.place.kept:
                self._say(f"Files: {self.place.source} and {self.place.copy}")

    def close(self, *, keep_logs: bool) -> Path | None:
        """
        End the programs and the broker, remove what is not to stay.

        Args:
            keep_logs: Leave the log files, when there are any.

        Returns:
            Where the log files are, when they were left.
        """
        for child in self._children:
            child.ask_to_stop()
        for child in self._children:
            child.wait(self._options.deadlines.stop, hurry=self._signals.impatient)
        if self._broker is not None:
            self._broker.stop(0.5 if self._signals.impatient() else _CLOSE_SECONDS)
        # A broker that did not start has a log worth reading, too.
        keep_logs = keep_logs and (bool(self._children) or self.place.broker.exists())
        if not self.place.remove(but_logs=keep_logs):
            say(self._out, f"{self.place.top}: could not be removed whole; please delete it")
        return self.place.logs if keep_logs else None

    def _say(self, text: str) -> None:
        say(self._out, text)

    def _ours(self, sample: Sample) -> Sample:
        return replace(sample, path=self._below + sample.path)

    def _write(self, sample: Sample) -> None:
        try:
            size = sample.write(self.place.source)
        except OSError as error:
            raise StorageError(
                f"{self.place.source}: cannot write {sample.path}: {error.strerror or error}",
                hint="send less: --size-mb 20; or use another disk: --keep FOLDER",
            ) from error
        self._tally.wrote(sample.path, size, time.time())

    def _prepare_broker(self) -> None:
        if self._options.config is not None:
            made = kafka.prepare_existing(self._options.config, self.topic)
            self._say(
                f"2/6  Using the broker of {self._options.config}, topic {self.topic}" + (" (made now)" if made else "")
            )
            return
        self._say("2/6  Starting a Kafka broker on this computer: the post office between both programs")
        self._broker = kafka.start_local(self.place.broker, lambda text: self._say(f"     {text}"))
        kafka.prepare_local(self._broker, self.topic, self.place.config)
        self._say(f"     it answers at {self._broker.bootstrap}; the topic is called {self.topic}")

    def _start_programs(self) -> None:
        self._say("3/6  Starting the two programs, each as a user would in a terminal of its own")
        config = self._options.config or str(self.place.config)
        shared = ("--config", config, "--topic-name", self.topic)
        # A group of its own: one that is named in a user's config file must not lose its place.
        download = ["download", str(self.place.copy), *shared, "--consumer-group-id", self._name]
        if self._below:
            download += ["--download-regex", re.escape(self._below)]
        lag = str(_LAG_SECONDS)
        watch = ["watch", str(self.place.source), *shared, "--upload-existing", "--watchdog-lag-time", lag]
        for role, words in ((DOWNLOADER, download), (UPLOADER, watch)):
            self._say(f"     {role}: {command_line('openmsistream', *words)}")
            state = self.place.state / role
            ours = ("--json", "--progress", "none", "--state-dir", str(state))
            with self._signals.held():
                child = Child.start(role, [*self._options.program, *words, *ours], self.place.logs, self._heard)
                self._children.append(child)

    def _transfer(self, view: View) -> None:
        """Hear both programs and let new files appear, until all is delivered or a deadline has passed."""
        limits = self._options.deadlines
        coming = [self._ours(sample) for sample in samples_while_running()]
        start = moved = dropped = time.monotonic()
        size_mb = self._options.size_mb
        while coming or not (self._tally.finished(UPLOADER) and self._tally.finished(DOWNLOADER)):
            self._hear(view)
            if self._tally.got_further():
                moved = time.monotonic()
            view.update(self._tally)
            now = time.monotonic()
            if coming and now - dropped >= _DROP_SECONDS and self._may_appear(coming[0]):
                sample = coming.pop(0)
                self._write(sample)
                view.say(f"      appears    {sample.path} ({sample.what})")
                moved = dropped = time.monotonic()
            self._check_alive(view)
            if len(self._tally.started) < 2 and now - start > limits.ready:
                self._give_up(f"the programs were not ready within {limits.ready:g} s")
            if now - moved > limits.silence:
                self._give_up(f"nothing moved for {limits.silence:g} s")
            if now - start > limits.whole + size_mb:
                self._give_up(f"not all was delivered within {limits.whole + size_mb:g} s")
        view.update(self._tally)

    def _may_appear(self, sample: Sample) -> bool:
        """New files come once both programs work; one is saved again once its first version is delivered."""
        earlier = self._tally.rows.get(sample.path)
        if earlier is not None:
            return earlier.sides[DOWNLOADER].finished_at is not None
        return self._tally.totals(DOWNLOADER).files > 0

    def _hear(self, view: View) -> None:
        """Take in what is said within one tick."""
        deadline = time.monotonic() + _TICK_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            try:
                heard = self._heard.get(timeout=left)
            except Empty:
                break
            row = self._tally.hear(heard)
            if row is not None:
                view.finished(heard.role, row)
            kind = str(heard.event["event"])
            if kind in ("note", "broker_unavailable", "storage_paused"):
                view.say(f"      {heard.role}: {heard.event.get('text') or heard.event.get('reason')}")

    def _check_alive(self, view: View) -> None:
        if self._broker is not None and not self._broker.is_alive():
            raise UnavailableError("the broker ended by itself", hint="its last lines are in broker.log")
        for child in self._children:
            code = child.exit_code()
            if code is not None:
                child.wait(0)  # until its last line is heard
                self._hear(view)
                raise self._died(child, code)

    def _died(self, child: Child, code: int) -> DeliveryError:
        totals = self._tally.totals(DOWNLOADER)
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        last = "".join(f"\n       {line}" for line in child.last_lines()) or " none"
        return DeliveryError(
            f"the {child.role} ended by itself ({how}) when {totals.files} of {totals.of_files} files"
            f" were delivered; its last lines:{last}"
        )

    def _give_up(self, what: str) -> None:
        self.problems += [DeliveryError(text) for text in (*self._tally.problems, *self._tally.missing())]
        raise UnavailableError(what, hint="a slow computer needs more time: try --size-mb 20")

    def _stop_programs(self) -> None:
        for child in self._children:
            child.ask_to_stop()
        for child in self._children:
            code = child.wait(self._options.deadlines.stop)
            if code is None:
                self.problems.append(
                    UnavailableError(
                        f"the {child.role} did not end within {self._options.deadlines.stop:g} s"
                        " and was ended with force"
                    )
                )
            elif code != 0:
                self.problems.append(DeliveryError(f"the {child.role} ended with exit code {code}, expected 0"))

    def _verify(self) -> None:
        while not self._heard.empty():
            self._tally.hear(self._heard.get())  # what was said while stopping
        paths = list(self._tally.rows)
        verdicts = compare(self.place.source, self.place.copy, paths)
        report.show_table(self._out, self._tally, verdicts)
        found = [verdict.problem for verdict in verdicts if verdict.problem]
        for folder, hidden in ((self.place.source, True), (self.place.copy, False)):
            names = strangers(folder, paths, hidden=hidden)
            found += [f"{folder}: {name} does not belong there" for name in names]
        self.problems += [IntegrityError(text) for text in found]
        self.problems += [DeliveryError(text) for text in self._tally.problems]
