"""Read a request's body within its bounds: bytes before and after decompression, and memory of all together.

Time is bounded by the connection (`protocol.py`). Traps of the decoders are in `evidence/ingest.md` 4: a
gzip stream must end exactly, and a zstd frame's declared size must be checked before it is decoded.
"""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, NamedTuple

import zstandard

CODINGS: Final = ("gzip", "deflate", "zstd")
IDENTITY: Final = "identity"

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Gone(Exception):
    """The client went away, or was too slow, before its body was whole: nothing is kept."""


class Crowded(Exception):
    """The bodies that are being worked on have filled the memory they may take together."""


class Memory:
    """The bytes that all bodies of the process may take together."""

    def __init__(self, limit: int) -> None:
        self.left = limit


class Held:
    """What one request takes of that memory."""

    __slots__ = ("_memory", "_size")

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._size = 0

    def take(self, size: int) -> None:
        """Take so many bytes more, or raise `Crowded`."""
        if size > self._memory.left:
            raise Crowded
        self._memory.left -= size
        self._size += size

    def release(self) -> None:
        """Give all of it back."""
        self._memory.left += self._size
        self._size = 0


class Body(NamedTuple):
    """What arrived. `truncated` is set when the limit was passed: then `data` holds what came so far.

    `broken` says why a content coding could not be undone (then `data` is as sent); `unsupported` is
    set when the coding is not known at all.
    """

    data: bytes
    content_encoding: str | None = None
    truncated: bool = False
    broken: str | None = None
    unsupported: bool = False


async def read_body(receive: Receive, coding: str, limit: int, held: Held) -> Body:
    """Return the body, decompressed, or raise `Gone` or `Crowded`."""
    message = await receive()
    data: bytes = message.get("body", b"")
    held.take(len(data))
    if message.get("more_body"):
        grown = bytearray(data)
        while message.get("more_body") and len(grown) <= limit:
            message = await receive()
            more: bytes = message.get("body", b"")
            held.take(len(more))
            grown += more
        data = bytes(grown)
    if message["type"] != "http.request":
        raise Gone
    if len(data) > limit:
        return Body(data[:limit], None if coding == IDENTITY else coding[:64], truncated=True)
    if coding == IDENTITY:
        return Body(data)
    # One body at a time is undone: nothing else runs meanwhile, so only what comes out is held.
    body = decompress(data, coding, limit)
    held.take(len(body.data))
    return body


def decompress(data: bytes, coding: str, limit: int) -> Body:
    """Return the body with its content coding (not identity) undone, within `limit` bytes."""
    match coding:
        case "gzip":
            return _inflated(data, coding, limit, zlib.MAX_WBITS | 16)
        case "deflate":
            return _inflated(data, coding, limit, zlib.MAX_WBITS)
        case "zstd":
            return _unzstd(data, limit)
        case _:
            return Body(data, coding[:64], unsupported=True)


def _inflated(data: bytes, coding: str, limit: int, wbits: int) -> Body:
    inflater = zlib.decompressobj(wbits)
    try:
        plain = inflater.decompress(data, limit + 1)
    except zlib.error as error:
        return Body(data, coding, broken=f"not {coding}: {error}")
    if len(plain) > limit:
        return Body(plain[:limit], coding, truncated=True)
    if not inflater.eof or inflater.unused_data:
        return Body(data, coding, broken=f"{coding} data is cut off or has a tail")
    return Body(plain, coding)


def _unzstd(data: bytes, limit: int) -> Body:
    try:
        declared = zstandard.frame_content_size(data)
        if declared > limit:
            return Body(data[:limit], "zstd", truncated=True)
        # A look that ends behind the limit, before the frame is decoded: one that never ends may declare
        # any size, which the library compares at its end only.
        start = _UNZSTD.stream_reader(data).read(limit + 1)
        if len(start) > limit:
            return Body(start[:limit], "zstd", truncated=True)
        frame = _UNZSTD.decompressobj()
        plain = frame.decompress(data)
    except zstandard.ZstdError as error:
        return Body(data, "zstd", broken=f"not zstd: {error}")
    if not frame.eof or frame.unused_data:
        return Body(data, "zstd", broken="zstd data is cut off or has a tail")
    return Body(plain, "zstd")


_UNZSTD: Final = zstandard.ZstdDecompressor(max_window_size=8 * 1024 * 1024)
"""One for all: making one costs more than a body. A larger window is memory that a sender chooses."""
