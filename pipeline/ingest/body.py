"""Read a request's body within its bounds: bytes before and after decompression, and time.

Traps of the decoders are in `evidence/ingest.md` 4: a gzip stream must end exactly, and a zstd
frame's declared size must be checked before it is decoded.
"""

from __future__ import annotations

import asyncio
import zlib
from typing import Final, NamedTuple

import zstandard
from starlette.requests import ClientDisconnect, Request

BODY_DEADLINE_S: Final = 30.0
"""How long a sender may take for its whole body; then 408 and the connection is closed."""

CODINGS: Final = ("identity", "gzip", "deflate", "zstd")


class SlowSender(Exception):
    """The body did not arrive in time: 408, nothing is kept."""


class Gone(Exception):
    """The client went away before its body was whole: nothing to answer, nothing is kept."""


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


async def read_body(request: Request, limit: int, deadline_s: float = BODY_DEADLINE_S) -> Body:
    """Return the body, decompressed, or raise `SlowSender` or `Gone`; memory stays under twice the limit."""
    coding = request.headers.get("content-encoding", "identity").strip().lower() or "identity"
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(deadline_s):
            async for chunk in request.stream():
                chunks.append(chunk)
                size += len(chunk)
                if size > limit:
                    return Body(b"".join(chunks)[:limit], _sent(coding), truncated=True)
    except TimeoutError:
        raise SlowSender from None
    except ClientDisconnect:
        raise Gone from None
    return decompress(b"".join(chunks), coding, limit)


def decompress(data: bytes, coding: str, limit: int) -> Body:
    """Return the body with its content coding undone, within `limit` bytes."""
    match coding:
        case "identity":
            return Body(data)
        case "gzip":
            return _inflated(data, coding, limit, zlib.MAX_WBITS | 16)
        case "deflate":
            return _inflated(data, coding, limit, zlib.MAX_WBITS)
        case "zstd":
            return _unzstd(data, limit)
        case _:
            return Body(data, coding[:64], unsupported=True)


def _sent(coding: str) -> str | None:
    return None if coding == "identity" else coding[:64]


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
        plain = zstandard.ZstdDecompressor().decompress(
            data, max_output_size=limit + 1, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        return Body(data, "zstd", broken=f"not zstd: {error}")
    if len(plain) > limit:
        return Body(plain[:limit], "zstd", truncated=True)
    return Body(plain, "zstd")
