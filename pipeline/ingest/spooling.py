"""Kafka first, the spool when Kafka does not acknowledge in time, and the way back (DESIGN.md 2.1).

`SpooledSink` is what the door stores through; `Forwarder` drains the spool in order when Kafka is back.
Late acknowledgements and forwarded copies have one upload id: the worker counts the second as redelivered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol

import structlog

from pipeline.contract.partition import partition_of
from pipeline.contract.ports import NeverTaken, Unavailable, UploadSink
from pipeline.contract.record import Record
from pipeline.log.spool import Spool, Totals, Waiting
from pipeline.metrics import Meters

_log = structlog.get_logger("pipeline.ingest")

BREAKER_S: Final = 2.0
"""After a failure uploads go straight to the spool for so long, so that answers stay quick."""
FORWARD_RECORDS: Final = 500
FORWARD_BYTES: Final = 8 * 1024 * 1024
RETRY_S: Final = 1.0
IDLE_S: Final = 0.2


class SpooledSink:
    """Implements `UploadSink`: durable in Kafka, or in the spool, or `Unavailable`."""

    def __init__(
        self,
        kafka: UploadSink,
        spool: UploadSink,
        meters: Meters,
        ack_deadline_s: float,
        monotonic: Callable[[], float],
    ) -> None:
        self._kafka = kafka
        self._spool = spool
        self._meters = meters
        self._ack_deadline_s = ack_deadline_s
        self._monotonic = monotonic
        self._open_until = 0.0

    async def store(self, records: Sequence[Record]) -> None:
        """Return when all records are durable in one of the two places, or raise `Unavailable`."""
        left = list(records)
        if self._monotonic() >= self._open_until:
            try:
                async with asyncio.timeout(self._ack_deadline_s):
                    await self._kafka.store(records)
            except (Unavailable, TimeoutError) as error:
                self._open_until = self._monotonic() + BREAKER_S
                stored = error.stored if isinstance(error, Unavailable) else frozenset()
                left = [record for place, record in enumerate(records) if place not in stored]
                _log.warning("spooling", reason=repr(error))
            except NeverTaken as error:
                left = [records[place] for place in sorted(error.refused)]
                _log.error("refused_by_kafka", reason=str(error))
            else:
                return
        await self._spool.store(left)
        self._meters.count("pipeline_spooled_total", by=len(left))


class Source(Protocol):
    """What the forwarder needs of a spool."""

    @property
    def totals(self) -> Totals:
        """What it holds."""

    def oldest(self, limit: int, without: Collection[int] = ()) -> list[Waiting]:
        """Return the records that have waited longest, of all but these partitions."""

    def remove(self, numbers: Sequence[int]) -> None:
        """Forget records that Kafka has acknowledged."""

    def set_aside(self, number: int, reason: str) -> None:
        """Keep a record that Kafka refuses for good out of the way."""


class Forwarder:
    """Drains spools into Kafka, the process's own and the adopted ones, in order of arrival."""

    def __init__(
        self, kafka: UploadSink, spools: Sequence[Spool], meters: Meters, partitions: int | None = None
    ) -> None:
        self._partitions = partitions
        self._kafka = kafka
        self._spools = list(spools)
        self._meters = meters
        self._measure()

    async def run(self) -> None:
        """Forward until cancelled; while Kafka is away, try again every second."""
        while True:
            try:
                forwarded = await self.forward_once()
            except Unavailable as error:
                _log.warning("not_forwarded", reason=str(error))
                await asyncio.sleep(RETRY_S)
            else:
                if not forwarded:
                    await asyncio.sleep(IDLE_S)

    async def forward_once(self) -> int:
        """Forward what waits; return how many records left, or raise `Unavailable` when none could."""
        gone = 0
        failure: Unavailable | None = None
        for spool in self._spools:
            stuck: set[int] = set()
            """Partitions that Kafka does not take now: the others go on, each in its order."""
            while batch := _bounded(await asyncio.to_thread(spool.oldest, FORWARD_RECORDS, stuck)):
                try:
                    gone += await self._forward(spool, batch)
                except Unavailable as error:
                    failure = error
                    gone += await self._forwarded(spool, [batch[place] for place in sorted(error.stored)])
                    stuck |= {w.record.partition for p, w in enumerate(batch) if p not in error.stored}
                self._measure()
        if failure is not None and not gone:
            raise failure
        return gone

    @property
    def waiting(self) -> int:
        """How many records wait in all spools."""
        return sum(spool.totals.records for spool in self._spools)

    async def _forward(self, spool: Source, batch: Sequence[Waiting]) -> int:
        """Forward a batch; what Kafka never takes is set aside. Return how many records left."""
        refused: frozenset[int] = frozenset()
        try:
            await self._kafka.store([self._placed(waiting.record) for waiting in batch])
        except NeverTaken as error:
            refused = error.refused
            for place in sorted(refused):
                await asyncio.to_thread(spool.set_aside, batch[place].number, str(error))
                self._meters.count("pipeline_set_aside_total")
                _log.error("set_aside", number=batch[place].number, reason=str(error))
        await self._forwarded(spool, [w for place, w in enumerate(batch) if place not in refused])
        return len(batch)

    def _placed(self, record: Record) -> Record:
        """Return the record for the partition that it has today: topics may have been migrated meanwhile."""
        if self._partitions is None:
            return record
        return record._replace(partition=partition_of(record.key, self._partitions))

    async def _forwarded(self, spool: Source, taken: Sequence[Waiting]) -> int:
        if taken:
            await asyncio.to_thread(spool.remove, [waiting.number for waiting in taken])
            self._meters.count("pipeline_forwarded_total", by=len(taken))
        return len(taken)

    def _measure(self) -> None:
        totals = [spool.totals for spool in self._spools]
        self._meters.set("pipeline_spool_records", sum(t.records for t in totals))
        self._meters.set("pipeline_spool_bytes", sum(t.bytes for t in totals))
        self._meters.set("pipeline_spool_set_aside_records", sum(t.set_aside for t in totals))


def _bounded(batch: Sequence[Waiting]) -> Sequence[Waiting]:
    """Return the first records of the batch, up to a bound of bytes, at least one."""
    size = 0
    for index, waiting in enumerate(batch):
        size += len(waiting.record.value or b"")
        if size > FORWARD_BYTES and index:
            return batch[:index]
    return batch
