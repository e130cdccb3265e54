"""`pipeline worker`: the Faust worker on Kafka, with its own health and metrics endpoint."""

from __future__ import annotations

import threading

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipeline.commands.home import kafka_codec, require_kafka
from pipeline.commands.run import load_directory
from pipeline.contract.positions import next_offset_reader, position_maker
from pipeline.contract.topics import load_topics
from pipeline.kafka import admin
from pipeline.kafka.lanes import Lanes
from pipeline.metrics import Meters
from pipeline.settings import Settings
from pipeline.topology import Topology

_log = structlog.get_logger("pipeline.worker")


def worker(settings: Settings) -> int:
    """Carry uploads until SIGTERM; return the exit code."""
    import faust

    from pipeline.worker.faust_worker import make_app

    require_kafka(settings)
    topics = load_topics()
    admin.require_topics(settings, topics)
    directory = load_directory(settings)
    codec = kafka_codec(settings)
    meters = Meters()
    lanes = Lanes(settings, position_maker(codec), next_offset_reader(codec))
    app = make_app(settings, Topology(codec, topics, directory), lanes, meters)
    if settings.worker_port:
        threading.Thread(target=_endpoint, args=(settings, meters), name="endpoint", daemon=True).start()
    _log.info("working", kafka=settings.kafka_bootstrap, group=settings.worker_group)
    process = faust.Worker(app, loglevel="WARN", redirect_stdouts=False, quiet=True)
    try:
        process.execute_from_commandline()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def _endpoint(settings: Settings, meters: Meters) -> None:
    async def live(_request: Request) -> Response:
        return JSONResponse({"status": "live"})

    async def metrics(_request: Request) -> Response:
        return Response(meters.text(), media_type="text/plain; version=0.0.4")

    app = Starlette(routes=[Route("/health/live", live), Route("/metrics", metrics)])
    config = uvicorn.Config(
        app,
        host=settings.worker_host,
        port=settings.worker_port,
        log_config=None,
        access_log=False,
        lifespan="off",
    )
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]  # the main thread has them
    server.run()
