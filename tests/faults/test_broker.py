"""The broker is killed, restarted or frozen while files move: both programs say it once and go on by themselves."""

from __future__ import annotations

import time
from contextlib import ExitStack

from openmsistream.local.broker import LocalBroker
from tests.faults.records import by_path, on_topic
from tests.faults.support import LONG, Place, Program, eventually, fill, tree

FREEZE_SECONDS = 20.0 if LONG else 5.0
BIG_BYTES = 40_000_000


def feed(place: Place, name: str) -> None:
    """Put a load into the watched folder: one big file and many small ones."""
    fill(place.watched, {f"{name}/big.bin": BIG_BYTES} | {f"{name}/{n}.dat": n * 50 for n in range(60)}, seed=len(name))


def ready(place: Place, stack: ExitStack) -> tuple[Program, Program]:
    """Both programs, reading and watching."""
    receiver = stack.enter_context(place.download())
    sender = stack.enter_context(place.watch("--upload-existing", "--chunk-size", 65_536))
    receiver.until_event("program_started")
    sender.until_event("program_started")
    return sender, receiver


def all_there(place: Place) -> bool:
    return tree(place.output) == tree(place.watched)


def test_a_broker_that_dies_and_comes_back_costs_nothing(risky: Place, victim: LocalBroker) -> None:
    """Killed in the middle of a load and restarted: everything arrives once, and each program says it once each way."""
    with ExitStack() as stack:
        sender, receiver = ready(risky, stack)
        feed(risky, "first")
        receiver.until_event("file_delivered")
        sender.until_event("file_progress", path="first/big.bin")
        victim.kill()
        sender.until_event("broker_unavailable")
        receiver.until_event("broker_unavailable")
        feed(risky, "while away")
        victim.restart()

        eventually(lambda: all_there(risky), "everything arrived")
        sender.until_event("broker_back")
        receiver.until_event("broker_back")
        assert sender.quit() == 0
        assert receiver.quit() == 0
    for program in (sender, receiver):
        assert (len(program.of("broker_unavailable")), len(program.of("broker_back"))) == (1, 1)
        assert program.stderr == ""
    told = receiver.paths("file_delivered")
    assert len(told) == len(set(told))
    assert all(len(v) == 1 for v in by_path(on_topic(risky.bootstrap, risky.topic).values()).values())


def test_a_broker_that_stands_still_costs_nothing(risky: Place, victim: LocalBroker) -> None:
    """Frozen under load, connections open: nothing is lost or doubled, and both programs go on when it does."""
    with ExitStack() as stack:
        sender, receiver = ready(risky, stack)
        feed(risky, "first")
        receiver.until_event("file_delivered")
        victim.freeze()
        thaw_at = time.monotonic() + FREEZE_SECONDS
        feed(risky, "while frozen")
        eventually(lambda: time.monotonic() > thaw_at, "the time to thaw")
        before = len(receiver.of("file_delivered"))
        victim.thaw()

        eventually(lambda: all_there(risky), "everything arrived")
        assert len(receiver.of("file_delivered")) > before
        assert sender.quit() == 0
        assert receiver.quit() == 0
    for program in (sender, receiver):
        assert len(program.of("broker_unavailable")) <= 1
        assert len(program.of("broker_unavailable")) == len(program.of("broker_back"))
    told = receiver.paths("file_delivered")
    assert len(told) == len(set(told))


def test_both_programs_can_be_ended_while_the_broker_stands_still(risky: Place, victim: LocalBroker) -> None:
    """``q`` is answered within half a minute though nothing answers; the next start goes on and loses nothing."""
    with ExitStack() as stack:
        sender, receiver = ready(risky, stack)
        fill(risky.watched, {"first.dat": 100})
        receiver.until_event("file_delivered")
        victim.freeze()
        feed(risky, "while frozen")
        sender.until_event("file_started", path="while frozen/big.bin")
        sender.type("q")
        receiver.type("q")
        codes = sender.wait(30), receiver.wait(30)
        victim.thaw()
    assert codes == (3, 0)
    (stopped,) = sender.of("program_stopped")
    assert stopped["waiting"] > 0
    risky.send("--chunk-size", 65_536)
    risky.fetch(idle=3)
    assert all_there(risky)


def test_control_a_fire_and_forget_producer_loses_records_with_its_broker(risky: Place, victim: LocalBroker) -> None:
    """A producer that gives up after a second loses files when the broker dies: the test above can fail."""
    risky.configure(producer="message.timeout.ms = 1000")
    with risky.watch("--upload-existing") as sender:
        sender.until_event("program_started")
        victim.kill()
        fill(risky.watched, {"lost.dat": 100})
        sender.until_event("file_failed", path="lost.dat")
        sender.kill()  # else it tries again by itself
    victim.restart()

    assert on_topic(risky.bootstrap, risky.topic) == {}
