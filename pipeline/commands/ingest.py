"""`pipeline ingest`: the HTTP service on Kafka; an upload is answered when Kafka or the spool has it."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog

from pipeline.commands.home import kafka_codec, require_kafka
from pipeline.commands.run import client_ip_of, limits_of, load_directory
from pipeline.contract.ports import Unavailable
from pipeline.contract.topics import load_topics
from pipeline.ingest.app import App, Door
from pipeline.ingest.processes import serve_by_processes
from pipeline.ingest.server import bind, serve, tune_gc
from pipeline.ingest.spooling import Forwarder, SpooledSink
from pipeline.kafka import admin
from pipeline.kafka.uploads import UploadProducer
from pipeline.log.spool import Spool, left_behind
from pipeline.metrics import Meters
from pipeline.settings import SettingError, Settings
from pipeline.topology import UPLOADS, Topology

_log = structlog.get_logger("pipeline.ingest")

SPOOLS: Final = "spool"
RAN_BEFORE: Final = "ingest-ran-on-kafka"
"""A file that says that these settings led to a working Kafka once."""
ANSWER_MARGIN_S: Final = 2.0
"""What the spool may take beyond the time that Kafka had; together under the 5 s that SDKs wait."""


def ingest(settings: Settings) -> int:
    """Serve until SIGINT or SIGTERM; return the exit code."""
    require_kafka(settings)
    topics = load_topics()
    retention_ms = topics[UPLOADS].retention_ms
    if retention_ms is not None and settings.spool_max_age_s * 1000 >= retention_ms:
        raise SettingError(
            f"PIPELINE_SPOOL_MAX_AGE_S must be under the retention of {UPLOADS}, {retention_ms // 1000} s"
        )
    codec = kafka_codec(settings)
    _require_kafka_once(settings)
    codec.prepare(UPLOADS)
    directory = load_directory(settings)
    listener = bind(settings)
    if settings.ingest_processes > 1:
        return serve_by_processes(settings, listener)
    meters = Meters(settings.metrics_dir)
    with _opened_spools(settings) as (own, adopted):
        producer = UploadProducer(settings, time.monotonic)
        sink = SpooledSink(producer, own, meters, settings.ingest_ack_deadline_ms / 1000, time.monotonic)
        door = Door(
            Topology(codec, topics, directory),
            sink,
            meters,
            settings.ingest_body_limit_bytes,
            settings.ingest_ack_deadline_ms / 1000 + ANSWER_MARGIN_S,
            settings.ingest_path_prefix,
            is_ready=lambda: producer.is_ready() or own.is_writable(),
            limits=limits_of(settings, directory),
            memory_limit_bytes=settings.ingest_memory_bytes,
            client_ip=client_ip_of(settings),
        )
        forwarder = Forwarder(producer, [*adopted, own], meters)

        async def run() -> None:
            forwarding = asyncio.create_task(forwarder.run())
            url = f"http://{settings.ingest_host}:{listener.getsockname()[1]}"

            def serving(_stop: object) -> None:
                _log.info("serving", url=url, kafka=settings.kafka_bootstrap, adopted_spools=len(adopted))

            try:
                await serve(App(door), settings, listener, meters, serving)
            finally:
                await _stop_forwarding(forwarding, forwarder, settings.ingest_drain_s)

        tune_gc()
        try:
            asyncio.run(run())
        finally:
            producer.close()
    return 0


async def _stop_forwarding(forwarding: asyncio.Task[None], forwarder: Forwarder, drain_s: float) -> None:
    """Give the spool a while to drain; what stays is kept for the next process."""
    end = time.monotonic() + drain_s
    while forwarder.waiting and time.monotonic() < end and not forwarding.done():  # noqa: ASYNC110 - it shrinks
        await asyncio.sleep(0.05)
    forwarding.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await forwarding
    if forwarder.waiting:
        _log.warning("spool_kept", records=forwarder.waiting)


def _require_kafka_once(settings: Settings) -> None:
    """Raise `SettingError` when Kafka is not as it must be, unless these settings have worked before.

    A broker that is away must not stop an ingest that could spool; an address that never worked is a
    mistake in the settings.
    """
    marker = settings.data_dir / RAN_BEFORE
    worked = f"{settings.kafka_bootstrap} {settings.kafka_topic_prefix}"
    try:
        admin.require_topics(settings, load_topics())
    except SettingError as error:
        if not marker.exists() or marker.read_text() != worked:
            raise
        _log.warning("kafka_is_away", reason=str(error))
        return
    marker.write_text(worked)


@contextlib.contextmanager
def _opened_spools(settings: Settings) -> Iterator[tuple[Spool, list[Spool]]]:
    """Yield this process's own spool and those that dead processes have left behind."""
    parent = settings.data_dir / SPOOLS
    adopted: list[Spool] = []
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for directory in left_behind(parent):
            spool = _spool(settings, directory)
            with contextlib.suppress(BlockingIOError):  # another process was quicker
                spool.open()
                adopted.append(spool)
        own = _spool(settings, parent / uuid.uuid4().hex)
        own.open()
    except OSError as error:
        raise SettingError(f"PIPELINE_DATA_DIR (--data-dir): can't spool in {parent}: {error}") from None
    try:
        yield own, adopted
    finally:
        for spool in (own, *adopted):
            with contextlib.suppress(Unavailable):
                spool.close()


def _spool(settings: Settings, directory: Path) -> Spool:
    return Spool(
        directory,
        most_bytes=settings.spool_limit_bytes,
        most_age_ms=settings.spool_max_age_s * 1000,
        now_ms=lambda: time.time_ns() // 1_000_000,
    )
