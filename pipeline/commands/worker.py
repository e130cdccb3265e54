"""`pipeline worker`: the Faust worker on Kafka, with its own health and metrics endpoint."""

from __future__ import annotations

import time

import structlog

from pipeline.commands.home import kafka_codec, require_kafka
from pipeline.commands.run import load_directory
from pipeline.contract.positions import next_offset_reader, position_maker
from pipeline.contract.topics import load_topics
from pipeline.ingest.server import tune_gc
from pipeline.kafka import admin
from pipeline.kafka.lanes import Lanes
from pipeline.metrics import Meters
from pipeline.settings import Settings
from pipeline.topology import Topology
from pipeline.worker.progress import Progress

_log = structlog.get_logger("pipeline.worker")


def worker(settings: Settings) -> int:
    """Carry uploads until SIGTERM; return the exit code."""
    import faust

    from pipeline.worker.endpoint import start_endpoint
    from pipeline.worker.faust_worker import make_app

    require_kafka(settings)
    topics = load_topics()
    admin.require_topics(settings, topics)
    directory = load_directory(settings)
    codec = kafka_codec(settings)
    for topic in topics:
        codec.prepare(topic)
    meters = Meters()
    lanes = Lanes(settings, position_maker(codec), next_offset_reader(codec))
    progress = Progress(settings.worker_stall_s)
    app = make_app(settings, Topology(codec, topics, directory), lanes, meters, progress)
    if settings.worker_port:
        start_endpoint(settings, meters, progress, time.monotonic)
    _log.info("working", kafka=settings.kafka_bootstrap, group=settings.worker_group)
    tune_gc()
    process = faust.Worker(app, loglevel="WARN", redirect_stdouts=False, quiet=True)
    try:
        process.execute_from_commandline()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0
