"""Storing small objects with half the processor time that the client takes for a request.

Signs and sends one PUT with botocore's own parts, without the client's rules for every case. Whatever is not simply
done, or refused by a condition, is left to the client, which does it again with all its care.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies

from openmsistream.adapters.s3.client import CONNECT_SECONDS, READ_SECONDS, Connection

# Else the body waits for the acknowledgement of the headers, which comes after 40 ms.
_SOCKET_OPTIONS = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
_KEY = "KEY"
_DONE, _CONDITION_FAILED = 200, 412


class QuickPut:
    """Makes PUT requests to one bucket; see ``for_bucket``."""

    def __init__(self, connection: Connection, base: str, region: str) -> None:
        self._credentials, self._base, self._region = connection.credentials, base, region
        self._session: Any = URLLib3Session(
            verify=connection.verify,
            timeout=(CONNECT_SECONDS, READ_SECONDS),
            max_pool_connections=connection.connections,
            socket_options=_SOCKET_OPTIONS,
        )

    @classmethod
    def for_bucket(cls, connection: Connection, bucket: str) -> QuickPut | None:
        """Return one for a bucket; None where the client has to do more than this can."""
        client = connection.client
        if connection.credentials is None or client.meta.config.signature_version != "s3v4":
            return None
        try:
            signed = client.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": _KEY})
        except Exception:  # also keys that cannot be had now
            return None
        address = urlsplit(signed)
        base, region = f"{address.scheme}://{address.netloc}{address.path}", client.meta.region_name
        if not base.endswith(f"/{_KEY}") or region is None or get_environ_proxies(base):
            return None
        return cls(connection, base.removesuffix(_KEY), region)

    def put(self, key: str, body: bytes | bytearray, headers: Mapping[str, str]) -> bool | None:
        """
        Store an object.

        Args:
            key: Its key.
            body: Its bytes.
            headers: Metadata, checksums and conditions, as S3 has them.

        Returns:
            True: it is stored. False: a condition is not met. None: it is not known to be stored; ask the client.
        """
        request = AWSRequest("PUT", self._base + quote(key, safe="/~"), dict(headers), body)
        try:
            S3SigV4Auth(self._credentials.get_frozen_credentials(), "s3", self._region).add_auth(request)
            status = self._session.send(request.prepare()).status_code
        except Exception:
            return None
        return True if status == _DONE else False if status == _CONDITION_FAILED else None

    def close(self) -> None:
        """Let go of the connections."""
        self._session.close()
