"""The worker on Kafka: Faust brings the records and the rebalances, the lanes make them count once.

The pattern is the measured one (ADR 0005): raw bytes in, `noack_take`, a consumer that never commits and
seeks to the positions of our own index, one transaction per source partition and batch. Faust's offsets,
tables, web server and producer are not used. Whatever is not the data's fault ends the process: what
restarts it makes the worker take its partitions over again and read the batch again.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import faust
import structlog
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from pipeline.contract.ports import Fenced, Unavailable
from pipeline.contract.record import StoredRecord
from pipeline.kafka.lanes import Lanes
from pipeline.metrics import Meters
from pipeline.settings import Settings
from pipeline.topology import UPLOADS, Processed, Topology
from pipeline.traces import OFF, BatchSpan, Traces
from pipeline.worker.progress import Progress
from pipeline.worker.report import report

_log = structlog.get_logger("pipeline.worker")

EXIT_FENCED: Final = 3
EXIT_STUCK: Final = 4
TAKE_OVER_DEADLINE_S: Final = 60.0
TRANSACTION_DEADLINE_S: Final = 60.0
WITHIN_S: Final = 0.02
OBSERVE_S: Final = 1.0
LANE_THREADS: Final = 24


class Positions:
    """What this worker owns: the lanes, and per partition the offset that is expected next."""

    def __init__(self, lanes: Lanes) -> None:
        self.lanes = lanes
        self.expected: dict[int, int] = {}
        self.committed: dict[int, int] = {}
        """The same, of what is committed: progress and lag are measured here."""
        self.generation: int | None = None
        self.pool = ThreadPoolExecutor(LANE_THREADS, "lanes")
        self.stages = ThreadPoolExecutor(1, "stages")
        self.lock = asyncio.Lock()

    def take_over(self, partitions: Sequence[int]) -> dict[int, int]:
        """Fence the earlier owners of these partitions; return the positions to read from."""
        for lost in set(self.expected) - set(partitions):
            self.lanes.release(lost)
        return dict(zip(partitions, self.pool.map(self.lanes.take_over, partitions), strict=True))


class TransactionalConsumer(driver.Consumer):  # type: ignore[misc]  # Faust is untyped here
    """A consumer whose truth is our own index: it never commits, and it seeks where the lanes say."""

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: ARG002
        """Commit nothing: the position is in the transaction of the outputs."""
        return False

    def ack(self, message: Any) -> bool:
        """Let go of a message whose batch is committed."""
        message.acked = True
        self._unacked_messages.discard(message)
        waiting = self._waiting_for_ack
        if waiting is not None and not waiting.done():
            waiting.set_result(None)
        return True

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's watchdog looks for commits, which never come."""

    async def perform_seek(self) -> None:
        """Take the assigned partitions over and seek; called again in one generation, rewind."""
        positions: Positions = self.app.pipeline_positions
        async with positions.lock:
            generation = self.app.consumer_generation_id
            assigned = sorted(tp.partition for tp in self.assignment())
            if positions.generation != generation:
                positions.expected = dict(await self._take_over(positions, assigned))
                positions.committed = dict(positions.expected)
                positions.generation = generation
            # A repeated call in one generation rewinds too: records fetched while the flow was stopped
            # were thrown away, so an early return would lose them.
            if self.app.consumer_generation_id != generation:
                return
            topic = self.app.pipeline_topic
            await self.seek_wait({TP(topic, p): positions.expected[p] for p in assigned})

    async def _take_over(self, positions: Positions, assigned: Sequence[int]) -> Mapping[int, int]:
        started = time.monotonic()
        work = asyncio.get_running_loop().run_in_executor(None, positions.take_over, assigned)
        try:
            offsets = await asyncio.wait_for(work, TAKE_OVER_DEADLINE_S)
        except Exception as error:  # noqa: BLE001 - Faust's recovery would end silently, whatever it was
            die(EXIT_STUCK, "take_over_failed", error)
        _log.info(
            "taken_over",
            topic=UPLOADS,
            partitions=list(assigned),
            took_s=round(time.monotonic() - started, 2),
        )
        return offsets


class Transport(driver.Transport):  # type: ignore[misc]  # as above
    """Faust's aiokafka transport with our consumer."""

    Consumer = TransactionalConsumer


class App(faust.App):  # type: ignore[misc]  # as above
    """A Faust app on our transport."""

    pipeline_positions: Positions
    pipeline_topic: str

    def _new_transport(self) -> Any:
        return Transport(self.conf.broker_consumer, self)


def die(code: int, event: str, error: object, **members: object) -> Any:
    """End the process at once: nothing of the batch in hand is committed."""
    _log.error(event, **members, error=repr(error), exit_code=code)
    os._exit(code)


def make_app(
    settings: Settings,
    topology: Topology,
    lanes: Lanes,
    meters: Meters,
    progress: Progress,
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    traces: Traces = OFF,
) -> App:
    """Return the Faust app that carries uploads through the topology."""
    app = App(
        settings.worker_group,
        broker=[f"kafka://{address.strip()}" for address in settings.kafka_bootstrap.split(",")],
        broker_credentials=credentials(settings),
        value_serializer="raw",
        key_serializer="raw",
        store="memory://",
        datadir=str(settings.data_dir / "faust"),
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        table_standby_replicas=0,
        agent_supervisor="mode.CrashingSupervisor",
        consumer_auto_offset_reset="earliest",
        broker_session_timeout=settings.worker_session_timeout_s,
        broker_heartbeat_interval=max(1.0, settings.worker_session_timeout_s / 3),
        stream_buffer_maxsize=4096,
        worker_redirect_stdouts=False,
        worker_hijack_root_logger=False,
    )
    app.pipeline_positions = Positions(lanes)
    app.pipeline_topic = settings.kafka_topic_prefix + UPLOADS
    source = app.topic(app.pipeline_topic, key_type=bytes, value_type=bytes)
    carrier = _Carrier(app, topology, meters, now_ms, settings.worker_batch_bytes, traces)

    @app.agent(source, name="uploads")  # type: ignore[untyped-decorator]  # as above
    async def uploads(stream: Any) -> None:
        async for batch in stream.noack_take(settings.worker_batch_records, within=WITHIN_S):
            await carrier.carry(batch)

    @app.timer(interval=OBSERVE_S)  # type: ignore[untyped-decorator]  # as above
    async def observe() -> None:
        observe_progress(app, meters, progress)

    return app


def observe_progress(app: App, meters: Meters, progress: Progress) -> None:
    """Measure lag and progress by what is committed; `watch` ends a worker that makes none."""
    if app.pipeline_positions.generation is None:
        return
    committed = dict(app.pipeline_positions.committed)
    lag = {}
    for partition, position in committed.items():
        try:
            end = app.consumer.highwater(TP(app.pipeline_topic, partition))
        except AssertionError:  # aiokafka's way to say that a rebalance has just taken the partition
            return
        lag[partition] = max(0, (end or 0) - position)
    meters.replace("pipeline_partition_lag_records", {str(p): number for p, number in lag.items()})
    meters.set("pipeline_lag_records", sum(lag.values()))
    progress.observe(time.monotonic(), committed, lag)


class _Carrier:
    """Carries one batch: process by partition, one transaction each, then let the messages go."""

    def __init__(
        self,
        app: App,
        topology: Topology,
        meters: Meters,
        now_ms: Callable[[], int],
        batch_bytes: int,
        traces: Traces,
    ) -> None:
        self._traces = traces
        self._app = app
        self._topology = topology
        self._meters = meters
        self._now_ms = now_ms
        self._batch_bytes = batch_bytes

    async def carry(self, batch: Sequence[Any]) -> None:
        """Commit what this batch gives; records of an earlier generation are left to their new owner."""
        positions = self._app.pipeline_positions
        started = time.perf_counter()
        by_partition: dict[int, list[StoredRecord]] = {}
        for event in batch:
            self._sort_in(event.message, by_partition, positions)
        carried = [self._carry_partition(partition, records) for partition, records in by_partition.items()]
        try:
            await asyncio.wait_for(asyncio.gather(*carried), TRANSACTION_DEADLINE_S)
        except (TimeoutError, Unavailable) as error:
            die(EXIT_STUCK, "not_committed", error)
        for event in batch:
            event.ack()
        self._meters.observe("pipeline_batch_seconds", time.perf_counter() - started)
        self._meters.observe("pipeline_batch_records", len(batch))

    def _sort_in(
        self, message: Any, by_partition: dict[int, list[StoredRecord]], positions: Positions
    ) -> None:
        partition, offset = message.partition, message.offset
        expected = positions.expected.get(partition)
        is_current = message.generation_id in (None, self._app.consumer_generation_id)
        if expected is None or not is_current or offset < expected:
            return
        if offset > expected and expected > 0:
            # media.uploads has no legitimate gaps but those that retention makes.
            _log.warning(
                "offsets_missing", topic=UPLOADS, partition=partition, expected=expected, offset=offset
            )
        positions.expected[partition] = offset + 1
        by_partition.setdefault(partition, []).append(stored_record(message))

    async def _carry_partition(self, partition: int, records: Sequence[StoredRecord]) -> None:
        """Process one partition's records and commit them, in transactions of bounded size.

        The stages of all partitions share one thread (they only compute); commits wait in many.
        """
        positions, loop = self._app.pipeline_positions, asyncio.get_running_loop()
        for part in bounded(records, self._batch_bytes):
            with self._traces.batch(part) as spans:
                processed = await loop.run_in_executor(
                    positions.stages, self._process, partition, part, spans
                )
                await loop.run_in_executor(positions.pool, self._commit, partition, part, processed, spans)

    def _process(self, partition: int, records: Sequence[StoredRecord], spans: BatchSpan) -> Processed:
        lanes = self._app.pipeline_positions.lanes
        with spans.step("stages"):
            return self._topology.process(
                records, lambda keys: lanes.known(partition, keys), self._now_ms(), spans.headers_of
            )

    def _commit(
        self, partition: int, records: Sequence[StoredRecord], processed: Processed, spans: BatchSpan
    ) -> None:
        started = time.perf_counter()
        with spans.step("transaction"):
            try:
                self._app.pipeline_positions.lanes.commit(
                    partition, processed.records, records[-1].offset + 1
                )
            except Fenced as error:
                place = {"topic": UPLOADS, "partition": partition, "offset": records[0].offset}
                die(EXIT_FENCED, "fenced", error, **place)
        self._meters.observe("pipeline_transaction_seconds", time.perf_counter() - started)
        self._app.pipeline_positions.committed[partition] = records[-1].offset + 1
        report(processed, len(records), self._meters)


def bounded(records: Sequence[StoredRecord], most_bytes: int) -> Iterator[Sequence[StoredRecord]]:
    """Yield the records in runs of at most so many bytes of value, or of one record."""
    run: list[StoredRecord] = []
    size = 0
    for record in records:
        more = len(record.value or b"")
        if run and size + more > most_bytes:
            yield run
            run, size = [], 0
        run.append(record)
        size += more
    if run:
        yield run


def stored_record(message: Any) -> StoredRecord:
    """Return Faust's message as the stages read it, original bytes and all."""
    headers = message.headers.items() if isinstance(message.headers, Mapping) else message.headers or ()
    return StoredRecord(
        topic=UPLOADS,
        partition=message.partition,
        offset=message.offset,
        key=message.key or b"",
        value=message.value,
        timestamp_ms=round(message.timestamp * 1000),
        headers=tuple((str(name), bytes(value or b"")) for name, value in headers),
    )


def credentials(settings: Settings) -> Any:
    """Return Faust's credentials for the broker, or None for a plain connection."""
    import ssl

    protocol = settings.kafka_security_protocol.upper()
    context = None
    if protocol.endswith("SSL"):
        context = ssl.create_default_context(cafile=settings.kafka_ca_file or None)
    if protocol.startswith("SASL"):
        return faust.SASLCredentials(
            mechanism=settings.kafka_sasl_mechanism,
            username=settings.kafka_sasl_username,
            password=settings.kafka_sasl_password,
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context is not None else None
