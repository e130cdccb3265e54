"""The front door on Apache Kafka beside a bare ASGI app, a bare produce loop and node, in one run.

Capacity is CPU time of the whole server process per upload, closed loop on 64 connections; latency is open
loop at half of what our own door carried in the same run. Everything is on: decoding, validation, session id,
Avro envelope, acks=all, spool armed. Node (fastify, ajv, librdkafka) is run where `npm ci` was done in
`bench/node`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import psutil
import uvloop
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.core import PARTITIONS, sdk_session
from bench.http_load import Loaded, as_request, closed_loop, open_loop
from deploy.servers import LastingKafka
from pipeline.commands.home import kafka_codec
from pipeline.contract.record import Record
from pipeline.contract.topics import load_topics
from pipeline.kafka import admin
from pipeline.kafka.uploads import UploadProducer
from pipeline.settings import Settings, child_environ, load
from pipeline.stages.datastreams import OPEN_DIRECTORY
from pipeline.stages.receive import Request
from pipeline.topology import Topology
from pipeline.wire import schemas
from pipeline.wire.encode import to_media_collection

PATH: Final = "/api/v1/downloaded"
SIZES: Final = {"3 KB": 29, "50 KB": 690}
REPEATS: Final = int(os.environ.get("BENCH_REPEATS", "5"))
UPLOADS: Final = int(os.environ.get("BENCH_UPLOADS", "8000"))
MEMORY_UPLOADS: Final = int(os.environ.get("BENCH_MEMORY_UPLOADS", "50000"))
"""How many uploads the memory is watched over; 1,000,000 takes some minutes."""
OPEN_S: Final = 5.0
MEMORY_STEPS: Final = 10
VIEWERS: Final = 200
NODE: Final = Path(__file__).parent / "node"
OURS, FLOOR, NODEJS, LOOP = "ingest", "floor", "node", "produce loop"
AIMS: Final = {"3 KB": (0.30, 1.3), "50 KB": (0.30, 2.0)}
"""At least so much of the floor, and so many times node, by CPU."""
AIM_P99: Final = 2.0
START_S: Final = 40.0


class Run(NamedTuple):
    """One server under one closed-loop load."""

    cpu_us: float
    rate_per_s: float
    p50_ms: float
    p99_ms: float
    memory_mb: float


def main() -> None:
    """Print one table for each size, with the ratios that the aims are about."""
    uvloop.install()
    with (
        LastingKafka() as kafka,
        tempfile.TemporaryDirectory() as directory,
        Progress(transient=True) as progress,
    ):
        settings = load(
            {},
            kafka_bootstrap=kafka.bootstrap,
            data_dir=Path(directory),
            ingest_port=0,
            partitions=PARTITIONS,
            ingest_body_limit_bytes=1024**2,
        )
        admin.apply(settings, load_topics(PARTITIONS))
        names = [FLOOR, OURS] + ([NODEJS] if why_no_node() is None else [])
        task = progress.add_task("front doors", total=len(SIZES) * REPEATS * (len(names) + 2))
        for size, events in SIZES.items():
            requests = [as_request(PATH, body) for body in bodies(events)]
            uploads = UPLOADS if events < 100 else UPLOADS // 5
            runs: dict[str, list[Run]] = {name: [] for name in names}
            latency: dict[str, list[Loaded]] = {OURS: [], LOOP: []}
            for _ in range(REPEATS):
                for name in names:
                    with served(name, settings) as (port, process):
                        runs[name].append(measured(port, process, requests, uploads))
                        progress.advance(task)
                        if name == OURS:
                            rate = runs[OURS][-1].rate_per_s / 2
                            loaded = asyncio.run(open_loop(port, requests, rate, OPEN_S))
                            latency[OURS].append(created(loaded, int(OPEN_S * rate)))
                            progress.advance(task)
                latency[LOOP].append(asyncio.run(produced(settings, events, rate)))
                progress.advance(task)
            report(progress.console, size, runs, latency)
        progress.console.print(remembered(settings))
    reason = why_no_node()
    if reason:
        Console().print(f"node was not run: {reason}")


def bodies(events: int) -> list[bytes]:
    """Return the sessions of many viewers."""
    return [to_media_collection(sdk_session(events, viewer)) for viewer in range(VIEWERS)]


def why_no_node() -> str | None:
    """Return why node can't be run here, or None."""
    if shutil.which("node") is None:
        return "there is no node"
    if not (NODE / "node_modules").exists():
        return "run `npm ci` in bench/node first (docs/ingest.md)"
    return None


@contextlib.contextmanager
def served(name: str, settings: Settings) -> Iterator[tuple[int, psutil.Process]]:
    """Yield the port and the process of a server that answers."""
    commands = {
        FLOOR: [sys.executable, "-m", "bench.floor"],
        OURS: [str(Path(sys.executable).with_name("pipeline")), "ingest"],
        NODEJS: ["node", str(NODE / "server.js")],
    }
    process = subprocess.Popen(
        commands[name],
        env=child_environ(settings) | {"BENCH_SCHEMAS": str(event_schemas(settings.data_dir))},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stderr is not None
        said, end = "", time.monotonic() + START_S
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", said)):
            line = process.stderr.readline()
            said += line
            if not line or time.monotonic() > end:
                raise SystemExit(f"{name} did not start:\n{said}")
        yield int(found[1]), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.communicate()


def event_schemas(directory: Path) -> Path:
    """Return a file with the JSON Schemas of all event types, for the others to validate by."""
    file = directory / "schemas.json"
    found = [schemas.schema(name) for name in schemas.EVENT_TYPES]
    bare = [{key: value for key, value in schema.items() if key[0] != "$"} for schema in found]
    file.write_text(json.dumps(bare))
    return file


def measured(port: int, process: psutil.Process, requests: Sequence[bytes], uploads: int) -> Run:
    """Return what a closed-loop run cost, after a short one that warms up."""
    asyncio.run(closed_loop(port, requests, uploads // 8))
    before = sum(process.cpu_times()[:2])
    loaded = created(asyncio.run(closed_loop(port, requests, uploads)), uploads)
    cpu_s = sum(process.cpu_times()[:2]) - before
    return Run(
        cpu_s / loaded.answered * 1e6,
        loaded.answered / loaded.wall_s,
        loaded.percentile_ms(0.5),
        loaded.percentile_ms(0.99),
        process.memory_info().rss / 1e6,
    )


def created(loaded: Loaded, number: int) -> Loaded:
    """Return the run when at least so many requests were sent and each was answered 201."""
    if set(loaded.statuses) != {201} or loaded.answered < number:
        raise SystemExit(f"{number} were to be created, and answered was {dict(loaded.statuses)}")
    return loaded


def remembered(settings: Settings) -> str:
    """Return how the memory of our door grew over many uploads."""
    requests = [as_request(PATH, body) for body in bodies(SIZES["3 KB"])]
    seen: list[float] = []
    with served(OURS, settings) as (port, process):
        for _ in range(MEMORY_STEPS):
            number = MEMORY_UPLOADS // MEMORY_STEPS
            created(asyncio.run(closed_loop(port, requests, number)), number)
            seen.append(process.memory_info().rss / 1e6)
    steps = ", ".join(f"{value:.0f}" for value in seen)
    return f"memory over {MEMORY_UPLOADS:,} uploads of 3 KB, after each tenth: {steps} MB"


async def produced(settings: Settings, events: int, rate: float) -> Loaded:
    """Return the latency of our producer alone, open loop at this rate, with the records ready made."""
    topology = Topology(kafka_codec(settings), load_topics(PARTITIONS), OPEN_DIRECTORY)
    records: list[Record] = []
    for number, body in enumerate(bodies(events)):
        request = Request(PATH, body, time.time_ns() // 1_000_000, f"request-{number}")
        records += topology.upload_records(topology.receive(request, lambda number=number: f"{number}"))  # type: ignore[misc]  # bound at once
    producer = UploadProducer(settings, time.monotonic)
    latencies: list[float] = []

    async def store(record: Record, due: float) -> None:
        await producer.store([record])
        latencies.append(time.perf_counter() - due)

    try:
        await producer.store(records[:1])
        started, sent = time.perf_counter(), 0
        async with asyncio.TaskGroup() as group:
            while (now := time.perf_counter() - started) < OPEN_S:
                while sent < now * rate:
                    group.create_task(store(records[sent % len(records)], started + sent / rate))
                    sent += 1
                await asyncio.sleep(0.001)
    finally:
        producer.close()
    return Loaded(Counter({201: len(latencies)}), sorted(latencies), time.perf_counter() - started)


def report(console: Console, size: str, runs: dict[str, list[Run]], latency: dict[str, list[Loaded]]) -> None:
    """Print the medians of one size and the ratios."""
    table = Table(
        title=f"{size} uploads, closed loop, 64 connections, median of {REPEATS}", title_justify="left"
    )
    for column in (
        "",
        "CPU µs/upload",
        "uploads per CPU-second",
        "uploads/s",
        "p50 ms",
        "p99 ms",
        "memory MB",
    ):
        table.add_column(column, justify="right" if column else "left")
    middle = {
        name: Run(*(statistics.median(values) for values in zip(*found, strict=True)))
        for name, found in runs.items()
    }
    for name, run in middle.items():
        table.add_row(
            name,
            f"{run.cpu_us:.0f}",
            f"{1e6 / run.cpu_us:,.0f}",
            f"{run.rate_per_s:,.0f}",
            f"{run.p50_ms:.1f}",
            f"{run.p99_ms:.1f}",
            f"{run.memory_mb:.0f}",
        )
    console.print(table)
    floor_aim, node_aim = AIMS[size]
    console.print(f"of the floor by CPU: {middle[FLOOR].cpu_us / middle[OURS].cpu_us:.2f} (aim: {floor_aim})")
    if NODEJS in middle:
        console.print(
            f"times node by CPU: {middle[NODEJS].cpu_us / middle[OURS].cpu_us:.2f} (aim: {node_aim})"
        )
    rate = middle[OURS].rate_per_s / 2
    half, whole = (
        {
            name: statistics.median(loaded.percentile_ms(share) for loaded in latency[name])
            for name in (OURS, LOOP)
        }
        for share in (0.5, 0.99)
    )
    console.print(
        f"open loop at half load (about {rate:,.0f}/s): p50 {half[OURS]:.1f} ms, p99 {whole[OURS]:.1f} ms; "
        f"produce loop p50 {half[LOOP]:.1f} ms, p99 {whole[LOOP]:.1f} ms; "
        f"p99 ratio {whole[OURS] / whole[LOOP]:.1f} (aim: at most {AIM_P99})\n"
    )


if __name__ == "__main__":
    main()
