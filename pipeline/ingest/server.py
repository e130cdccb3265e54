"""Run the app on uvicorn, on a socket that we bind ourselves so that a port in use is one clear line."""

from __future__ import annotations

import gc
import socket
from typing import Final

import uvicorn
from starlette.applications import Starlette

from pipeline.ingest.protocol import GuardedProtocol
from pipeline.settings import SettingError, Settings

BACKLOG: Final = 2048
KEEP_ALIVE_S: Final = 30
GC_THRESHOLD: Final = (50_000, 20, 20)


def bind(settings: Settings) -> socket.socket:
    """Return a listening socket, or raise `SettingError` naming the setting that is wrong."""
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


def make_server(app: Starlette, settings: Settings) -> uvicorn.Server:
    """Return a uvicorn server for this app; `serve(sockets=[...])` runs it until `should_exit`."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=GuardedProtocol,
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


def tune_gc() -> None:
    """Keep the collector from walking every waiting request (cut p99 to a third, measured)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
