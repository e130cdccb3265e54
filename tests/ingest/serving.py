"""The real server on a real socket, on a fake log: for clients that no HTTP library would be."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
import uvloop

from pipeline.ingest.protocol import GuardedProtocol
from pipeline.ingest.server import bind, make_server
from pipeline.settings import load
from tests.ingest.test_door import Asked

DEADLINES = ("HEAD_DEADLINE_S", "BODY_DEADLINE_S", "ANSWER_DEADLINE_S", "LINGER_S", "CLOSE_S")
"""Those of the protocol."""
SOON_S = 0.4
"""What those are that a test is about."""
AMPLE_S = 60.0
"""What the others are: longer than anything takes, however busy the machine is."""
IN_TIME_S = AMPLE_S / 2
"""What comes within it did not wait for one of the others."""


class Served:
    """A running server."""

    def __init__(self, door: Asked, port: int, server: uvicorn.Server) -> None:
        self.door = door
        self.port = port
        self.has_sent = threading.Event()
        """Whether an exchange has sent all that it had to."""
        self._server = server

    @property
    def connections(self) -> int:
        """How many connections it has."""
        return len(self._server.server_state.connections)

    @property
    def reads_no_more(self) -> bool:
        """Whether each connection that it still has is refused, or waits for its last answer alone."""
        connections = list(self._server.server_state.connections)
        return all(isinstance(one, GuardedProtocol) and one._is_refused for one in connections)

    def connect(self, timeout: float = 120.0) -> socket.socket:
        """Return a new connection to it."""
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def exchange(
        self, *sent: bytes, pause_s: float = 0.0, half_close: bool = False, timeout: float = 120.0
    ) -> bytes:
        """Send these bytes; return everything that comes back until the server closes."""
        with self.connect(timeout) as connection:
            try:
                for part in sent:
                    connection.sendall(part)
                    time.sleep(pause_s)
                if half_close:
                    connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the server has cut it; what it said before may still be read
            self.has_sent.set()
            return read_to_end(connection)


def read_to_end(connection: socket.socket) -> bytes:
    """Return what comes until the server closes or cuts the connection."""
    got = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65_536):
            got += part
    return got


def status_of(answer: bytes) -> int | None:
    """Return the status of the first answer, None when there is none."""
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else None


@contextlib.contextmanager
def served(door: Asked, *, connections: int = 10_000) -> Iterator[Served]:
    """Yield the server of this door, and stop it as SIGTERM would."""
    settings = load({}, ingest_port=0, ingest_drain_s=1, ingest_connections=connections)
    listener = bind(settings)
    server = make_server(door.app, settings)
    thread = threading.Thread(target=lambda: uvloop.run(server._serve([listener])))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Served(door, listener.getsockname()[1], server)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def deadlines(monkeypatch: pytest.MonkeyPatch, *short: str) -> None:
    """Make these deadlines of the protocol short, and all others ample."""
    assert {*short} <= {*DEADLINES}
    for name in DEADLINES:
        monkeypatch.setattr(f"pipeline.ingest.protocol.{name}", SOON_S if name in short else AMPLE_S)
    monkeypatch.setattr("pipeline.ingest.protocol.LOOK_S", 0.05)


def post(body: bytes, *more: bytes, path: bytes = b"/api/v1/downloaded") -> bytes:
    """Return a POST of this body with more header lines."""
    head = (b"POST " + path + b" HTTP/1.1", b"host: door", b"content-type: application/json", *more)
    return b"\r\n".join((*head, b"content-length: %d" % len(body), b"", body))
