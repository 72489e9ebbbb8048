"""How an uploader sends: plain values, chosen by whoever starts it."""

from __future__ import annotations

from dataclasses import dataclass

from openmsistream.core.rate import Rate
from openmsistream.pipeline.frames import Wire


@dataclass(frozen=True, slots=True)
class SenderSettings:
    """
    How to send.

    Attributes:
        wire: The format to write.
        chunk_bytes: Payload of every chunk but the last.
        at_once: Files sent at the same time.
        resume_within_seconds: A version parked longer ago is sent anew.
        tries: How often a file is tried before it is given up; 0: for ever.
        rate: Bounds the bytes per second; None: as fast as the broker takes them.
    """

    wire: Wire
    chunk_bytes: int
    at_once: int = 2
    resume_within_seconds: float = 24 * 3600
    tries: int = 0
    rate: Rate | None = None
