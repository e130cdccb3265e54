"""The Faust worker on Apache Kafka beside a plain confluent-kafka loop with the same stages.

Both carry the same backlog of uploads with everything on: outputs, dedupe entries and transactions. What is
compared is CPU time per session, from the take-over to the last commit; the loop is `bench.plain_loop`.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Final, NamedTuple

import psutil
from confluent_kafka import Producer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.core import sdk_session
from deploy.servers import Kafka
from pipeline.commands.home import kafka_codec
from pipeline.contract.codec import Codec
from pipeline.contract.positions import INDEX
from pipeline.contract.records import IndexEntry
from pipeline.contract.topics import load_topics
from pipeline.kafka import admin
from pipeline.kafka.reader import KafkaReader
from pipeline.settings import PREFIX, Settings, load
from pipeline.stages.datastreams import OPEN_DIRECTORY
from pipeline.stages.receive import Request
from pipeline.topology import Topology
from pipeline.wire.encode import to_media_collection

EVENTS: Final = 25
SESSIONS: Final = int(os.environ.get("BENCH_SESSIONS", "6000"))
REPEATS: Final = int(os.environ.get("BENCH_REPEATS", "3"))
AIM: Final = 0.7
DEADLINE_S: Final = 300.0


class Run(NamedTuple):
    """One carried backlog."""

    cpu_s: float
    wall_s: float


def main() -> None:
    """Print sessions per CPU-second of both, and their ratio."""
    runs: dict[str, list[Run]] = {"plain loop": [], "Faust worker": []}
    with Kafka() as kafka, Progress(transient=True) as progress, tempfile.TemporaryDirectory() as directory:
        task = progress.add_task("carrying backlogs", total=REPEATS * len(runs))
        for number in range(REPEATS):
            for name, command in (
                ("plain loop", [sys.executable, "-m", "bench.plain_loop"]),
                ("Faust worker", [str(Path(sys.executable).with_name("pipeline")), "worker"]),
            ):
                settings = load(
                    {},
                    kafka_bootstrap=kafka.bootstrap,
                    kafka_topic_prefix=f"b{number}.{name.split()[0].lower()}.",
                    worker_group=f"b{number}-{name.split()[0].lower()}",
                    worker_port=0,
                    data_dir=Path(directory),
                )
                runs[name].append(carried(settings, command))
                progress.advance(task)
    table = Table(title=f"{SESSIONS} uploads of {EVENTS} events on Apache Kafka", title_justify="left")
    for column in ("", "sessions per CPU-second", "µs of CPU per session", "sessions/s"):
        table.add_column(column, justify="right" if column else "left")
    for name, found in runs.items():
        cpu_s = statistics.median(run.cpu_s for run in found)
        wall_s = statistics.median(run.wall_s for run in found)
        table.add_row(
            name, f"{SESSIONS / cpu_s:,.0f}", f"{cpu_s / SESSIONS * 1e6:,.0f}", f"{SESSIONS / wall_s:,.0f}"
        )
    plain, faust = (statistics.median(run.cpu_s for run in found) for found in runs.values())
    Console(width=140).print(table)
    Console(width=140).print(f"Faust worker / plain loop: {plain / faust:.2f} (aim: {AIM})")


def carried(settings: Settings, command: list[str]) -> Run:
    """Return what it cost this command to carry a fresh backlog; topics are made for it."""
    admin.apply(settings, load_topics())
    expected = fill(settings)
    environ = {
        f"{PREFIX}{name.upper()}": str(getattr(settings, name))
        for name in ("kafka_bootstrap", "kafka_topic_prefix", "worker_group", "data_dir", "worker_port")
    }
    codec = kafka_codec(settings)
    with tempfile.TemporaryFile() as log, contextlib.closing(KafkaReader(settings)) as reader:
        process = subprocess.Popen(command, env={**os.environ, **environ}, stdout=log, stderr=log)
        try:
            watched = psutil.Process(process.pid)
            begun = (0.0, time.monotonic())
            end = time.monotonic() + DEADLINE_S
            positions: dict[int, int] = {}
            while True:
                committed(reader, codec, positions)
                cpu_s = sum(watched.cpu_times()[:2])
                if not positions:
                    begun = (cpu_s, time.monotonic())
                if positions == expected:
                    return Run(cpu_s - begun[0], time.monotonic() - begun[1])
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    raise SystemExit(f"{command} did not carry: {log.read().decode()[-2000:]}")
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()


def fill(settings: Settings) -> dict[int, int]:
    """Write the backlog through the door's own code; return where each partition ends."""
    topology = Topology(kafka_codec(settings), load_topics(), OPEN_DIRECTORY)
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap, "linger.ms": 20})
    body = to_media_collection(sdk_session(EVENTS))
    ends: dict[int, int] = {}
    for number in range(SESSIONS):
        mine = body.replace(b"film-1", b"film-%d" % number).replace(b"4" * 38, b"%038d" % number)
        request = Request("/api/v1/downloaded", mine, time.time_ns() // 1_000_000, f"request-{number}")
        for record in topology.upload_records(topology.receive(request, lambda: uuid.uuid4().hex)):
            producer.produce(
                settings.kafka_topic_prefix + record.topic, record.value, record.key, record.partition
            )
            ends[record.partition] = ends.get(record.partition, 0) + 1
        producer.poll(0)
    producer.flush(60)
    return ends


def committed(reader: KafkaReader, codec: Codec, positions: dict[int, int]) -> None:
    """Bring the committed positions up to date."""
    reader.refresh()
    starts = {p: reader.first_offset(INDEX, p) for p in range(reader.partitions(INDEX))}
    for stored in reader.read(INDEX, starts):
        if stored.value is not None and stored.key.startswith(b"position"):
            positions[stored.partition] = codec.decode_record(IndexEntry, stored.value).next_offset or 0
