"""A small HTTP/1.1 load generator: closed loop for capacity, open loop for latency.

Requests are made beforehand and answers are only skimmed, so that the generator costs little beside the
server it drives. Open-loop latency counts from the moment a request was due, not from when it was sent.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Final, NamedTuple, cast

CONNECTIONS: Final = 64
HEAD_END: Final = b"\r\n\r\n"
LENGTH: Final = b"content-length:"


class Loaded(NamedTuple):
    """What one run gave; latencies in seconds, sorted."""

    statuses: Counter[int]
    latencies: list[float]
    wall_s: float
    started: float = 0.0
    """When the run began, on the clock of `time.perf_counter`."""

    @property
    def answered(self) -> int:
        """How many requests were answered."""
        return sum(self.statuses.values())

    def percentile_ms(self, share: float) -> float:
        """Return the latency below which this share of the answers lies, in ms."""
        return self.latencies[min(len(self.latencies) - 1, int(len(self.latencies) * share))] * 1000


def as_request(path: str, body: bytes) -> bytes:
    """Return the bytes of one POST on a kept connection."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class _Connection(asyncio.Protocol):
    """One kept connection: sends a request, skims the answer, asks for the next one."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._buffer = bytearray()
        self._due = 0.0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's own class is none by name
        self._run.idle.append(self)

    def send(self, request: bytes, due: float) -> None:
        """Send a request that was due at this moment."""
        assert self.transport is not None
        self._due = due
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(HEAD_END)
        if end < 0:
            return
        head = bytes(self._buffer[:end]).lower()
        place = head.find(LENGTH)
        length = int(head[place + len(LENGTH) :].split(b"\r\n", 1)[0]) if place >= 0 else 0
        if len(self._buffer) < end + len(HEAD_END) + length:
            return
        del self._buffer[:]
        self._run.answered(self, int(head[9:12]), self._due)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._run.lost(self)


class _Run:
    """The state of one run."""

    def __init__(self, requests: Sequence[bytes]) -> None:
        self._requests = requests
        self._next = 0
        self.idle: deque[_Connection] = deque()
        self.waiting: deque[float] = deque()
        self.statuses: Counter[int] = Counter()
        self.latencies: list[float] = []
        self.is_closed_loop = False
        self.left = 0
        self.done = asyncio.Event()

    def dispatch(self) -> None:
        """Give due requests to idle connections."""
        while self.idle and (self.waiting or (self.is_closed_loop and self.left > 0)):
            due = self.waiting.popleft() if self.waiting else time.perf_counter()
            if self.is_closed_loop:
                self.left -= 1
            self.idle.popleft().send(self._requests[self._next % len(self._requests)], due)
            self._next += 1

    def answered(self, connection: _Connection, status: int, due: float) -> None:
        """Count an answer and go on."""
        self.latencies.append(time.perf_counter() - due)
        self.statuses[status] += 1
        self.idle.append(connection)
        self.dispatch()
        if self.left <= 0 and not self.waiting and len(self.idle) == CONNECTIONS:
            self.done.set()

    def lost(self, _connection: _Connection) -> None:
        """End the run: the server closed a connection."""
        self.done.set()


async def closed_loop(port: int, requests: Sequence[bytes], number: int) -> Loaded:
    """Send so many requests as fast as the server answers on 64 connections."""
    run = await _connected(port, requests)
    run.is_closed_loop, run.left = True, number
    started = time.perf_counter()
    run.dispatch()
    await run.done.wait()
    return _ended(run, started)


async def open_loop(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> Loaded:
    """Send at a fixed rate, whatever the server does."""
    run = await _connected(port, requests)
    started = time.perf_counter()
    sent, run.left = 0, 1
    while (now := time.perf_counter() - started) < seconds:
        while sent < now * rate:
            run.waiting.append(started + sent / rate)
            sent += 1
        run.dispatch()
        await asyncio.sleep(0.001)
    run.left = 0
    while run.waiting or len(run.idle) < CONNECTIONS:  # noqa: ASYNC110 - the last answers come soon
        await asyncio.sleep(0.01)
    return _ended(run, started)


async def _connected(port: int, requests: Sequence[bytes]) -> _Run:
    run = _Run(requests)
    loop = asyncio.get_running_loop()
    for _ in range(CONNECTIONS):
        await loop.create_connection(lambda: _Connection(run), "127.0.0.1", port)
    return run


def _ended(run: _Run, started: float) -> Loaded:
    wall_s = time.perf_counter() - started
    for connection in run.idle:
        assert connection.transport is not None
        connection.transport.abort()
    return Loaded(run.statuses, sorted(run.latencies), wall_s, started)
