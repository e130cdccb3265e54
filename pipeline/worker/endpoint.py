"""The worker's own HTTP endpoint: health and metrics, in a thread of its own (Faust's web is not used)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipeline.metrics import Meters
from pipeline.settings import SettingError, Settings
from pipeline.worker.progress import Progress


def start_endpoint(
    settings: Settings, meters: Meters, progress: Progress, monotonic: Callable[[], float]
) -> None:
    """Serve until the process ends, or raise `SettingError` when the port can't be had."""
    family = socket.AF_INET6 if ":" in settings.worker_host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.worker_host, settings.worker_port))
    except OSError as error:
        listener.close()
        raise SettingError(
            f"PIPELINE_WORKER_PORT / PIPELINE_WORKER_HOST: can't listen on "
            f"{settings.worker_host}:{settings.worker_port}: {error.strerror}. Port 0 serves no endpoint."
        ) from None
    config = uvicorn.Config(
        make_endpoint(meters, progress, monotonic),
        log_config=None,
        access_log=False,
        lifespan="off",
        # uvloop in a thread that outlives the interpreter, as this one may, crashes the process at its end.
        loop="asyncio",
    )
    server = uvicorn.Server(config)
    # In a thread that is not the main one, uvicorn leaves the signals to Faust.
    threading.Thread(target=server.run, args=([listener],), name="endpoint", daemon=True).start()


def make_endpoint(meters: Meters, progress: Progress, monotonic: Callable[[], float]) -> Starlette:
    """Return the app: `/health/live`, `/health/ready` (503 when not) and `/metrics`."""

    async def live(_request: Request) -> Response:
        return _status("stuck" if progress.is_sick(monotonic()) else "live", good="live")

    async def ready(_request: Request) -> Response:
        return _status("ready" if progress.is_ready() else "starting", good="ready")

    async def metrics(_request: Request) -> Response:
        return Response(meters.text(), media_type="text/plain; version=0.0.4")

    return Starlette(
        routes=[Route("/health/live", live), Route("/health/ready", ready), Route("/metrics", metrics)]
    )


def _status(status: str, good: str) -> Response:
    return JSONResponse({"status": status}, status_code=200 if status == good else 503)
