"""The ingest's producer: a record is stored when every in-sync replica has acknowledged it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer

from pipeline.contract.ports import NeverTaken, Unavailable
from pipeline.contract.record import Record
from pipeline.kafka.clients import NEVER_TAKEN, client_config, largest_record_bytes, quiet
from pipeline.settings import Settings
from pipeline.topology import UPLOADS

POLL_S: Final = 0.001
"""How often the event loop asks for acknowledgements while it waits for some."""
LINGER_MS: Final = 5
"""Uploads are keyed over many partitions: with 1 ms nearly each is a batch of its own, a fifth more CPU."""
FLUSH_S: Final = 10.0
QUEUE_BYTES: Final = 64 * 1024 * 1024
LOOK_S: Final = 2.0
FRESH_S: Final = 10.0
"""How long an acknowledgement, or else an answer of the cluster, lets Kafka count as ready."""


_SPENT: Final = frozenset(
    {
        KafkaError._FATAL,  # noqa: SLF001 - the public name of librdkafka's own codes begins so
        KafkaError._FENCED,  # noqa: SLF001 - as above
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
        KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
        KafkaError.UNKNOWN_PRODUCER_ID,
        KafkaError.PRODUCER_FENCED,
    }
)
"""Errors of a producer whose identity is spent: only a new one stores anything again."""


def queue_bytes(settings: Settings) -> int:
    """Return what may wait for Kafka, two of the largest records at least; beyond it uploads are spooled."""
    return max(QUEUE_BYTES, 2 * largest_record_bytes(settings))


class _Fault(NamedTuple):
    """Why one record was not stored."""

    text: str
    is_final: bool


_LATE: Final = _Fault("no acknowledgement in time", is_final=False)
_Future = asyncio.Future[_Fault | None]


class UploadProducer:
    """Implements `UploadSink` on one idempotent producer, polled by the event loop.

    Acknowledgements then arrive on the loop's own thread: nothing is handed over between threads. Every
    `store` ends within the acknowledgement deadline. A producer whose identity is spent is replaced; uploads
    need no order among them, and what it still held counts as not stored.
    """

    def __init__(self, settings: Settings, monotonic: Callable[[], float]) -> None:
        self._deadline_s = settings.ingest_ack_deadline_ms / 1000
        self._config = client_config(
            settings,
            **{
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": LINGER_MS,
                "compression.type": "lz4",
                "message.timeout.ms": settings.ingest_ack_deadline_ms,
                "message.max.bytes": largest_record_bytes(settings),
                "queue.buffering.max.kbytes": queue_bytes(settings) // 1024,
                "error_cb": quiet,
            },
        )
        self._topics = {UPLOADS: settings.kafka_topic_prefix + UPLOADS}
        self._prefix = settings.kafka_topic_prefix
        self._monotonic = monotonic
        self._producer = Producer(self._config)
        self._retired: list[Producer] = []
        self._pending: deque[tuple[float, _Future]] = deque()
        self._queued: list[tuple[Record, _Future]] = []
        """What `store` was given in this turn of the loop."""
        self._seen_at: float | None = None
        self._failed_at: float | None = None
        self._is_closed = False
        self._is_spent = False
        self._produced_by: asyncio.AbstractEventLoop | None = None
        self._polled_by: asyncio.AbstractEventLoop | None = None

    async def store(self, records: Sequence[Record]) -> None:
        """Return when all records are acknowledged by all in-sync replicas, or raise `Unavailable`."""
        loop = asyncio.get_running_loop()
        now = self._monotonic()
        waiting = [self._queue(record, loop, now + self._deadline_s) for record in records]
        faults: dict[int, _Fault] = {}
        for place, future in enumerate(waiting):
            fault = await future
            if fault is not None:
                faults[place] = fault
        if not faults:
            self._failed_at, self._seen_at = None, now
            return
        passing = [fault.text for fault in faults.values() if not fault.is_final]
        if passing:
            self._failed_at = self._monotonic()
            stored = [place for place in range(len(records)) if place not in faults]
            raise Unavailable(f"not acknowledged: {passing[0]}", stored)
        self._failed_at, self._seen_at = None, now
        raise NeverTaken(next(iter(faults.values())).text, [*faults])

    def is_ready(self) -> bool:
        """Return whether a record could be stored now, by the last sign of the cluster; produces nothing."""
        if self._is_closed or self._failed_at is not None or self._seen_at is None:
            return False
        return self._monotonic() - self._seen_at < FRESH_S

    async def watch(self) -> None:
        """Ask the cluster for the topic when nothing was acknowledged lately, until cancelled."""
        while True:
            if not self.is_ready():
                with contextlib.suppress(KafkaException):
                    asked = partial(self._producer.list_topics, self._topics[UPLOADS], timeout=LOOK_S)
                    found = await asyncio.to_thread(asked)
                    topic = found.topics.get(self._topics[UPLOADS])
                    if topic is not None and topic.error is None:
                        self._saw(self._monotonic())
            await asyncio.sleep(LOOK_S)

    def _saw(self, now: float) -> None:
        """Take an answer of the cluster for a sign that it stores, unless storing failed a moment ago."""
        if self._failed_at is None or now - self._failed_at > FRESH_S:
            self._failed_at, self._seen_at = None, now

    def close(self) -> None:
        """Deliver what waits, then stop."""
        self._is_closed = True
        with contextlib.suppress(KafkaException):  # a spent one delivers nothing more
            self._producer.flush(FLUSH_S)

    def _queue(self, record: Record, loop: asyncio.AbstractEventLoop, due: float) -> _Future:
        """Produce the record at the end of this turn of the loop, with all others of the turn.

        A record that is the first of its partition wakes librdkafka's thread: behind each other they wake it
        once, with a request's work between them each of them would.
        """
        if self._produced_by is not loop:
            self._produced_by = loop
            loop.call_soon(self._produce_queued, loop)
        future: _Future = loop.create_future()
        self._pending.append((due, future))
        self._queued.append((record, future))
        return future

    def _produce_queued(self, loop: asyncio.AbstractEventLoop) -> None:
        self._produced_by = None
        queued, self._queued = self._queued, []
        for record, future in queued:
            if not future.done():  # its request was given up in this very turn
                self._produce(record, future)
        if self._polled_by is not loop:
            self._polled_by = loop
            loop.call_later(POLL_S, self._poll, loop)

    def _produce(self, record: Record, future: _Future) -> None:
        topic = self._topics.get(record.topic) or self._prefix + record.topic
        try:
            self._producer.produce(
                topic,
                record.value,
                record.key,
                record.partition,
                partial(self._delivered, future),
                timestamp=record.timestamp_ms,
                headers=list(record.headers) or None,
            )
        except KafkaException as error:
            self._delivered(future, error.args[0], None)
        except BufferError as error:
            future.set_result(_Fault(str(error), is_final=False))
        except Exception as error:  # noqa: BLE001 - it is the one who stores that must hear of it
            future.set_exception(error)

    def _delivered(self, future: _Future, error: Any, _message: Any) -> None:
        if error is not None and error.code() in _SPENT:
            self._is_spent = True
        # The loop may be gone when a service that stops gives up on what Kafka never answered.
        if not future.done() and not future.get_loop().is_closed():
            future.set_result(None if error is None else _Fault(str(error), error.code() in NEVER_TAKEN))

    def _poll(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take acknowledgements, give up on late ones, and come again until none is awaited."""
        for producer in (self._producer, *self._retired):
            try:
                producer.poll(0)
            except KafkaException:  # a fatal error: that producer is of no more use
                self._is_spent = self._is_spent or producer is self._producer
        if self._is_spent:
            self._replace(loop)
        now = self._monotonic()
        pending = self._pending
        while pending and (pending[0][1].done() or pending[0][0] <= now):
            future = pending.popleft()[1]
            if not future.done():
                future.set_result(_LATE)
        if pending or self._retired:
            loop.call_later(POLL_S, self._poll, loop)
        else:
            self._polled_by = None

    def _replace(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin with a new producer; the old one gives up what it held, and ends when that is told."""
        self._is_spent = False
        self._producer.purge(blocking=False)
        self._retired.append(self._producer)
        self._producer = Producer(self._config)
        loop.call_later(self._deadline_s, self._end_retired, loop)

    def _end_retired(self, loop: asyncio.AbstractEventLoop) -> None:
        ended, self._retired = self._retired, []
        if not loop.is_closed():
            loop.run_in_executor(None, ended.clear)  # ending one waits for its threads
