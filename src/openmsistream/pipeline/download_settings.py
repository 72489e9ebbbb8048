"""How a download runs, and when it ends: what its caller chooses.

Values only; what they mean is done in ``download.py``, ``delivery.py`` and ``expiry.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from openmsistream.core.names import Naming
from openmsistream.pipeline.delivery import BarrierSettings
from openmsistream.pipeline.expiry import ExpirySettings


@dataclass(frozen=True, slots=True)
class DownloadSettings:
    """
    How to run, and when to end.

    Attributes:
        barrier: When finished files are made visible.
        expiry: How long to wait for the rest of a file.
        checkpoint_seconds: With nothing finished: how often positions and partial files are made durable.
        until_idle_seconds: End when all partitions are at their end and no record came for so long; None: run until
            stopped.
        naming: Which names the destination can have.
        alive_seconds: Time between signs of life; below 0: none.
        keep_others: The destination overwrites nothing: of two uploaders that send the same path, both are delivered.
        keep_option: What a user chooses for that, in the words of the command line; empty: there is no such choice.
        topic_id: Identity of cluster and topic: what was committed of another topic of that name does not count.
    """

    barrier: BarrierSettings = field(default_factory=BarrierSettings)
    expiry: ExpirySettings = field(default_factory=ExpirySettings)
    checkpoint_seconds: float = 5.0
    until_idle_seconds: float | None = None
    naming: Naming = field(default_factory=Naming)
    alive_seconds: float = -1
    keep_others: bool = False
    keep_option: str = ""
    topic_id: str = ""
