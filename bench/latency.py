"""From the HTTP request to the committed record, at a fixed rate: ingest, Kafka and worker as processes.

With the partitions of docker-compose.yml and one worker, then two, and with the default partitions.
Latency counts from the moment a request was due to the moment a `read_committed` consumer has the session.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Any, Final, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from rich.console import Console
from rich.status import Status
from rich.table import Table

from bench.core import PARTITIONS, sdk_session
from bench.http_load import as_request, open_loop
from deploy.probe import is_healthy
from deploy.process import free_port
from deploy.servers import LastingKafka
from pipeline.commands.home import kafka_codec
from pipeline.contract.topics import load_topics
from pipeline.kafka import admin
from pipeline.kafka.clients import ISOLATION, client_config
from pipeline.settings import PARTITIONS as DEFAULT_PARTITIONS
from pipeline.settings import Settings, child_environ, load
from pipeline.wire.encode import to_media_collection

RATE: Final = int(os.environ.get("BENCH_RATE", "500"))
SECONDS: Final = int(os.environ.get("BENCH_SECONDS", "30"))
WARM_S: Final = int(os.environ.get("BENCH_WARM_SECONDS", "30"))
"""The broker compiles itself meanwhile, which takes a core for half a minute."""
EVENTS: Final = 25
AIM_MS: Final = 300
READY_S: Final = 60.0
SETTLE_S: Final = 3.0
SESSIONS: Final = "media.sessions"


class Layout(NamedTuple):
    """How the deployment that is measured is laid out."""

    partitions: int
    workers: int


LAYOUTS: Final = (Layout(PARTITIONS, 1), Layout(PARTITIONS, 2), Layout(DEFAULT_PARTITIONS, 1))


def main() -> None:
    """Print p50 and p99 of the whole way for each layout."""
    found: dict[Layout, list[float]] = {}
    with Status("measuring the whole way"):
        for layout in LAYOUTS:
            # A broker of its own for each: one that has served another is warmer.
            with LastingKafka() as kafka, tempfile.TemporaryDirectory() as directory:
                settings = load(
                    {},
                    kafka_bootstrap=kafka.bootstrap,
                    data_dir=Path(directory),
                    worker_port=0,
                    ingest_port=0,
                    partitions=layout.partitions,
                )
                admin.apply(settings, load_topics(layout.partitions))
                found[layout] = sorted(measured(settings, layout.workers))
    table = Table(
        title=f"HTTP request to committed session at {RATE}/s, {EVENTS} events", title_justify="left"
    )
    for column in ("partitions", "workers", "sessions", "p50 ms", "p99 ms", "longest ms", "aim p99"):
        table.add_column(column, justify="right")
    for layout, waited in found.items():
        at = [waited[min(len(waited) - 1, int(len(waited) * share))] * 1000 for share in (0.5, 0.99, 1.0)]
        figures = (f"{ms:,.0f}" for ms in at)
        table.add_row(str(layout.partitions), str(layout.workers), f"{len(waited):,}", *figures, f"{AIM_MS}")
    Console(width=120).print(table)


def measured(settings: Settings, workers: int) -> list[float]:
    """Return the seconds that each session took with so many workers, those of the first seconds left out."""
    pipeline = str(Path(sys.executable).with_name("pipeline"))
    environ = child_environ(settings)
    requests = [
        as_request("/api/v1/downloaded", to_media_collection(sdk_session(EVENTS, n)))
        for n in range(RATE * (SECONDS + WARM_S))
    ]
    arrived: list[tuple[float, bytes]] = []
    stop = threading.Event()
    with (
        tempfile.TemporaryFile() as said,
        tempfile.NamedTemporaryFile("r") as log,
        Path(log.name).open("wb") as out,
    ):
        processes = [subprocess.Popen([pipeline, "ingest"], env=environ, stdout=out, stderr=out)]
        reading = threading.Thread(target=_read, args=(settings, arrived, stop))
        try:
            port = _port(log)
            for _ in range(workers):
                own = child_environ(settings, worker_port=(health := free_port()))
                processes.append(subprocess.Popen([pipeline, "worker"], env=own, stdout=said, stderr=said))
                _await_ready(processes[-1], health)
            time.sleep(SETTLE_S)
            reading.start()
            loaded = asyncio.run(open_loop(port, requests, RATE, SECONDS + WARM_S))
            end = time.monotonic() + READY_S
            while len(arrived) < loaded.answered and time.monotonic() < end:
                time.sleep(0.1)
        finally:
            stop.set()
            for process in processes:
                process.kill()
                process.wait()
            if reading.ident:
                reading.join()
    codec = kafka_codec(settings)
    found = []
    for moment, value in arrived:
        session: dict[str, Any] = codec.decode(value)
        number = int(session["dimensions"]["name"].removeprefix("film-"))
        if number >= RATE * WARM_S:
            found.append(moment - (loaded.started + number / RATE))
    if len(found) < loaded.answered - RATE * WARM_S:
        raise SystemExit(
            f"{loaded.answered} uploads were answered ({loaded.statuses}), {len(arrived)} came out"
        )
    return found


def _read(settings: Settings, arrived: list[tuple[float, bytes]], stop: threading.Event) -> None:
    config = {**ISOLATION, "group.id": uuid.uuid4().hex, "fetch.wait.max.ms": 10}
    consumer = Consumer(client_config(settings, **config))
    topic = settings.kafka_topic_prefix + SESSIONS
    # One that subscribes may never come back from its close.
    consumer.assign(
        [TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(settings.partitions)]
    )
    while not stop.is_set():
        for message in consumer.consume(500, 0.01):
            value = message.value()
            if message.error() is None and value is not None:
                arrived.append((time.perf_counter(), value))
    consumer.close()


def _port(log: Any) -> int:
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        log.seek(0)
        said = log.read()
        if "http://127.0.0.1:" in said:
            digits = said.split("http://127.0.0.1:")[1]
            return int(digits[: next(i for i, c in enumerate(digits + " ") if not c.isdigit())])
        time.sleep(0.1)
    raise SystemExit("ingest did not start")


def _await_ready(process: subprocess.Popen[bytes], port: int) -> None:
    """Return when this worker has taken partitions over."""
    end = time.monotonic() + READY_S
    while process.poll() is None and time.monotonic() < end:
        if is_healthy(f"http://127.0.0.1:{port}/health/ready"):
            return
        time.sleep(0.2)
    raise SystemExit("a worker did not start")
