"""What only a running uploader knows, as a snapshot for those who look at its ledger: ``status`` and ``why``.

Values in, JSON text out; it neither decides nor writes anything.
"""

from __future__ import annotations

import json

from openmsistream.core.settle import Settler
from openmsistream.pipeline.sender import Sender

SETTLING_SHOWN = 1000
"""Files in the snapshot that wait to be complete: those that wait longest."""


class LiveSnapshot:
    """
    Describes one uploader.

    Args:
        pid: Its process id.
        started_ns: When it began, ns since 1970.
        rules: In words, when files count as complete.
    """

    def __init__(self, sender: Sender, settler: Settler, *, pid: int, started_ns: int, rules: str = "") -> None:
        self._sender, self._settler = sender, settler
        self._pid, self._started_ns, self._rules = pid, started_ns, rules
        self._before = (0.0, 0)
        self._last = ""

    def changed(self, now: float, now_ns: int, *, stopped: bool = False) -> str | None:
        """
        The snapshot, or None when nothing but the time differs from the last one.

        Args:
            now: Monotonic seconds, the clock of the settle engine.
            now_ns: ns since 1970.
            stopped: The program ends now.
        """
        sender, settling = self._sender, self._settler.waiting(SETTLING_SHOWN)
        under_way = sender.under_way()
        done = sender.totals.total_bytes + sum(acknowledged for _, acknowledged, _ in under_way)
        seconds, rate = now - self._before[0], 0.0
        if self._before[0] and seconds > 0:
            rate = max(0.0, (done - self._before[1]) / seconds)
        self._before = (now, done)
        values = {
            "waiting": len(self._settler),
            "queued": sender.waiting,
            "active": [[_text(path), acknowledged, size] for path, acknowledged, size in under_way if size is not None],
            "sending_growing": [[_text(path), acknowledged] for path, acknowledged, size in under_way if size is None],
            "rate_bytes_per_second": round(rate),
            "sent_files": sender.totals.files,
            "sent_bytes": sender.totals.total_bytes,
            "failed": sender.totals.failed,
            "settling": [
                [_text(each.path), now_ns - round((now - each.since) * 1e9), list(each.seen), each.waiting_for]
                for each in settling
            ],
            "rules": self._rules,
            "pid": self._pid,
            "started_ns": self._started_ns,
            "stopped_ns": now_ns if stopped else None,
        }
        comparable = json.dumps({**values, "settling": [(each.path, each.waiting_for) for each in settling]})
        if comparable == self._last:
            return None
        self._last = comparable
        oldest = now - settling[0].since if settling else 0.0
        return json.dumps({"at_ns": now_ns, "oldest_waiting_seconds": round(oldest, 1), **values})


def _text(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode("utf-8")
