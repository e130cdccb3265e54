"""uvicorn's HTTP protocol with the bounds it lacks: time, sizes and numbers of what one client may hold.

uvicorn itself never closes a client that connects and says nothing, takes heads of any size, and waits for
ever for a client that does not read (measured, `evidence/ingest.md` 4). Here every connection has a moment by
which it must have gone on, and one look in half a second at all of them ends those that have not: that costs
a request two assignments, where timers of its own would cost more than all other bounds.

Two more things are not as in uvicorn. An upgrade is ignored, where the parser would leave out the body; and
what can't be read behind a whole request waits for that request's own answer: whoever read ours in its place
would take a stored upload for a refused one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, ClassVar, Final
from weakref import WeakSet

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from pipeline.wire import responses

HEAD_DEADLINE_S: Final = 5.0
BODY_DEADLINE_S: Final = 30.0
"""How long a sender may take for its whole body; then 408 and the connection is closed."""
ANSWER_DEADLINE_S: Final = 15.0
"""How long an answer may take to be made and read; it is made in under 5 s."""
LINGER_S: Final = 5.0
"""How long a client may go on sending a body that was answered before its end."""
CLOSE_S: Final = 2.0
LOOK_S: Final = 0.5
HEAD_LIMIT_BYTES: Final = 16 * 1024
"""Of a head, and of what comes between two pieces of a body: sizes of chunks, trailers."""
HEADERS_LIMIT: Final = 100
"""Of a head, and of trailers."""
PIPELINE_LIMIT: Final = 16
"""Requests that a client may send before it has read the first answer."""


def _answer(status: HTTPStatus, *headers: bytes, body: bytes = b"") -> bytes:
    start = f"HTTP/1.1 {status.value} {status.phrase}".encode()
    fixed = (b"access-control-allow-origin: *", b"connection: close", b"content-length: %d" % len(body))
    return b"\r\n".join((start, *fixed, *headers, b"", body))


def _problem(status: HTTPStatus, detail: str, *headers: bytes) -> bytes:
    body = responses.problem(status, detail)
    return _answer(status, b"content-type: application/problem+json", *headers, body=body)


_TOO_SLOW: Final = _problem(HTTPStatus.REQUEST_TIMEOUT, "The body did not come in time; nothing is kept.")
_TOO_LARGE: Final = _answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
_NOT_HTTP: Final = _answer(
    HTTPStatus.BAD_REQUEST,
    b"content-type: text/plain; charset=utf-8",
    body=b"Invalid HTTP request received.",
)
_TOO_MANY: Final = _problem(
    HTTPStatus.SERVICE_UNAVAILABLE, "There are too many connections; send it again later.", b"retry-after: 60"
)


def answered_at_once(send: object, status: int, headers: bytes, body: bytes) -> bool:
    """Write a whole answer on the connection that ASGI's `send` belongs to; return False where it can't be.

    `headers` are whole lines, made by us alone: uvicorn's own way looks at each with two patterns and costs
    as much as reading the request. It is still the way where there is anything to wait for or to close.
    """
    cycle = getattr(send, "__self__", None)
    if (
        not isinstance(cycle, RequestResponseCycle)
        or cycle.response_started
        or cycle.disconnected
        or cycle.flow.write_paused
        or not cycle.keep_alive
        or cycle.scope["method"] == "HEAD"
    ):
        return False
    length = b"content-length: %d\r\n" % len(body)
    ours = [line for name, value in cycle.default_headers for line in (name, b": ", value, b"\r\n")]
    cycle.transport.write(b"".join((STATUS_LINE[status], *ours, headers, length, b"\r\n", body)))
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.message_event.set()
    cycle.on_response()
    return True


class _Phase(Enum):
    """What a connection waits for."""

    HEAD = auto()
    BODY = auto()
    ANSWER = auto()
    END = auto()


class GuardedProtocol(HttpToolsProtocol):
    """Ends a connection that does not go on in time, and refuses heads, pipelines and crowds too large."""

    most_connections: ClassVar[float] = math.inf
    on_refused: ClassVar[Callable[[], None]] = staticmethod(lambda: None)
    _watched: ClassVar[WeakSet[Any]] = WeakSet()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._phase = _Phase.HEAD
        self._due = math.inf
        self._beside_body_bytes = 0
        self._is_refused = False
        """No more is read: the client is refused, or waits for its last answer."""

    def connection_made(self, transport: Any) -> None:
        """Start the clock of the first head, or refuse one connection too many."""
        super().connection_made(transport)
        self._await(_Phase.HEAD, HEAD_DEADLINE_S)
        if self.server_state not in self._watched:
            self._watched.add(self.server_state)
            self._look()
        if len(self.connections) > self.most_connections:
            type(self).on_refused()
            self._refuse(_TOO_MANY)

    def data_received(self, data: bytes) -> None:
        """Count the bytes that are no body, and hand everything on."""
        if self._is_refused:
            return
        self._unset_keepalive_if_required()
        # A chunk may hold the whole head and much of the body: the parser tells when it is done,
        # so only the part that surely belongs to the head is counted.
        end = -1 if self._phase is _Phase.BODY else data.find(b"\r\n\r\n")
        if self._phase is not _Phase.BODY and self._due == math.inf:
            self._await(_Phase.HEAD, HEAD_DEADLINE_S)
        self._beside_body_bytes += len(data) if end < 0 else end
        if end < 0 or self._beside_body_bytes <= HEAD_LIMIT_BYTES:
            self._parse(data)
        if self._beside_body_bytes > HEAD_LIMIT_BYTES or len(self.headers) > HEADERS_LIMIT:
            self._refuse_rest(_TOO_LARGE)

    def on_headers_complete(self) -> None:
        """Start the clock of the body; refuse too many headers, or requests in advance."""
        if self._is_refused or len(self.headers) > HEADERS_LIMIT:
            self._refuse_rest(_TOO_LARGE)
            return
        if len(self.pipeline) >= PIPELINE_LIMIT:
            self._refuse(b"")
            return
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise ValueError("a tunnel")  # the same as a URL that is none, below
            return  # `_parse` gives the head again, without the upgrade
        super().on_headers_complete()  # raises for a URL that is none: the head is still what is wrong
        self.headers = []  # of the trailers: nothing in them may change what is judged
        self._beside_body_bytes = 0
        self._await(_Phase.BODY, BODY_DEADLINE_S)

    def on_body(self, body: bytes) -> None:
        """Hand the body on, unless the request is refused."""
        if not self._is_refused:
            self._beside_body_bytes = 0
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The answer is next, or, when it is out already, the next request."""
        if self._is_refused or self.parser.should_upgrade():
            return
        if len(self.headers) > HEADERS_LIMIT:
            self._refuse_rest(_TOO_LARGE)
            return
        super().on_message_complete()
        self._beside_body_bytes = 0
        if self.cycle.response_complete:
            self._phase, self._due = _Phase.HEAD, math.inf  # uvicorn's keep-alive clock runs
        else:
            self._await(_Phase.ANSWER, ANSWER_DEADLINE_S)

    def on_response_complete(self) -> None:
        """Stop the clock, but not for a body that still comes."""
        super().on_response_complete()
        if self._phase is _Phase.BODY and self.cycle.response_complete:
            self._await(_Phase.BODY, LINGER_S)
        elif self.transport.is_closing():
            pass  # the clock of the answer runs on: the last one must be read in time, too
        elif not self.cycle.more_body:
            if self.cycle.response_complete:
                self._phase, self._due = _Phase.HEAD, math.inf
            else:
                self._await(_Phase.ANSWER, ANSWER_DEADLINE_S)

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's own signature: True keeps it open
        """Still answer a client that has closed its side behind a whole request."""
        if self._phase is not _Phase.ANSWER or self.pipeline:
            return False
        self.cycle.keep_alive = False
        return True

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; one that did not even read its answer is cut."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def end_if_overdue(self, now: float) -> None:
        """End the connection if it has not gone on in time."""
        if now < self._due:
            return
        if self._phase is _Phase.BODY and not self.cycle.response_started:
            self._refuse(_TOO_SLOW)
        elif self._phase is _Phase.HEAD:
            self._refuse(b"")
        else:
            self.transport.abort()

    def _parse(self, data: bytes) -> None:
        """Feed the parser; a head that asks for an upgrade is fed again without it (RFC 9110 7.8)."""
        while data and not self._is_refused:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = self._head_without_upgrade() + data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
            except httptools.HttpParserError:
                self._refuse_rest(_NOT_HTTP)
                return
            else:
                return

    def _head_without_upgrade(self) -> bytes:
        """Return the head that was just read; `connection: upgrade` alone asks for nothing."""
        version = self.parser.get_http_version().encode()
        start = b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)
        lines = [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join((start, *lines, b"", b""))

    def _await(self, phase: _Phase, seconds: float) -> None:
        self._phase = phase
        self._due = self.loop.time() + seconds

    def _look(self) -> None:
        """End every connection of this server that is overdue, and look again soon."""
        self.loop.call_later(LOOK_S, self._look)
        now = self.loop.time()
        for connection in list(self.connections):
            if isinstance(connection, GuardedProtocol):
                connection.end_if_overdue(now)

    def _refuse_rest(self, answer: bytes) -> None:
        """Refuse what can't be read: a head when nothing else is to be answered, a body without a word.

        SDKs would delete the session at a 400. For the same reason whole requests get their own answers
        first, and then the connection is closed.
        """
        if self._is_refused:
            return
        if self._phase is _Phase.BODY:
            self.transport.abort()
        elif self.cycle is None or self.cycle.response_complete:
            self._refuse(answer)
        else:
            self._is_refused = True
            self.cycle.keep_alive = False  # the last one's: those before it are still worked off

    def _refuse(self, answer: bytes) -> None:
        """Answer without asking the app, and close; whoever does not read that is cut."""
        if self._is_refused:
            return
        self._is_refused = True
        self._await(_Phase.END, CLOSE_S)
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()
