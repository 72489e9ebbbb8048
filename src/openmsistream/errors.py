"""Every exception this package raises: one root, named by who can put it right.

This module knows no other module. The text of an error says what, where and which value; ``hint``
says what to try. The command line prints them as ``Error: <text>`` and ``Try:   <hint>``.
"""

from __future__ import annotations

from collections.abc import Collection


class OpenMSIStreamError(Exception):
    """
    The root of all our exceptions.

    Args:
        message: What happened, where, with which value. Lower case, no trailing stop.
        hint: What the reader can try; may be empty.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(OpenMSIStreamError):
    """You can fix it: an option, a config file or an argument is wrong."""


class ProtocolError(OpenMSIStreamError):
    """The sender can fix it: a record is not what the wire format allows."""


class UnavailableError(OpenMSIStreamError):
    """Time can fix it: the broker or a store does not answer now. It is tried again."""


class DeliveryError(OpenMSIStreamError):
    """The far end refused for good: no such topic, no rights, record too large."""


class IntegrityError(OpenMSIStreamError):
    """Bytes differ from what their hash or size says."""


class SourceError(OpenMSIStreamError):
    """A file to send cannot be read, or changed while it was read."""


class StorageError(OpenMSIStreamError):
    """This computer's disk or folder refused: full, read-only, no rights."""


class BusyError(StorageError):
    """The destination takes nothing more at the moment, and soon will again; told only when that lasts."""


class BytesLostError(StorageError):
    """
    What was received of a version is gone from the work folder; waiting brings nothing, it is to be read again.

    Attributes:
        keys: Path and id of each version that lost its bytes.
    """

    def __init__(self, message: str, keys: Collection[tuple[str, bytes]], *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.keys = keys


class ProcessorError(OpenMSIStreamError):
    """Your own code, called with a file, raised or returned an error."""
