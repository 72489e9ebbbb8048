"""Run one command and write down what it used: times, CPU seconds, peak memory.

A process of its own, because Linux counts the memory of the process that starts a program as the program's
own peak; this one is small. It must import nothing but the standard library, and little of that.
Usage: ``python -I -S launch.py REPORT COMMAND...``; standard streams are the command's own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def main() -> int:
    report, *command = sys.argv[1:]
    began = time.time()
    child = os.posix_spawn(command[0], command, os.environ)
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    # Linux counts ru_maxrss in KiB, macOS in bytes (getrusage(2) of each).
    rss_unit = 1 if sys.platform == "darwin" else 1024
    Path(report).write_text(
        json.dumps(
            {
                "began": began,
                "ended": time.time(),
                "code": code,
                "cpu_seconds": usage.ru_utime + usage.ru_stime,
                "rss_bytes": usage.ru_maxrss * rss_unit,
            }
        ),
        encoding="ascii",
    )
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
