"""The worker's one port on Kafka: a transactional producer per source partition (ADR 0006).

A transaction holds a batch's outputs, its dedupe entries and the source position, which is a record of
`media.index` on the partition number of the source. Taking a partition over fences its earlier owner
(`init_transactions`), reads that index partition to its end, read_committed, and so learns both what is
known and where to go on. The group's committed offsets are never the truth.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from pipeline.contract.ports import Fenced, Unavailable
from pipeline.contract.record import Record
from pipeline.kafka.clients import ISOLATION, client_config, largest_record_bytes, quiet
from pipeline.settings import Settings

INDEX: Final = "media.index"
TAKE_OVER_S: Final = 30.0
COMMIT_S: Final = 15.0
BACKOFF_S: Final = 0.2
MOST_REDONE: Final = 20
BATCH: Final = 2_000
POLL_S: Final = 0.05

PositionRecord = Callable[[int, int, int], Record]
PositionOf = Callable[[bytes], int]
"""Reads the next offset from the value of a position record."""


class Lanes:
    """Implements `Commits` on Kafka; each partition's methods may be called from a thread of its own."""

    def __init__(
        self,
        settings: Settings,
        position_record: PositionRecord,
        position_of: PositionOf,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._settings = settings
        self._position_record = position_record
        self._position_of = position_of
        self._now_ms = now_ms
        self._lanes: dict[int, _Lane] = {}

    def take_over(self, partition: int) -> int:
        """Fence any earlier owner of this source partition; return its next offset to read."""
        producer = Producer(
            client_config(
                self._settings,
                **{
                    "transactional.id": f"{self._settings.worker_group}-{partition}",
                    "transaction.timeout.ms": 60_000,
                    "enable.idempotence": True,
                    "acks": "all",
                    "linger.ms": 1,
                    "retry.backoff.ms": 10,
                    "message.max.bytes": largest_record_bytes(self._settings),
                    "queue.buffering.max.kbytes": 1024 * 1024,
                    "error_cb": quiet,
                },
            )
        )
        try:
            producer.init_transactions(TAKE_OVER_S)
        except KafkaException as error:
            raise Unavailable(f"can't take partition {partition} over: {error}") from None
        known = self._known_of(partition)
        position = known.get(self._position_key(partition))
        next_offset = 0 if position is None else self._position_of(position)
        self._lanes[partition] = _Lane(producer, known, self._settings.kafka_topic_prefix)
        return next_offset

    def release(self, partition: int) -> None:
        """Forget a partition that another worker owns now."""
        self._lanes.pop(partition, None)

    def known(self, partition: int, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return the committed index values of those keys that are known in this partition."""
        known = self._lanes[partition].known if partition in self._lanes else {}
        return {key: known[key] for key in keys if key in known}

    def commit(self, partition: int, records: Sequence[Record], next_offset: int) -> None:
        """Make all records and the position durable and visible at once, or raise `Fenced`."""
        lane = self._lanes.get(partition)
        if lane is None:
            raise Fenced(f"partition {partition} was not taken over")
        position = self._position_record(partition, next_offset, self._now_ms())
        everything = [*records, position]
        for _ in range(MOST_REDONE):
            if lane.transact(everything):
                lane.known.update(
                    {r.key: r.value for r in everything if r.topic == INDEX and r.value is not None}
                )
                return
            time.sleep(BACKOFF_S)
        raise Unavailable(f"partition {partition}: {MOST_REDONE} transactions were aborted")

    def _position_key(self, partition: int) -> bytes:
        return self._position_record(partition, 0, 0).key

    def _known_of(self, partition: int) -> dict[bytes, bytes]:
        """Return the latest value of every key of an index partition, read to its committed end."""
        known: dict[bytes, bytes] = {}
        for key, value in committed_values(self._settings, INDEX, partition):
            if value is None:
                known.pop(key, None)
            else:
                known[key] = value
        return known


class _Lane:
    """One transactional producer, and what is known in its index partition."""

    __slots__ = ("_prefix", "_producer", "known")

    def __init__(self, producer: Producer, known: dict[bytes, bytes], prefix: str) -> None:
        self._producer = producer
        self._prefix = prefix
        self.known = known

    def transact(self, records: Sequence[Record]) -> bool:
        """Return True when the transaction is committed, False when it was aborted; raise `Fenced`."""
        try:
            self._producer.begin_transaction()
            for record in records:
                self._produce(record)
            self._commit()
        except KafkaException as error:
            fault = error.args[0]
            if isinstance(fault, KafkaError) and fault.fatal():
                raise Fenced(str(fault)) from None
            self._abort()
            return False
        return True

    def _produce(self, record: Record) -> None:
        while True:
            try:
                self._producer.produce(
                    self._prefix + record.topic,
                    value=record.value,
                    key=record.key,
                    partition=record.partition,
                    timestamp=record.timestamp_ms,
                    headers=list(record.headers),
                )
            except BufferError:
                self._producer.poll(0.05)
            else:
                return

    def _commit(self) -> None:
        """Commit; the same commit is tried again while Kafka calls the error retriable."""
        while True:
            try:
                self._producer.commit_transaction(COMMIT_S)
            except KafkaException as error:
                if not error.args[0].retriable() or error.args[0].txn_requires_abort():
                    raise
            else:
                return

    def _abort(self) -> None:
        try:
            self._producer.abort_transaction(COMMIT_S)
        except KafkaException as error:
            raise Fenced(f"the abort failed too: {error}") from None


def committed_values(settings: Settings, topic: str, partition: int) -> Sequence[tuple[bytes, bytes | None]]:
    """Return key and value of every committed record of a partition that was there at the call.

    The deadline measures missing progress, not the whole time. Raises `Unavailable`.
    """
    consumer = Consumer(
        client_config(
            settings,
            **ISOLATION,
            **{
                "group.id": f"{settings.worker_group}-index",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "fetch.message.max.bytes": largest_record_bytes(settings),
                "error_cb": quiet,
            },
        )
    )
    found: list[tuple[bytes, bytes | None]] = []
    try:
        consumer.assign([TopicPartition(settings.kafka_topic_prefix + topic, partition, 0)])
        last_progress = time.monotonic()
        while True:
            messages = consumer.consume(BATCH, POLL_S)
            for message in messages:
                if _is_end(message):
                    return found
                found.append((bytes(message.key() or b""), message.value()))
            if messages:
                last_progress = time.monotonic()
            elif time.monotonic() - last_progress > TAKE_OVER_S:
                raise Unavailable(f"{topic} {partition} gives nothing and has no end")
    finally:
        consumer.close()


def _is_end(message: Message) -> bool:
    error = message.error()
    if error is None:
        return False
    if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the library's public name of it
        return True
    raise Unavailable(f"can't read the index: {error}")
