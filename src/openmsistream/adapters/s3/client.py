"""A boto3 client for a store: addresses, time-outs, retries, and who signs.

The only place that makes one. It must not know what is sent through it.
"""

from __future__ import annotations

from typing import Any

from openmsistream.config.s3 import S3Access
from openmsistream.errors import ConfigError

CONNECT_SECONDS = 5
READ_SECONDS = 60
ATTEMPTS = 3
"""A request that fails for a moment is sent again by botocore, with pauses of up to 2 s; only then it is told."""
_FIRST_REGION = "us-east-1"


def s3_client(access: S3Access, connections: int) -> Any:
    """
    Return a client, which does not talk to the store yet.

    Args:
        access: Where the store is, and who we are there.
        connections: How many requests go out at once.

    Raises:
        ConfigError: boto3 is not installed, or the settings make no client.
    """
    try:
        import boto3  # noqa: PLC0415 - an extra, and slow to import
        from botocore.config import Config  # noqa: PLC0415
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            "delivery to an object store needs the package boto3, which is not installed",
            hint='pip install "openmsistream[s3]"',
        ) from error
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
    try:
        session = boto3.session.Session(
            aws_access_key_id=access.access_key,
            aws_secret_access_key=access.secret_key,
            aws_session_token=access.session_token,
        )
        # A store of one's own takes any region, and a client has to name one.
        default = session.region_name or (_FIRST_REGION if access.endpoint is not None else None)
        return session.client(
            "s3",
            endpoint_url=access.endpoint,
            region_name=access.region or default,
            verify=None if access.ca_bundle is None else str(access.ca_bundle),
            config=config,
        )
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(f"[s3]: {error}", hint="check the section [s3] of the config file") from error
