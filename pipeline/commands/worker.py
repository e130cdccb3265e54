"""`pipeline worker`: the Faust worker on Kafka, with its own health and metrics endpoint."""

from __future__ import annotations

import contextlib
import time

import structlog

from pipeline.commands.configured import load_directory
from pipeline.commands.garbage import tune_gc
from pipeline.commands.home import kafka_codec, require_kafka
from pipeline.commands.startup import require_schemas
from pipeline.contract.topics import load_topics
from pipeline.kafka import admin
from pipeline.kafka.lanes import Lanes
from pipeline.metrics import Meters
from pipeline.settings import Settings
from pipeline.stages.flood import Limit
from pipeline.stages.sizes import sizes_of
from pipeline.structured_logs import library_handler
from pipeline.topology import UPLOADS, Topology
from pipeline.traces import open_traces
from pipeline.worker.progress import Progress, watch

_log = structlog.get_logger("pipeline.worker")


def worker(settings: Settings) -> int:
    """Carry uploads until SIGTERM; return the exit code."""
    from pipeline.worker.carrier import Ending
    from pipeline.worker.faust_worker import Worker, make_app

    require_kafka(settings)
    traces = open_traces(settings, "pipeline-worker")
    topics = load_topics(settings.partitions)
    admin.require_topics(settings, topics)
    admin.require_retention(settings)
    directory = load_directory(settings)
    codec = kafka_codec(settings)
    require_schemas(codec, topics, topics)
    meters = Meters()

    def lost(partition: int, offsets: int) -> None:
        meters.count("pipeline_lost_offsets_total", by=offsets)
        _log.error("offsets_lost", topic=UPLOADS, partition=partition, offsets=offsets)

    def made_anew(partition: int, why: str) -> None:
        _log.warning("index_store_made_anew", partition=partition, reason=why)

    lanes = Lanes(settings, codec, topics, lost=lost, made_anew=made_anew)
    progress = Progress(settings.worker_stall_s)
    limit = Limit(settings.worker_dead_letters_percent, settings.worker_dead_letters_least)
    topology = Topology(codec, topics, directory, limit, sizes_of(settings))
    app = make_app(settings, topology, lanes, meters, progress, traces=traces)
    if settings.worker_port:
        from pipeline.worker.endpoint import start_endpoint

        start_endpoint(settings, meters, progress, time.monotonic)
    watch(
        progress, time.monotonic, lambda: app.end(Ending.STUCK, "stuck", progress.standing(time.monotonic()))
    )
    _log.info("working", kafka=settings.kafka_bootstrap, group=settings.worker_group)
    tune_gc()
    # mode takes away what the root logger has and asks the app for its own.
    app.conf.loghandlers = [library_handler(settings)]
    process = Worker(
        app,
        loglevel="WARN",
        redirect_stdouts=False,
        quiet=True,
        logging_config={"version": 1, "disable_existing_loggers": False},
    )
    process.spinner = None  # it writes to standard output, and lowers the root logger to DEBUG
    with contextlib.closing(traces):
        try:
            process.execute_from_commandline()
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0
