"""Which TCP ports of this computer are free, on the loopback address only.

Knows nothing about brokers.
"""

from __future__ import annotations

import contextlib
import random
import socket
import sys
from collections.abc import Callable
from typing import TypeVar

from openmsistream.errors import ConfigError, UnavailableError

LOOPBACK = "127.0.0.1"

# Below the ranges that operating systems take outgoing ports from (Linux: from 32768, others: from 49152),
# so that a port chosen here is still free when a broker comes back to it after a restart.
_FIRST, _LAST = 20_000, 32_000


TRIES = 3

Server = TypeVar("Server")


class PortTakenError(ConfigError):
    """A port that was free when it was chosen is not any more."""


def with_others(launch: Callable[[], Server]) -> Server:
    """Launch a server that chooses its ports; once more where another program took one before the server had it."""
    for _ in range(TRIES - 1):
        with contextlib.suppress(PortTakenError):
            return launch()
    return launch()


def is_free(port: int) -> bool:
    """Return True when a server could listen on this port of the loopback address now."""
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        if sys.platform != "win32":
            # As servers do: connections of a server that ended moments ago do not keep its port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
            listener.listen(1)
        except (OSError, OverflowError):
            return False
    return True


def free_port(*, avoid: frozenset[int] = frozenset()) -> int:
    """
    Return a port that is free now, from 20,000 to 32,000.

    Args:
        avoid: Ports not to return.

    Raises:
        UnavailableError: None of 200 random ports was free.
    """
    for port in random.sample(range(_FIRST, _LAST), 200):
        if port not in avoid and is_free(port):
            return port
    raise UnavailableError(
        f"found no free port from {_FIRST} to {_LAST} on {LOOPBACK}", hint="end programs that listen there"
    )


def require_free(port: int) -> None:
    """
    Return when a server could listen on this port.

    Raises:
        ConfigError: The number is no port, or another program listens there.
    """
    if not 0 < port < 65_536:
        raise ConfigError(f"port {port} is not from 1 to 65535", hint="e.g. 9092, or leave it out")
    if not is_free(port):
        raise ConfigError(
            f"port {port} on {LOOPBACK} is taken by another program",
            hint="end that program, or choose another with --port or --s3-port (0: any free one)",
        )
