"""One transactional producer: all records of a commit become visible at once, or none (ADR 0006)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from pipeline.contract.ports import Fenced, NeverTaken, Unavailable
from pipeline.contract.record import Record
from pipeline.kafka.clients import NEVER_TAKEN, client_config, largest_record_bytes, quiet
from pipeline.settings import Settings

FENCE_S: Final = 30.0
COMMIT_S: Final = 15.0
GIVEN_UP_S: Final = 120.0
"""How long one commit is tried; a worker's own deadline is shorter."""
BACKOFF_S: Final = 0.2
MOST_REDONE: Final = 20

_PURGED: Final = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})  # noqa: SLF001 - public names


class Transactions:
    """The transactions of one id; whoever made one with this id before is fenced."""

    def __init__(self, settings: Settings, transactional_id: str) -> None:
        """Fence the earlier owner of the id and end what it left open, or raise `Unavailable`."""
        self._prefix = settings.kafka_topic_prefix
        self._last_offset: int | None = None
        self._faults: list[KafkaError] = []
        self._producer = Producer(
            client_config(
                settings,
                **{
                    "transactional.id": transactional_id,
                    "transaction.timeout.ms": 60_000,
                    "enable.idempotence": True,
                    "acks": "all",
                    "linger.ms": 1,
                    "compression.type": "lz4",
                    "retry.backoff.ms": 10,
                    "message.max.bytes": largest_record_bytes(settings),
                    "queue.buffering.max.kbytes": 1024 * 1024,
                    "error_cb": quiet,
                },
            )
        )
        try:
            self._producer.init_transactions(FENCE_S)
        except KafkaException as error:
            raise Unavailable(f"can't fence the owner of {transactional_id}: {error}") from None

    def commit(self, records: Sequence[Record]) -> int:
        """Make all records visible at once; return the offset after the last one in its partition.

        Raises `Fenced`, `NeverTaken` when client or broker refuse a record for good, or `Unavailable`; after
        any of them nothing is visible, but where Kafka does not say whether, or where, it was committed.
        """
        why: object = None
        for _ in range(MOST_REDONE):
            why = self._transact(records)
            if why is None:
                if self._last_offset is None:
                    raise Unavailable("Kafka took a transaction and did not say at which offset")
                return self._last_offset + 1
            time.sleep(BACKOFF_S)
        raise Unavailable(f"{MOST_REDONE} transactions were aborted, the last one by: {why}")

    def _transact(self, records: Sequence[Record]) -> object:
        """Return why the transaction was aborted, None when it was committed."""
        self._last_offset, self._faults = None, []
        try:
            self._producer.begin_transaction()
            for record in records[:-1]:
                self._produce(record, on_delivery=self._reported)
            self._produce(records[-1], on_delivery=self._delivered)
            self._commit()
        except KafkaException as error:
            fault = error.args[0]
            if isinstance(fault, KafkaError) and fault.fatal():
                raise Fenced(str(fault)) from None
            self._abort()
            # A record that the broker refuses fails the transaction: what is produced after that is told of
            # a wrong state only. The records' own reports are all there once it is aborted.
            faults = [*self._faults, fault]
            for each in faults:
                if isinstance(each, KafkaError) and each.code() in NEVER_TAKEN:
                    raise NeverTaken(str(each), ()) from None
            return faults[0]
        return None

    def _reported(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None and error.code() not in _PURGED:
            self._faults.append(error)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        self._reported(error, message)
        if error is None:
            self._last_offset = message.offset()

    def _produce(self, record: Record, **more: Any) -> None:
        while True:
            try:
                self._producer.produce(
                    self._prefix + record.topic,
                    value=record.value,
                    key=record.key,
                    partition=record.partition,
                    timestamp=record.timestamp_ms,
                    headers=list(record.headers) or None,
                    **more,
                )
            except BufferError:
                self._producer.poll(0.05)
            else:
                return

    def _commit(self) -> None:
        """Commit; the same commit is tried again for a while where Kafka calls the error retriable."""
        end = time.monotonic() + GIVEN_UP_S
        while True:
            try:
                self._producer.commit_transaction(COMMIT_S)
            except KafkaException as error:
                if not error.args[0].retriable() or error.args[0].txn_requires_abort():
                    raise
                if time.monotonic() > end:
                    raise Unavailable(
                        f"the brokers don't say whether a transaction was committed: {error.args[0].str()}"
                    ) from None
            else:
                return

    def _abort(self) -> None:
        try:
            self._producer.abort_transaction(COMMIT_S)
        except KafkaException as error:
            kind = Fenced if error.args[0].fatal() else Unavailable
            raise kind(f"the abort of a transaction failed, too: {error.args[0].str()}") from None
