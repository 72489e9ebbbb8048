"""An HTTP proxy on this computer between a program and its object store: it counts, refuses, delays and cuts requests.

Passes requests on as they come, Host included, since clients sign it. Knows of S3 only how a multipart upload looks in
an address. It must not know what programs do with an answer.
"""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from openmsistream.local.ports import LOOPBACK

_BLOCK_BYTES = 262_144
_HOP_BY_HOP = {"connection", "expect", "keep-alive", "transfer-encoding"}
_NO_LINGER = struct.pack("ii", 1, 0)  # closing then resets the connection
_SECONDS = 60


@dataclass
class Request:
    """
    One request.

    Attributes:
        size: That of its body, in bytes.
        headers: By their names in lower case.
        status: What the program got; 0: nothing.
    """

    number: int
    method: str
    path: str
    query: dict[str, list[str]]
    size: int
    headers: dict[str, str]
    status: int = 0

    @property
    def is_part(self) -> bool:
        """True for a part of a multipart upload."""
        return self.method == "PUT" and "partNumber" in self.query

    @property
    def is_begin(self) -> bool:
        """True for the begin of a multipart upload."""
        return self.method == "POST" and "uploads" in self.query

    @property
    def is_end(self) -> bool:
        """True for the end of a multipart upload that makes an object of it."""
        return self.method == "POST" and "uploadId" in self.query

    @property
    def is_put(self) -> bool:
        """True for an object that is sent in one request."""
        return self.method == "PUT" and not self.query


@dataclass(frozen=True)
class Refuse:
    """Answer with an error instead of asking the store."""

    status: int
    code: str


@dataclass(frozen=True)
class Delay:
    """Wait so long, then ask the store."""

    seconds: float


@dataclass(frozen=True)
class Meet:
    """Wait until as many requests are here at once as the barrier says, else reset the connection."""

    barrier: threading.Barrier


class Damage:
    """Change one byte in the middle of the body on its way to the store."""


class Cut:
    """Reset the connection in the middle of the body, before the store sees any of it."""


class Lose:
    """Let the store do it, and reset the connection in place of its answer."""


Fate = Refuse | Delay | Meet | Damage | Cut | Lose | None


class HttpProxy:
    """
    A line to a store; a context manager that ends it.

    Args:
        target: The store's port on this computer.

    Attributes:
        rule: Says what happens to a request; it passes by default.
        requests: Every request so far, in the order they came.
    """

    def __init__(self, target: int) -> None:
        self.rule: Callable[[Request], Fate] = lambda _: None
        self.requests: list[Request] = []
        self._target = target
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with suppress(ConnectionError):
                    super().handle_one_request()
                    return
                self.close_connection = True

            def do_GET(self) -> None:
                proxy._handle(self)

            do_PUT = do_POST = do_HEAD = do_DELETE = do_GET  # noqa: N815 - the server calls them so

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def address(self) -> str:
        """Where programs find it."""
        return f"http://{LOOPBACK}:{self._server.server_address[1]}"

    def __enter__(self) -> HttpProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def count(self, which: Callable[[Request], bool]) -> int:
        """How many requests of a kind the store did."""
        return sum(which(request) and request.status < 300 and request.status > 0 for request in list(self.requests))

    def size_bytes(self, which: Callable[[Request], bool] = lambda _: True) -> int:
        """How many bytes of bodies reached the store, whatever became of them."""
        return sum(request.size for request in list(self.requests) if which(request) and request.status)

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        size = int(handler.headers.get("Content-Length") or 0)
        query = parse_qs(parts.query, keep_blank_values=True)
        with self._lock:
            headers = {name.lower(): value for name, value in handler.headers.items()}
            request = Request(len(self.requests), handler.command, unquote(parts.path), query, size, headers)
            self.requests.append(request)
            fate = self.rule(request)
        if isinstance(fate, Cut):
            _read(handler, size // 2)
            _reset(handler)
            return
        if isinstance(fate, Delay):
            time.sleep(fate.seconds)
        body = _read(handler, size)
        if isinstance(fate, Damage) and body:
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        if isinstance(fate, Meet):
            try:
                fate.barrier.wait(_SECONDS)
            except threading.BrokenBarrierError:
                _reset(handler)
                return
        if isinstance(fate, Refuse):
            request.status = fate.status
            text = f"<Error><Code>{fate.code}</Code><Message>told to</Message></Error>".encode()
            _answer(
                handler, fate.status, {"Content-Type": "application/xml"}, b"" if request.method == "HEAD" else text
            )
            return
        try:
            status, headers, answer = self._ask(handler, body)
        except (OSError, http.client.HTTPException):
            _reset(handler)  # the store is away
            return
        request.status = status
        if isinstance(fate, Lose):
            _reset(handler)
            return
        _answer(handler, status, headers, answer)

    def _ask(self, handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(LOOPBACK, self._target, timeout=_SECONDS)
        try:
            connection.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
            for name, value in handler.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            content = answer.read()
            headers = {n: v for n, v in answer.getheaders() if n.lower() not in _HOP_BY_HOP}
        finally:
            connection.close()
        return answer.status, headers, content


def _read(handler: BaseHTTPRequestHandler, size: int) -> bytes:
    blocks = []
    while size > 0:
        block = handler.rfile.read(min(size, _BLOCK_BYTES))
        if not block:
            raise ConnectionResetError
        blocks.append(block)
        size -= len(block)
    return b"".join(blocks)


def _answer(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
    handler.send_response_only(status)
    length = headers.pop("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", length if handler.command == "HEAD" else str(len(body)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def _reset(handler: BaseHTTPRequestHandler) -> None:
    with suppress(OSError):
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        handler.connection.close()
    handler.close_connection = True
