"""Kafka first, the spool when Kafka does not acknowledge in time, and the way back (DESIGN.md 2.1).

`SpooledSink` is what the door stores through; `Forwarder` drains the spools in order when Kafka is back.
Late acknowledgements and forwarded copies have one upload id: the worker counts the second as redelivered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final, NamedTuple, Protocol

import structlog

from pipeline.contract.ports import NeverTaken, Unavailable, UploadSink
from pipeline.contract.record import Record
from pipeline.ingest.limits import LATEST_ANSWER_S
from pipeline.log.spool import Totals, Waiting
from pipeline.metrics import Meters

_log = structlog.get_logger("pipeline.ingest")

FORWARD_RECORDS: Final = 500
FORWARD_BYTES: Final = 8 * 1024 * 1024
RETRY_S: Final = 1.0
IDLE_S: Final = 0.2
ADOPT_S: Final = 5.0
"""How often a running process looks for spools that dead ones have left behind."""


class SpooledSink:
    """Implements `UploadSink`: durable in Kafka, or in the spool, or `Unavailable`.

    Kafka's producer keeps to the acknowledgement deadline by itself, the spool to `spool_deadline_s`. A
    partition that did not acknowledge in time is stalled, or all are, when Kafka took nothing else meanwhile:
    such uploads go straight to the spool, so that answers stay quick and nothing piles up, until the
    forwarder has got one of them through. Whatever is tried, `store` ends within `LATEST_ANSWER_S`.
    """

    def __init__(
        self,
        kafka: UploadSink,
        spool: UploadSink,
        meters: Meters,
        spool_deadline_s: float,
        is_framed: Callable[[Record], bool] = lambda _record: True,
    ) -> None:
        self._kafka = kafka
        self._spool = spool
        self._meters = meters
        self._spool_deadline_s = spool_deadline_s
        self._is_framed = is_framed
        self._stalled: set[int] = set()
        self._is_all_stalled = False
        self._taken = 0
        """How often Kafka took something: whether it did while another upload waited in vain."""

    async def store(self, records: Sequence[Record]) -> None:
        """Return when all records are durable in one of the two places, or raise `Unavailable`."""
        stalled, is_framed = self._stalled, self._is_framed
        everything = self._is_all_stalled
        kept = [r for r in records if everything or r.partition in stalled or not is_framed(r)]
        began = asyncio.get_running_loop().time() if kept else 0.0
        tried = _without(records, kept) if kept else records
        missed = await self._missed(tried) if tried else ()
        if not kept and not missed:
            return
        left = _without(records, _without(tried, missed))
        try:
            async with asyncio.timeout(self._spool_deadline_s):
                await self._spool.store(left)
        except (Unavailable, TimeoutError) as error:
            # Then a stalled partition is tried after all: it may be well, and nobody else would find out.
            _log.error("not_spooled", reason=repr(error))
            if missed or not all(map(self._is_framed, kept)) or await self._still_missed(kept, began):
                raise
            self.resume({record.partition for record in kept})
        else:
            self._meters.count("pipeline_spooled_total", by=len(left))

    async def _still_missed(self, kept: Sequence[Record], began: float) -> bool:
        """Give Kafka what was meant for the spool; return whether it has not taken it in the time left."""
        try:
            async with asyncio.timeout_at(began + LATEST_ANSWER_S):
                return bool(await self._missed(kept))
        except TimeoutError:
            return True

    def resume(self, partitions: Collection[int]) -> None:
        """Go back to Kafka with these partitions: it has just stored something there."""
        if partitions and (self._is_all_stalled or self._stalled & {*partitions}):
            self._is_all_stalled = False
            self._stalled -= {*partitions}
            _log.info("resumed", stalled=len(self._stalled))

    async def _missed(self, records: Sequence[Record]) -> Sequence[Record]:
        """Give records to Kafka; return those that it has not, and remember their partitions."""
        taken = self._taken
        try:
            await self._kafka.store(records)
        except Unavailable as error:
            missed = [record for place, record in enumerate(records) if place not in error.stored]
            stalled = {record.partition for record in missed} - self._stalled
            everything = not error.stored and self._taken == taken
            if stalled or everything > self._is_all_stalled:
                self._stalled |= stalled
                self._is_all_stalled |= everything
                _log.warning("spooling", reason=str(error), stalled=len(self._stalled), all=everything)
            return missed
        except NeverTaken as error:
            _log.error("refused_by_kafka", reason=str(error))
            return [records[place] for place in sorted(error.refused)]
        self._taken += 1
        return ()


def _without(records: Sequence[Record], others: Sequence[Record]) -> list[Record]:
    """Return those of the records, in order, that are not among the others (the very same objects)."""
    gone = set(map(id, others))
    return [record for record in records if id(record) not in gone]


class Source(Protocol):
    """What the forwarder needs of a spool."""

    schema: str
    """The schema that its records were written with."""
    beside: Callable[[], Iterable[Totals]]
    """What its limits count too."""

    @property
    def totals(self) -> Totals:
        """What it holds."""

    def oldest(self, limit: int, without: Collection[int], most_bytes: int) -> list[Waiting]:
        """Return the records that have waited longest, of all but these partitions; at least one of any."""

    def remove(self, numbers: Sequence[int]) -> None:
        """Forget records that Kafka has acknowledged."""

    def set_aside(self, number: int, reason: str) -> None:
        """Keep a record that Kafka refuses for good out of the way."""

    def close(self) -> None:
        """Unlock it; an empty one leaves nothing behind."""


class Way(NamedTuple):
    """How the forwarder goes on: what it asks others for."""

    adopt: Callable[[], Sequence[Source]] = lambda: ()
    """Open the spools that dead processes have left behind."""
    readdressed: Callable[[Record, str], Record] = lambda record, _schema: record
    """Give a record its partition of today, and its frame if it has none; may raise `Unavailable`."""
    taken: Callable[[Collection[int]], None] = lambda _partitions: None
    """Hear which partitions Kafka has just stored something in."""


class Forwarder:
    """Drains spools into Kafka, the process's own and the adopted ones, in order of arrival."""

    def __init__(self, kafka: UploadSink, own: Source, meters: Meters, way: Way | None = None) -> None:
        self._kafka = kafka
        self._own = own
        self._adopted: list[Source] = []
        own.beside = lambda: [spool.totals for spool in tuple(self._adopted)]  # asked in other threads too
        self._meters = meters
        self._way = way or Way()
        self._forwarded: dict[int, list[int]] = {}
        """What Kafka has and a spool could not yet forget, by the spool's `id`: not to be sent again."""
        self._measure()

    async def run(self) -> None:
        """Forward until cancelled; while Kafka is away, try again every second."""
        adopt_at = 0.0
        while True:
            try:
                now = asyncio.get_running_loop().time()
                if now >= adopt_at:
                    adopt_at = now + ADOPT_S
                    await self.adopt()
                if not await self.forward_once():
                    await asyncio.sleep(IDLE_S)
            except (Unavailable, OSError) as error:
                _log.warning("not_forwarded", reason=str(error))
                await asyncio.sleep(RETRY_S)
            except Exception as error:  # noqa: BLE001 - what is spooled must go out, whatever else is broken
                self._meters.count("pipeline_internal_errors_total", "forwarder")
                _log.error("not_forwarded", reason=type(error).__name__)
                await asyncio.sleep(RETRY_S)

    async def adopt(self) -> None:
        """Take over the spools that dead processes have left behind; a start does it before it serves."""
        self._adopted += await asyncio.to_thread(self._way.adopt)
        self._measure()

    async def forward_once(self) -> int:
        """Forward what waits; return how many records left, or raise `Unavailable` when none could."""
        self._measure()
        gone = 0
        failure: Unavailable | None = None
        for spool in (*self._adopted, self._own):
            try:
                gone += await self._drained(spool)
            except Unavailable as error:
                failure = error
            except Exception as error:  # noqa: BLE001 - a broken spool must not keep the others waiting
                self._meters.count("pipeline_internal_errors_total", "forwarder")
                failure = Unavailable(f"a spool can't be read: {type(error).__name__}")
            self._measure()
        for spool in [adopted for adopted in self._adopted if adopted.totals.records == 0]:
            if not spool.totals.set_aside:
                self._adopted.remove(spool)
                await asyncio.to_thread(spool.close)
        if failure is not None and not gone:
            raise failure
        return gone

    @property
    def waiting(self) -> int:
        """How many records wait in all spools."""
        return sum(spool.totals.records for spool in (*self._adopted, self._own))

    def close(self) -> None:
        """Unlock the adopted spools for the next process."""
        for spool in self._adopted:
            spool.close()

    async def _drained(self, spool: Source) -> int:
        """Forward what waits in one spool; return how many records left, or raise when none could."""
        if not spool.totals.records:
            return 0
        await self._forget(spool, ())
        gone = 0
        failure: Unavailable | None = None
        stuck: set[int] = set()
        """Partitions that Kafka does not take now: the others go on, each in its order."""
        while batch := await asyncio.to_thread(spool.oldest, FORWARD_RECORDS, stuck, FORWARD_BYTES):
            try:
                await self._forward(spool, batch)
                gone += len(batch)
            except Unavailable as error:
                failure = error
                gone += len(error.stored)
                stuck |= {w.record.partition for place, w in enumerate(batch) if place not in error.stored}
            self._measure()
        if failure is not None and not gone:
            raise failure
        return gone

    async def _forward(self, spool: Source, batch: Sequence[Waiting]) -> None:
        """Forward a batch and forget it; what Kafka never takes is set aside."""
        records = await asyncio.to_thread(self._readdressed, spool, batch)
        stored: Collection[int] = range(len(batch))
        refused: Collection[int] = ()
        failure: Unavailable | None = None
        reason = ""
        try:
            await self._kafka.store(records)
        except Unavailable as error:
            failure, stored = error, error.stored
        except NeverTaken as error:
            reason, refused = str(error), error.refused
        self._way.taken({records[place].partition for place in stored})
        await self._forget(spool, [batch[place] for place in sorted({*stored} - {*refused})])
        for place in sorted(refused):
            await asyncio.to_thread(spool.set_aside, batch[place].number, reason)
            self._meters.count("pipeline_set_aside_total")
            _log.error("set_aside", number=batch[place].number, reason=reason)
        if failure is not None:
            raise failure

    def _readdressed(self, spool: Source, batch: Sequence[Waiting]) -> list[Record]:
        return [self._way.readdressed(waiting.record, spool.schema) for waiting in batch]

    async def _forget(self, spool: Source, taken: Sequence[Waiting]) -> None:
        """Remove what Kafka has; while the disk can't, nothing more of this spool is sent."""
        if taken:
            self._meters.count("pipeline_forwarded_total", by=len(taken))
        numbers = self._forwarded.pop(id(spool), []) + [waiting.number for waiting in taken]
        if numbers:
            self._forwarded[id(spool)] = numbers
            await asyncio.to_thread(spool.remove, numbers)
            del self._forwarded[id(spool)]

    def _measure(self) -> None:
        totals = [spool.totals for spool in (*self._adopted, self._own)]
        self._meters.set("pipeline_spool_records", sum(t.records for t in totals))
        self._meters.set("pipeline_spool_bytes", sum(t.bytes for t in totals))
        self._meters.set("pipeline_spool_set_aside_records", sum(t.set_aside for t in totals))
        self._meters.set("pipeline_spool_set_aside_bytes", sum(t.set_aside_bytes for t in totals))
