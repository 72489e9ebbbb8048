"""Let every other program on this computer go first: the process's share of processor and disk.

Owns what each operating system calls that. It must not know why a program asks for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress

import psutil

LOWEST_NICE = 19


def lower_priority() -> str:
    """
    Make this process yield to all others, for good; what was done, in words, and what was refused.

    Threads that run already are lowered, too; those started later, and children, begin as low. Raises nothing: work
    at normal priority is better than none.

    Source: ``man 2 setpriority`` and ``man 2 ioprio_set`` (Linux: both hold for one thread, and are inherited);
    psutil's documentation of ``nice`` and ``ionice`` for Windows and macOS.
    """
    if sys.platform == "linux":
        steps = (_step("processor: nice 19", _linux_nice), _step("disk: idle class", _linux_idle))
    elif sys.platform == "win32":
        own = psutil.Process()
        steps = (
            _step("processor: idle priority class", lambda: own.nice(psutil.IDLE_PRIORITY_CLASS)),
            _step("disk: very low priority", lambda: own.ionice(psutil.IOPRIO_VERYLOW)),
        )
    else:
        steps = (_step("processor: nice 19", lambda: psutil.Process().nice(LOWEST_NICE)),)
    return ", ".join(steps)


def _step(done: str, do: Callable[[], object]) -> str:
    try:
        do()
    except (psutil.Error, OSError, AttributeError, ValueError, NotImplementedError) as error:
        # AttributeError: psutil leaves out what the system was built without.
        return f"{done} refused ({str(error) or type(error).__name__})"
    return done


def _linux_nice() -> None:
    _each_thread(lambda thread: os.setpriority(os.PRIO_PROCESS, thread, LOWEST_NICE))


def _linux_idle() -> None:
    _each_thread(lambda thread: psutil.Process(thread).ionice(psutil.IOPRIO_CLASS_IDLE))


def _each_thread(lower: Callable[[int], object]) -> None:
    for thread in psutil.Process().threads():
        # One that ended since they were listed needs nothing.
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            lower(thread.id)
