"""A program that is told to let all others go first does."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

CODE = """
import json, os, psutil, sys, threading
from openmsistream.adapters.priority import lower_priority

end = threading.Event()
threading.Thread(target=end.wait).start()
said = lower_priority()
later = threading.Thread(target=end.wait)
later.start()
# By way of the system's own numbers for every thread, not of what was asked for.
threads = [psutil.Process(thread.id) for thread in psutil.Process().threads()]
print(json.dumps({"said": said, "nice": [each.nice() for each in threads],
                  "io": [int(each.ionice().ioclass) for each in threads] if sys.platform == "linux" else []}))
end.set()
"""


def lowered(before: str = "") -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", before + CODE], capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own on Linux only")
def test_every_thread_has_the_lowest_priority():
    """For the processor and the disk; also the threads that run before, and those that start later."""
    seen = lowered()

    assert seen == {"said": "processor: nice 19, disk: idle class", "nice": [19, 19, 19], "io": [3, 3, 3]}


@pytest.mark.skipif(sys.platform != "linux", reason="needs a process that no system call is forbidden to")
def test_what_the_system_refuses_is_said_and_the_work_goes_on():
    """Here: a computer without a disk scheduler that knows classes, as psutil tells it."""
    seen = lowered("import psutil\ndel psutil.IOPRIO_CLASS_IDLE\n")

    assert seen["nice"] == [19, 19, 19]
    assert str(seen["said"]).startswith("processor: nice 19, disk: idle class refused (")
