"""The floor of the front door's benchmark: a bare ASGI app on the same server that answers 201."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvloop

from pipeline.commands.garbage import tune_gc
from pipeline.ingest.server import bind, make_server
from pipeline.settings import load

Message = MutableMapping[str, Any]


async def app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """Read the body, answer 201."""
    assert scope["type"] == "http"
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 201, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def main() -> None:
    """Serve until killed; the port is printed as a URL, as `pipeline ingest` does."""
    settings = load({}, ingest_port=0)
    listener = bind(settings)
    sys.stderr.write(f"http://127.0.0.1:{listener.getsockname()[1]}\n")
    sys.stderr.flush()
    tune_gc()
    uvloop.run(make_server(app, settings).serve([listener]))


if __name__ == "__main__":
    main()
