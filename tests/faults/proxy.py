"""A TCP proxy on this computer between a program and its broker, steered by a test while data moves.

Knows of Kafka's protocol only how a request and an answer begin, so that it can cut a connection exactly where a
test wants it: behind the broker's write and before its acknowledgement. It must not know what the records say.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from openmsistream.local import ports
from openmsistream.local.broker import LocalBroker

# Source: Kafka protocol guide, "Request and response headers" and "Api keys": a request begins with its size
# (int32), its api key and version (int16 each) and its correlation id (int32), an answer with size and id.
PRODUCE = 0
_REQUEST_HEAD, _ANSWER_HEAD = struct.Struct(">ihhi"), struct.Struct(">ii")
_SIZE_BYTES = 4
_BLOCK_BYTES = 262_144
# Closing then resets the connection instead of ending it in good order.
_NO_LINGER = struct.pack("ii", 1, 0)


class _Frames:
    """Finds the heads of the frames in one direction of a connection, whatever blocks it comes in."""

    def __init__(self, head: struct.Struct) -> None:
        self._head, self._begun, self._rest = head, bytearray(), 0

    def heads(self, block: bytes) -> Iterator[tuple[int, ...]]:
        """The heads that are complete with this block."""
        view = memoryview(block)
        while view:
            if self._rest:
                skipped = min(self._rest, len(view))
                self._rest -= skipped
                view = view[skipped:]
                continue
            missing = self._head.size - len(self._begun)
            self._begun += view[:missing]
            view = view[missing:]
            if len(self._begun) == self._head.size:
                values = self._head.unpack(self._begun)
                self._rest = values[0] + _SIZE_BYTES - self._head.size
                self._begun.clear()
                yield values


@dataclass(eq=False)
class _Connection:
    program: asyncio.StreamWriter
    broker: asyncio.StreamWriter
    produced: set[int] = field(default_factory=set)
    deaf: bool = False

    def cut(self) -> None:
        for writer in (self.program, self.broker):
            raw = writer.get_extra_info("socket")
            with suppress(OSError):  # the other end was faster
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            writer.transport.abort()


class Proxy:
    """
    A line to a broker that can be frozen, slowed down and cut; it lets everything pass at first.

    Args:
        port: Where it listens, on 127.0.0.1.
        target: The port of the broker's listener that is advertised as ``port``.

    Attributes:
        answers: Answers to produce requests that the broker gave so far.
        cuts: How many of the answers named to ``cut_answers`` were lost with their connection.
        swallowed: Bytes of answers that were thrown away.
    """

    def __init__(self, port: int, target: int) -> None:
        self.address = f"{ports.LOOPBACK}:{port}"
        self.answers = self.cuts = self.swallowed = 0
        self._port, self._target = port, target
        self._cut_at: set[int] = set()
        self._delay_seconds = 0.0
        self._connections: set[_Connection] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        serving = asyncio.start_server(self._accept, ports.LOOPBACK, self._port)
        self._server = asyncio.run_coroutine_threadsafe(serving, self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._server.close)
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._do(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def freeze(self) -> None:
        """Connections stay open and new ones are taken, and no byte moves, as when a cable was pulled."""
        self._do(self._flowing.clear)

    def thaw(self) -> None:
        """Go on with everything that was held."""
        self._do(self._flowing.set)

    def delay(self, seconds: float) -> None:
        """Hold every block in both directions for so long; 0: no more."""
        self._delay_seconds = seconds

    def swallow_answers(self) -> None:
        """On the connections of this moment, requests reach the broker and none of its answers comes back any more."""
        self._do(self._deafen_all)

    def cut_answers(self, numbers: Iterable[int]) -> None:
        """Cut the connection in place of these answers to produce requests, counted from 1 from now on."""
        first = self.answers
        self._cut_at = {first + number for number in numbers}

    def reset(self) -> None:
        """Cut the connections of this moment."""
        self._do(self._cut_all)

    def _do(self, what: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(what)

    def _deafen_all(self) -> None:
        for connection in self._connections:
            connection.deaf = True

    def _cut_all(self) -> None:
        for connection in self._connections:
            connection.cut()

    async def _end(self) -> None:
        self._flowing.set()
        self._cut_all()
        await asyncio.gather(*self._handlers)

    async def _accept(self, from_program: asyncio.StreamReader, to_program: asyncio.StreamWriter) -> None:
        # Not in the server's own task, which nobody could wait for at the end.
        handler = self._loop.create_task(self._handle(from_program, to_program))
        self._handlers.add(handler)
        handler.add_done_callback(self._handlers.discard)

    async def _handle(self, from_program: asyncio.StreamReader, to_program: asyncio.StreamWriter) -> None:
        try:
            from_broker, to_broker = await asyncio.open_connection(ports.LOOPBACK, self._target)
        except OSError:  # the broker is away
            to_program.transport.abort()
            return
        connection = _Connection(to_program, to_broker)
        self._connections.add(connection)
        try:
            await asyncio.gather(self._requests(connection, from_program), self._answers(connection, from_broker))
        finally:
            self._connections.discard(connection)
            connection.cut()

    async def _requests(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        frames = _Frames(_REQUEST_HEAD)
        while block := await self._next(reader):
            for _, api_key, _, correlation in frames.heads(block):
                if api_key == PRODUCE:
                    connection.produced.add(correlation)
            await self._pass_on(block, connection.broker)
        connection.cut()

    async def _answers(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        frames = _Frames(_ANSWER_HEAD)
        while block := await self._next(reader):
            ours = [c for _, c in frames.heads(block) if c in connection.produced]
            connection.produced.difference_update(ours)
            numbers = range(self.answers + 1, self.answers + 1 + len(ours))
            self.answers += len(ours)
            if hit := self._cut_at.intersection(numbers):
                self.cuts += len(hit)
                break
            if connection.deaf:
                self.swallowed += len(block)
            else:
                await self._pass_on(block, connection.program)
        connection.cut()

    async def _next(self, reader: asyncio.StreamReader) -> bytes:
        block = b""
        with suppress(ConnectionError):
            block = await reader.read(_BLOCK_BYTES)
        if self._delay_seconds:
            await asyncio.sleep(self._delay_seconds)
        await self._flowing.wait()
        return block

    @staticmethod
    async def _pass_on(block: bytes, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            writer.write(block)
            await writer.drain()


@contextmanager
def broker_behind_proxy(folder: Path) -> Iterator[tuple[LocalBroker, Proxy]]:
    """
    A broker with two listeners: ``bootstrap`` is direct, and the other one is advertised at the proxy's address.

    Whoever has the proxy's address as ``bootstrap.servers`` is told that address for everything, so all it sends
    goes through the proxy.
    """
    direct, behind, controller, front = _ports(4)
    names = {"PLAINTEXT": direct, "PROXIED": behind}
    settings = {
        "listeners": ",".join(
            f"{name}://{ports.LOOPBACK}:{port}" for name, port in (names | {"CONTROLLER": controller}).items()
        ),
        "advertised.listeners": ",".join(
            f"{name}://{ports.LOOPBACK}:{port}" for name, port in (names | {"PROXIED": front}).items()
        ),
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.quorum.voters": f"1@{ports.LOOPBACK}:{controller}",
    }
    broker = LocalBroker.start(folder, port=direct, settings=settings)
    try:
        with Proxy(front, behind) as proxy:
            yield broker, proxy
    finally:
        broker.stop()


def _ports(count: int) -> list[int]:
    found: set[int] = set()
    while len(found) < count:
        found.add(ports.free_port(avoid=frozenset(found)))
    return list(found)
