"""uvicorn's HTTP protocol with the two bounds it lacks: time for a request's head, and its size.

uvicorn itself never closes a client that connects and says nothing, and takes heads of any size
(measured, `evidence/ingest.md` 4).
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_DEADLINE_S: Final = 5.0
HEAD_LIMIT_BYTES: Final = 16 * 1024
HEADERS_LIMIT: Final = 100

_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
)


class GuardedProtocol(HttpToolsProtocol):
    """Close a client whose head does not come in time; answer 431 when it is too large."""

    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _head_done = False

    def connection_made(self, transport: Any) -> None:
        """Start the clock of the first head."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count the bytes of the head, and hand everything on."""
        if not self._head_done:
            if self._head_timer is None:
                self._await_head()
            # A chunk may hold the whole head and much of the body: the parser tells when it is done,
            # so only the part that surely belongs to the head is counted.
            end = data.find(b"\r\n\r\n")
            self._head_bytes += len(data) if end < 0 else end
            if self._head_bytes > HEAD_LIMIT_BYTES:
                self._refuse_head()
                return
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """Stop the clock; refuse too many headers."""
        self._stop_clock()
        self._head_done = True
        if len(self.headers) > HEADERS_LIMIT:
            self._refuse_head()
            return
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The next bytes are the head of the next request."""
        super().on_message_complete()
        self._head_done = False
        self._head_bytes = 0

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_DEADLINE_S, self._close_silent)

    def _stop_clock(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _close_silent(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.close()

    def _refuse_head(self) -> None:
        self._stop_clock()
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()
