"""A client for a store: addresses, time-outs, retries, and who signs.

The only place that makes one. It must not know what is sent through it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError
from botocore.loaders import Loader, create_loader
from botocore.session import Session

from openmsistream.config.s3 import S3Access
from openmsistream.errors import ConfigError

CONNECT_SECONDS = 20
"""Also how long a store may take nothing while a body is sent: urllib3 has one time-out for both."""
READ_SECONDS = 60
ATTEMPTS = 3
"""A request that fails for a moment is sent again by botocore, with pauses of up to 2 s; only then it is told."""
_FIRST_REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class Connection:
    """
    A client that does not talk to the store yet, and what it was made with.

    Attributes:
        client: botocore's client, safe to use from several threads.
        credentials: Who signs; None: nobody. Those of a role change by themselves.
        verify: The certificates to trust: a file, or True for the usual ones.
        connections: How many requests go out at once.
    """

    client: Any
    credentials: Any
    verify: str | bool
    connections: int


def connect(access: S3Access, connections: int) -> Connection:
    """
    Return a client.

    Args:
        access: Where the store is, and who we are there.
        connections: How many requests go out at once.

    Raises:
        ConfigError: The settings make no client.
    """
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
        max_pool_connections=connections,
        tcp_keepalive=True,
        # We compute checksums ourselves, where the store has them: botocore's own break older stores.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path" if access.path_style else "virtual"},
    )
    session = Session()
    try:
        session.register_component("data_loader", _descriptions(session.get_config_variable("data_path")))
        if access.access_key is not None:
            session.set_credentials(access.access_key, access.secret_key, access.session_token)
        verify = None if access.ca_bundle is None else str(access.ca_bundle)
        # A store of one's own takes any region, and a client has to name one.
        default = _FIRST_REGION if access.endpoint is not None else None
        client = session.create_client(
            "s3",
            endpoint_url=access.endpoint,
            region_name=access.region or session.get_config_variable("region") or default,
            verify=verify,
            config=config,
        )
        trusted = verify or session.get_config_variable("ca_bundle") or True
        return Connection(client, session.get_credentials(), trusted, connections)
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(f"[s3]: {error}", hint="check the section [s3] of the config file") from error


@functools.cache
def _descriptions(data_path: str | None) -> Loader:
    """What botocore knows of S3, 0.2 s of parsing: read once for all clients of this process."""
    return create_loader(data_path)
