"""The worker on Kafka: Faust brings the records and the rebalances, the lanes make them count once.

The pattern is the measured one (ADR 0005): raw bytes in, `noack_take`, a consumer that never commits and
seeks to the positions of our own index, one transaction per source partition and batch. Faust's offsets,
tables, web server and producer are not used. Whatever is not the data's fault ends the process: what
restarts it makes the worker take its partitions over again and read the batch again.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, Final

import faust
import structlog
from faust.exceptions import AlreadyConfiguredWarning
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from pipeline.contract.ports import PositionUnusable, Unavailable
from pipeline.kafka.lanes import Lanes
from pipeline.metrics import Meters
from pipeline.settings import Settings
from pipeline.topology import UPLOADS, Topology
from pipeline.traces import OFF, Traces
from pipeline.worker.carrier import Carrier, Ending
from pipeline.worker.ownership import Ownership
from pipeline.worker.progress import Progress
from pipeline.worker.waiting import waits_of

_log = structlog.get_logger("pipeline.worker")

WITHIN_S: Final = 0.02
TAKEN_AT_ONCE: Final = 200
OBSERVE_S: Final = 1.0
ADVISE_S: Final = 5.0
NEVER_S: Final = 86_400.0
STOP_S: Final = 25.0
"""How long an orderly stop may take: less than the 30 s after which supervisors kill."""
REQUEST_S: Final = 90.0
BUFFERED: Final = 4096
BUFFERED_LEAST: Final = 100
BUFFERED_BYTES: Final = 2 * 1024**3
"""What Faust's buffer may hold if every upload in it is as large as a body may be."""


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

    async def on_partitions_assigned(self, assigned: Any, generation_id: int = 0) -> None:
        """Give the take-over all the time that it needs: its own deadline measures progress."""
        # Faust ends its recovery in silence when `perform_seek` outlasts this setting. aiokafka has
        # copied its value before, for its requests.
        with warnings.catch_warnings(action="ignore", category=AlreadyConfiguredWarning):
            self.app.conf.broker_request_timeout = NEVER_S
        if not assigned:  # Faust seeks only where there is something to seek; what was owned must be let go
            await self._take_over(generation_id, [])
        await super().on_partitions_assigned(assigned, generation_id)

    async def perform_seek(self) -> None:
        """Take the assigned partitions over and seek; called again in one generation, rewind."""
        ownership: Ownership = self.app.pipeline_ownership
        generation = self.app.consumer_generation_id
        assigned = sorted(tp.partition for tp in self.assignment())
        await self._take_over(generation, assigned)
        # A repeated call in one generation rewinds: records fetched while the flow was stopped were thrown
        # away, so an early return would lose them.
        if self.app.consumer_generation_id != generation or ownership.generation != generation:
            return
        topic = self.app.pipeline_topic
        await self.seek_wait({TP(topic, p): ownership.expected[p] for p in assigned})

    async def _take_over(self, generation: int, partitions: list[int]) -> None:
        try:
            await self.app.pipeline_ownership.taken(generation, partitions)
        except PositionUnusable as error:
            self.app.end(Ending.UNFIT, "position_unusable", error)
        except Exception as error:  # noqa: BLE001 - Faust's recovery would end silently, whatever it was
            self.app.end(Ending.STUCK, "take_over_failed", error)
        self.app.pipeline_progress.rest(time.monotonic())  # Faust's timers begin after the first take-over


class Transport(driver.Transport):  # type: ignore[misc]  # as above
    """Faust's aiokafka transport with our consumer."""

    Consumer = TransactionalConsumer


class App(faust.App):  # type: ignore[misc]  # as above
    """A Faust app on our transport."""

    pipeline_ownership: Ownership
    pipeline_progress: Progress
    pipeline_topic: str

    def _new_transport(self) -> Any:
        return Transport(self.conf.broker_consumer, self)

    def is_flowing(self) -> bool:
        """Return whether neither a stop nor a rebalance waits for the batch in hand."""
        return bool(self.consumer.flow_active and not self.should_stop)

    def let_go(self, message: Any) -> None:
        """Let go of a message: a stop or a rebalance need not wait for it."""
        message.ack(self.consumer)

    def end(self, ending: Ending, event: str, error: object, **members: object) -> Any:
        """End the process at once: nothing of the batch in hand is committed.

        One that stops in the middle of a rebalance may be fenced before its last batch is committed. The new
        owner carries that, and the process ends as it was asked to: with 0.
        """
        is_asked = ending is Ending.FENCED and self.should_stop
        code = 0 if is_asked else ending.value
        log = _log.warning if is_asked else _log.error
        log(event, **members, error=str(error) or repr(error), exit_code=code)
        os._exit(code)


class Worker(faust.Worker):  # type: ignore[misc]  # as above
    """A Faust worker that ends in time once it is told to.

    A stop that meets Faust in the middle of its start may wait long (met: for its consumer's thread), and
    nothing that looks for progress was started then. What is not committed is read again.
    """

    def _schedule_shutdown(self, signal: Any) -> None:
        late = threading.Timer(STOP_S, self._end_late)
        late.daemon = True
        late.start()
        super()._schedule_shutdown(signal)

    def _end_late(self) -> None:
        told = f"it was told to stop {STOP_S:g} s ago"
        try:
            waits = waits_of(self.loop)
            # Faust's consumer has a loop of its own.
            thread = getattr(getattr(self.app, "_consumer", None), "_thread", None)
            if thread is not None:
                waits += [f"consumer: {wait}" for wait in waits_of(thread.thread_loop)]
        except Exception as error:  # noqa: BLE001 - it must end, whatever can be told
            waits = [repr(error)]
        self.app.end(Ending.STUCK, "not_stopped", told, waits=waits)


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
        # Faust refuses a session longer than a request may take, which is its default otherwise.
        broker_request_timeout=max(REQUEST_S, settings.worker_session_timeout_s + 10.0),
        broker_heartbeat_interval=max(1.0, settings.worker_session_timeout_s / 3),
        stream_buffer_maxsize=buffered_messages(settings),
        # A rebalance waits for the batch in hand: without that it would be fenced by our own take-over.
        stream_wait_empty=True,
        env={},  # Faust lets environment variables win over all of these
        worker_redirect_stdouts=False,
        worker_hijack_root_logger=False,
    )
    app.pipeline_ownership = ownership = Ownership(lanes)
    app.pipeline_progress = progress
    app.pipeline_topic = settings.kafka_topic_prefix + UPLOADS
    source = app.topic(app.pipeline_topic, key_type=bytes, value_type=bytes)
    carrier = Carrier(
        settings, topology, ownership, meters, now_ms, app.end, app.is_flowing, app.let_go, traces
    )

    @app.agent(source, name="uploads")  # type: ignore[untyped-decorator]  # as above
    async def uploads(stream: Any) -> None:
        async for batch in stream.noack_take(TAKEN_AT_ONCE, within=WITHIN_S):
            await carrier.take([event.message for event in batch], app.consumer_generation_id)

    @app.timer(interval=OBSERVE_S)  # type: ignore[untyped-decorator]  # as above
    async def observe() -> None:
        observe_progress(app, meters, progress)
        # Not in the lanes' pool: a long take-over fills it, and this timer is what says that it goes on.
        sizes = await asyncio.get_running_loop().run_in_executor(None, lanes.sizes)
        meters.replace("pipeline_index_entries", {str(p): size.entries for p, size in sizes.items()})
        meters.set("pipeline_index_bytes", sum(size.bytes for size in sizes.values()))

    turns = itertools.count()

    @app.timer(interval=OBSERVE_S)  # type: ignore[untyped-decorator]  # as above
    async def forget() -> None:
        partitions = sorted(ownership.committed)
        if partitions:  # one at a time, since each waits for its commit in hand
            partition = partitions[next(turns) % len(partitions)]
            try:
                await asyncio.get_running_loop().run_in_executor(ownership.pool, lanes.sweep, partition)
            except Unavailable as error:
                app.end(Ending.STUCK, "index_store_unusable", error, partition=partition)

    @app.timer(interval=ADVISE_S)  # type: ignore[untyped-decorator]  # as above
    async def advise() -> None:
        await asyncio.get_running_loop().run_in_executor(None, lanes.advise, dict(ownership.committed))

    return app


def buffered_messages(settings: Settings) -> int:
    """Return how many uploads Faust may read ahead: it counts them, so bytes are bounded by the largest."""
    return max(BUFFERED_LEAST, min(BUFFERED, BUFFERED_BYTES // settings.ingest_body_limit_bytes))


def observe_progress(app: App, meters: Meters, progress: Progress) -> None:
    """Measure lag, where it is known, and progress; `watch` ends a worker that makes none."""
    ownership = app.pipeline_ownership
    positions = dict(ownership.committed)
    now = time.monotonic()
    if ownership.generation is None:
        progress.rest(now)  # a take-over has a deadline of its own
        return
    lag, waiting = {}, {}
    for partition, position in positions.items():
        try:
            end = app.consumer.highwater(TP(app.pipeline_topic, partition))
        except AssertionError:  # aiokafka's way to say that a rebalance has just taken the partition
            progress.rest(now)
            return
        # None until the first answer to a fetch, which an idle partition gets as well: what never gets one
        # must not look idle.
        waiting[partition] = 1 if end is None else max(0, end - position)
        if end is not None:
            lag[partition] = waiting[partition]
    meters.replace("pipeline_partition_lag_records", {str(p): number for p, number in lag.items()})
    meters.set("pipeline_lag_records", sum(lag.values()))
    progress.observe(now, positions, waiting)


def credentials(settings: Settings) -> Any:
    """Return Faust's credentials for the broker, or None for a plain connection."""
    import ssl

    protocol = settings.kafka_security_protocol.upper()
    context = None
    if protocol.endswith("SSL"):
        context = ssl.create_default_context(cafile=settings.kafka_ca_file or None)
        if settings.kafka_cert_file:
            context.load_cert_chain(settings.kafka_cert_file, settings.kafka_key_file)
    if protocol.startswith("SASL"):
        return faust.SASLCredentials(
            mechanism=settings.kafka_sasl_mechanism,
            username=settings.kafka_sasl_username,
            password=settings.kafka_sasl_password,
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context is not None else None
