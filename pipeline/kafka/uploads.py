"""The ingest's producer: a record is stored when every in-sync replica has acknowledged it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer

from pipeline.contract.ports import NeverTaken, Unavailable
from pipeline.contract.record import Record
from pipeline.kafka.clients import client_config, largest_record_bytes, quiet
from pipeline.settings import Settings

POLL_S: Final = 0.001
"""How often the event loop asks for acknowledgements while it waits for some."""
FLUSH_S: Final = 10.0
FRESH_S: Final = 5.0
"""How long a failed delivery makes the ingest not ready, when nothing was delivered since."""


_FINAL: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.RECORD_LIST_TOO_LARGE,
    }
)
"""What a broker (or the client) answers to a record that it will never take."""


class _Fault(NamedTuple):
    """Why one record was not stored."""

    text: str
    is_final: bool


def _fault(error: KafkaError) -> _Fault:
    return _Fault(str(error), error.code() in _FINAL)


class UploadProducer:
    """Implements `UploadSink` on one idempotent producer, polled by the event loop.

    Acknowledgements then arrive on the loop's own thread: nothing is handed over between threads.
    """

    def __init__(self, settings: Settings, monotonic: Callable[[], float]) -> None:
        self._config = client_config(
            settings,
            **{
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 1,
                "compression.type": "lz4",
                "message.timeout.ms": settings.ingest_ack_deadline_ms,
                "message.max.bytes": largest_record_bytes(settings),
                "queue.buffering.max.kbytes": 256 * 1024,
                "error_cb": quiet,
            },
        )
        self._prefix = settings.kafka_topic_prefix
        self._monotonic = monotonic
        self._producer = Producer(self._config)
        self._failed_at: float | None = None
        self._is_closed = False
        self._polled_by: asyncio.AbstractEventLoop | None = None

    async def store(self, records: Sequence[Record]) -> None:
        """Return when all records are acknowledged by all in-sync replicas, or raise `Unavailable`."""
        loop = asyncio.get_running_loop()
        waiting = [self._produced(record, loop) for record in records]
        faults = {place: fault for place, fault in enumerate(await asyncio.gather(*waiting)) if fault}
        passing = [fault.text for fault in faults.values() if not fault.is_final]
        if passing:
            self._failed_at = self._monotonic()
            stored = [place for place in range(len(records)) if place not in faults]
            raise Unavailable(f"not acknowledged: {passing[0]}", stored)
        self._failed_at = None
        if faults:
            raise NeverTaken(next(iter(faults.values())).text, [*faults])

    def is_ready(self) -> bool:
        """Return whether the last delivery went well (or nothing failed lately); produces nothing."""
        if self._is_closed:
            return False
        return self._failed_at is None or self._monotonic() - self._failed_at > FRESH_S

    def close(self) -> None:
        """Deliver what waits, then stop."""
        self._is_closed = True
        self._producer.flush(FLUSH_S)

    def _produced(self, record: Record, loop: asyncio.AbstractEventLoop) -> asyncio.Future[_Fault | None]:
        future: asyncio.Future[_Fault | None] = loop.create_future()

        def settle(error: _Fault | None) -> None:
            # The loop may be gone when a service that stops gives up on what Kafka never answered.
            if not future.done() and not loop.is_closed():
                future.set_result(error)

        def delivered(error: Any, _message: Any) -> None:
            settle(None if error is None else _fault(error))

        try:
            self._producer.produce(
                self._prefix + record.topic,
                value=record.value,
                key=record.key,
                partition=record.partition,
                timestamp=record.timestamp_ms,
                headers=list(record.headers),
                on_delivery=delivered,
            )
        except KafkaException as error:
            settle(_fault(error.args[0]))
            if error.args[0].fatal():  # an identity that is spent: only a new producer helps
                self._producer = Producer(self._config)
        except BufferError as error:
            settle(_Fault(str(error), is_final=False))
        if self._polled_by is not loop:
            self._poll(loop)
        return future

    def _poll(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take acknowledgements until none is awaited."""
        self._producer.poll(0)
        if len(self._producer):
            self._polled_by = loop
            loop.call_later(POLL_S, self._poll, loop)
        else:
            self._polled_by = None
