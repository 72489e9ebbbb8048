"""1.x's way to talk to a running program from Python: ``program.control_command_queue.put("q")``."""

from __future__ import annotations

from openmsistream.pipeline.runner import Control


class CommandQueue:
    """Takes ``q`` or ``quit`` (finish or park what is in flight, then end) and ``c`` or ``check`` (report)."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def put(self, command: str) -> None:
        """Give a command; only its first letter counts, others than q and c do nothing."""
        match command.strip()[:1].lower():
            case "q":
                self._control.stop("asked to quit")
            case "c":
                self._control.check()
            case _:
                return
