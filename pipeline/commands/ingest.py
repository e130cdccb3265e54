"""`pipeline ingest`: the HTTP service on Kafka; an upload is answered when all replicas have it."""

from __future__ import annotations

import asyncio
import time

import structlog

from pipeline.commands.home import kafka_codec, require_kafka
from pipeline.commands.run import load_directory
from pipeline.contract.topics import load_topics
from pipeline.ingest.app import Door, make_app
from pipeline.ingest.server import bind, serve, tune_gc
from pipeline.kafka import admin
from pipeline.kafka.uploads import UploadProducer
from pipeline.metrics import Meters
from pipeline.settings import Settings
from pipeline.topology import UPLOADS, Topology

_log = structlog.get_logger("pipeline.ingest")


def ingest(settings: Settings) -> int:
    """Serve until SIGINT or SIGTERM; return the exit code."""
    require_kafka(settings)
    topics = load_topics()
    admin.require_topics(settings, topics)
    directory = load_directory(settings)
    codec = kafka_codec(settings)
    codec.prepare(UPLOADS)
    listener = bind(settings)
    producer = UploadProducer(settings, time.monotonic)
    door = Door(
        Topology(codec, topics, directory),
        producer,
        Meters(),
        settings.ingest_body_limit_bytes,
        settings.ingest_store_deadline_ms / 1000 + 0.3,
        settings.ingest_path_prefix,
        is_ready=producer.is_ready,
    )
    app = make_app(door)
    url = f"http://{settings.ingest_host}:{listener.getsockname()[1]}"
    tune_gc()
    try:
        asyncio.run(
            serve(
                app,
                settings,
                listener,
                lambda _stop: _log.info("serving", url=url, kafka=settings.kafka_bootstrap),
            )
        )
    finally:
        producer.close()
    return 0
