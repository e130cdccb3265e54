"""The Faust worker on Apache Kafka beside a plain confluent-kafka loop with the same stages.

All carry the same backlog of uploads with everything on: outputs, index and transactions. What is compared
is CPU time per session, from the moment before the backlog comes, when a few uploads have been carried and
nothing waits, to its last commit; the loop is `bench.plain_loop`.
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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import psutil
from confluent_kafka import Producer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.core import PARTITIONS, MemoryIds, sdk_session
from deploy.servers import LastingKafka
from pipeline.commands.home import kafka_codec
from pipeline.contract.codec import Codec
from pipeline.contract.positions import INDEX
from pipeline.contract.record import Record, StoredRecord
from pipeline.contract.records import IndexEntry
from pipeline.contract.topics import load_topics
from pipeline.kafka import admin
from pipeline.kafka.reader import KafkaReader
from pipeline.settings import Settings, child_environ, load
from pipeline.stages.datastreams import OPEN_DIRECTORY
from pipeline.stages.receive import Request
from pipeline.topology import Topology
from pipeline.wire.encode import to_media_collection

EVENTS: Final = 25
SESSIONS: Final = int(os.environ.get("BENCH_SESSIONS", "6000"))
REPEATS: Final = int(os.environ.get("BENCH_REPEATS", "3"))
WARM_SESSIONS: Final = 600
SETTLE_S: Final = 4.0
STAGES_BATCH: Final = 200
AIM: Final = 0.8
DEADLINE_S: Final = 300.0
LOOP, WORKER, TWO, STAGES = "plain loop", "Faust worker", "two Faust workers", "stages alone"


class Run(NamedTuple):
    """One carried backlog."""

    cpu_s: float
    wall_s: float


def main() -> None:
    """Print what a session costs in each way, and the ratios."""
    loop = [sys.executable, "-m", "bench.plain_loop"]
    worker = [str(Path(sys.executable).with_name("pipeline")), "worker"]
    ways = {LOOP: [loop], WORKER: [worker], TWO: [worker, worker]}
    runs: dict[str, list[Run]] = {name: [] for name in (*ways, STAGES)}
    with LastingKafka() as kafka, Progress(transient=True) as progress:
        task = progress.add_task("carrying backlogs", total=REPEATS * len(runs))
        for number in range(REPEATS):
            for name, commands in ways.items():
                with tempfile.TemporaryDirectory() as directory:
                    prefix = f"b{number}.{name.replace(' ', '-').lower()}"
                    settings = load(
                        {},
                        kafka_bootstrap=kafka.bootstrap,
                        kafka_topic_prefix=f"{prefix}.",
                        worker_group=prefix,
                        worker_port=0,
                        partitions=PARTITIONS,
                        data_dir=Path(directory),
                    )
                    runs[name].append(carried(settings, commands))
                progress.advance(task)
            runs[STAGES].append(stages_alone())
            progress.advance(task)
    console = Console(width=140)
    console.print(_table(runs))
    cpu, wall = _medians(runs, 0), _medians(runs, 1)
    console.print(f"Faust worker / plain loop by CPU: {cpu[LOOP] / cpu[WORKER]:.2f} (aim: {AIM})")
    console.print(f"Faust worker / stages alone by CPU: {cpu[STAGES] / cpu[WORKER]:.2f}")
    shared = f"they share {os.cpu_count()} cores with the broker"
    console.print(f"Two workers / one by time: {wall[WORKER] / wall[TWO]:.2f} ({shared})")


def _medians(runs: dict[str, list[Run]], place: int) -> dict[str, float]:
    return {name: statistics.median(run[place] for run in found) for name, found in runs.items()}


def _table(runs: dict[str, list[Run]]) -> Table:
    title = f"{SESSIONS:,} uploads of {EVENTS} events on Apache Kafka, {PARTITIONS} partitions"
    table = Table(title=title, title_justify="left")
    for column in (
        "",
        "sessions per CPU-second",
        "events per CPU-second",
        "µs of CPU per session",
        "sessions/s",
    ):
        table.add_column(column, justify="right" if column else "left")
    cpu, wall = _medians(runs, 0), _medians(runs, 1)
    for name in runs:
        table.add_row(
            name,
            f"{SESSIONS / cpu[name]:,.0f}",
            f"{SESSIONS * EVENTS / cpu[name]:,.0f}",
            f"{cpu[name] / SESSIONS * 1e6:,.0f}",
            f"{SESSIONS / wall[name]:,.0f}",
        )
    return table


def stages_alone() -> Run:
    """Return what the stages cost for such a backlog in this process, without log or broker."""
    codec = Codec(MemoryIds())
    topology = Topology(codec, load_topics(PARTITIONS), OPEN_DIRECTORY)
    stored: dict[int, list[StoredRecord]] = {}
    for record in uploads(topology, SESSIONS):
        mine = stored.setdefault(record.partition, [])
        mine.append(
            StoredRecord(
                record.topic, record.partition, len(mine), record.key, record.value, record.timestamp_ms
            )
        )
    started = (time.process_time(), time.monotonic())
    for records in stored.values():
        for begin in range(0, len(records), STAGES_BATCH):
            topology.process(records[begin : begin + STAGES_BATCH], lambda _keys: {}, 1_795_000_000_000)
    return Run(time.process_time() - started[0], time.monotonic() - started[1])


def carried(settings: Settings, commands: list[list[str]]) -> Run:
    """Return what it cost these commands together to carry a fresh backlog; topics are made for it."""
    topics = load_topics(PARTITIONS)
    admin.apply(settings, topics)
    codec = kafka_codec(settings)
    backlog = list(uploads(Topology(codec, topics, OPEN_DIRECTORY), WARM_SESSIONS + SESSIONS))
    with tempfile.TemporaryFile() as log, contextlib.closing(KafkaReader(settings)) as reader:
        processes = [
            subprocess.Popen(command, env=child_environ(settings), stdout=log, stderr=log)
            for command in commands
        ]
        try:
            watched = [psutil.Process(process.pid) for process in processes]
            positions = Positions(reader, codec)
            ends: dict[int, int] = {}

            def carry(part: Sequence[Record]) -> None:
                """Have these carried, or end the benchmark."""
                fill(settings, part, ends)
                end = time.monotonic() + DEADLINE_S
                while positions.committed() != ends:
                    if any(process.poll() is not None for process in processes) or time.monotonic() > end:
                        log.seek(0)
                        raise SystemExit(f"{commands} did not carry: {log.read().decode()[-2000:]}")
                    time.sleep(0.1)

            def taken() -> Run:
                """Return the CPU time that was taken until now, and the moment."""
                return Run(sum(sum(process.cpu_times()[:2]) for process in watched), time.monotonic())

            carry(backlog[:WARM_SESSIONS])
            time.sleep(SETTLE_S)
            before = taken()
            carry(backlog[WARM_SESSIONS:])
            after = taken()
            return Run(after.cpu_s - before.cpu_s, after.wall_s - before.wall_s)
        finally:
            for process in processes:
                process.kill()
                process.wait()


def uploads(topology: Topology, sessions: int) -> Iterator[Record]:
    """Yield the records of so many uploads, as the front door makes them."""
    for number in range(sessions):
        body = to_media_collection(sdk_session(EVENTS, number))
        request = Request("/api/v1/downloaded", body, time.time_ns() // 1_000_000, f"request-{number}")
        yield from topology.upload_records(topology.receive(request, lambda: uuid.uuid4().hex))


def fill(settings: Settings, records: Sequence[Record], ends: dict[int, int]) -> None:
    """Write a part of the backlog; bring up to date where each partition ends."""
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap, "linger.ms": 20})
    for record in records:
        producer.produce(
            settings.kafka_topic_prefix + record.topic, record.value, record.key, record.partition
        )
        ends[record.partition] = ends.get(record.partition, 0) + 1
        producer.poll(0)
    producer.flush(60)


class Positions:
    """The committed positions, read on where they were read to."""

    def __init__(self, reader: KafkaReader, codec: Codec) -> None:
        self._reader = reader
        self._codec = codec
        self._starts = dict.fromkeys(range(PARTITIONS), 0)
        self._positions: dict[int, int] = {}

    def committed(self) -> dict[int, int]:
        """Return the next offset of each partition that was read from."""
        self._reader.refresh()
        for stored in self._reader.read(INDEX, self._starts):
            self._starts[stored.partition] = stored.offset + 1
            if stored.value is not None and stored.key.startswith(b"position"):
                entry = self._codec.decode_record(IndexEntry, stored.value)
                self._positions[stored.partition] = entry.next_offset or 0
        return self._positions
