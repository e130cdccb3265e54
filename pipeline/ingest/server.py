"""Run the app on uvicorn, on a socket that we bind ourselves so that a port in use is one clear line."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
from collections.abc import Callable
from typing import Any, Final

import uvicorn

from pipeline.ingest.limits import Limit
from pipeline.ingest.protocol import GuardedProtocol
from pipeline.metrics import Meters
from pipeline.settings import SettingError, Settings

BACKLOG: Final = 2048
KEEP_ALIVE_S: Final = 30
OWN_FILES: Final = 128
"""Open files that the process needs beside its clients' connections."""


def bind(settings: Settings) -> socket.socket:
    """Return a listening socket, or raise `SettingError` naming the setting that is wrong."""
    if settings.ingest_listener_fd >= 0:
        try:
            return socket.socket(fileno=settings.ingest_listener_fd)
        except OSError as error:
            raise SettingError(
                f"PIPELINE_INGEST_LISTENER_FD: {settings.ingest_listener_fd} is no socket that was handed "
                f"down: {error.strerror}. Only the program itself sets it"
            ) from None
    try:
        family = socket.getaddrinfo(settings.ingest_host, settings.ingest_port)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.ingest_host, settings.ingest_port))
        listener.listen(BACKLOG)
    except OSError as error:
        place = f"{settings.ingest_host}:{settings.ingest_port}"
        raise SettingError(
            f"PIPELINE_INGEST_PORT (--port) / PIPELINE_INGEST_HOST (--host): can't listen on {place}: "
            f"{error.strerror}. Choose another with --port."
        ) from None
    return listener


async def serve(
    app: Any,
    settings: Settings,
    listener: socket.socket,
    meters: Meters,
    when_serving: Callable[[Callable[[], None]], None],
) -> float:
    """Serve until SIGINT, SIGTERM or the stop given to `when_serving`; finish the requests in flight.

    Return when it was told to stop, on the loop's clock: those requests have taken of the drain's time.
    `when_serving(stop)` is called once requests are answered; `stop` may be called from any thread.
    """
    server = make_server(
        app, settings, lambda: meters.count("pipeline_limited_total", Limit.CONNECTIONS.value)
    )
    loop = asyncio.get_running_loop()
    told_at: float | None = None

    def begin_to_stop() -> None:
        nonlocal told_at
        server.should_exit = True
        told_at = told_at or loop.time()

    def stop() -> None:
        loop.call_soon_threadsafe(begin_to_stop)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    # serve() would set handlers of its own and raise the signal again at the end: exit code -15, not 0.
    serving = asyncio.create_task(server._serve([listener]))  # noqa: SLF001 - see the line above
    while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    when_serving(stop)
    await serving
    return told_at or loop.time()


def make_server(
    app: Any, settings: Settings, on_refused: Callable[[], None] = lambda: None
) -> uvicorn.Server:
    """Return a uvicorn server for this ASGI app; `on_refused` is called for each connection too many."""

    class Protocol(GuardedProtocol):
        """The guarded protocol with this server's limit."""

    Protocol.most_connections = min(settings.ingest_connections, _allowed_files() - OWN_FILES)
    Protocol.on_refused = staticmethod(on_refused)
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=Protocol,
            loop="uvloop",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            proxy_headers=False,
            server_header=False,
            date_header=True,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=settings.ingest_drain_s,
        )
    )


def _allowed_files() -> int:
    """Return how many files this process may open, after asking for as many as it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft if soft != resource.RLIM_INFINITY else 2**20
