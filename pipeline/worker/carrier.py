"""Carries a batch of the worker on Kafka: process by partition, one transaction each, bounded in every way.

What is not the data's fault ends the process: it is started again, takes its partitions over and reads
what was not committed again.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from typing import Any, Final

import structlog

from pipeline.contract.ports import Fenced, NeverTaken, Unavailable
from pipeline.contract.record import StoredRecord
from pipeline.metrics import Meters
from pipeline.settings import Settings
from pipeline.stages.flood import Flooded
from pipeline.topology import UPLOADS, Processed, Topology
from pipeline.traces import OFF, BatchSpan, Traces
from pipeline.worker.ownership import Ownership
from pipeline.worker.report import report
from pipeline.worker.room import TRANSACTIONS, Room

_log = structlog.get_logger("pipeline.worker")

COMMIT_DEADLINE_S: Final = 60.0
FIRST_STEP: Final = 20
BARE_BYTES: Final = 16 * 1024
"""What is left of a dead letter that Kafka refused, whatever its topic should take."""
NONE_REFUSED: Final[Mapping[int, int]] = {}
STEP_S: Final = 2.0
"""About how long the stages may work before a commit: a slow stage makes small transactions, not a stop."""


class Ending(IntEnum):
    """Why a worker ends itself, as its exit code."""

    UNFIT = 2
    """The index does not fit its topics; the message names the command that mends it."""
    FENCED = 3
    """Another worker has taken a partition over."""
    STUCK = 4
    """No progress, or Kafka can't be used."""
    FLOOD = 5
    """Too many uploads became the worker's own dead letters."""


End = Callable[..., Any]
"""Ends the process: why, the log event, the error, and the event's members."""


class Carrier:
    """Carries batches of Faust's messages for the partitions that are owned."""

    def __init__(
        self,
        settings: Settings,
        topology: Topology,
        ownership: Ownership,
        meters: Meters,
        now_ms: Callable[[], int],
        end: End,
        is_flowing: Callable[[], bool],
        traces: Traces = OFF,
    ) -> None:
        """`is_flowing` says that neither a stop nor a rebalance waits for the batch in hand."""
        self._is_flowing = is_flowing
        self._traces = traces
        self._topology = topology
        self._ownership = ownership
        self._meters = meters
        self._now_ms = now_ms
        self._end = end
        self._most_bytes = settings.worker_batch_bytes
        self._most_records = settings.worker_batch_records
        self._record_s = 0.0
        self._room = Room(TRANSACTIONS * settings.worker_output_bytes)
        self._stages = ThreadPoolExecutor(1, "stages")

    async def carry(self, messages: Sequence[Any], generation: int) -> None:
        """Commit what this batch gives; messages of an earlier generation are left to their new owner."""
        if not self._is_flowing():  # a stop or a rebalance has left the rest of the batch before this one
            return
        started = time.perf_counter()
        try:
            by_partition = await self._sorted(messages, generation)
            await asyncio.gather(
                *(self._carry_partition(p, records, generation) for p, records in by_partition.items())
            )
        except Flooded as error:
            self._end(Ending.FLOOD, "too_many_dead_letters", error)
        except (TimeoutError, Unavailable, NeverTaken) as error:
            self._end(Ending.STUCK, "not_committed", error)
        self._meters.observe("pipeline_batch_seconds", time.perf_counter() - started)
        self._meters.observe("pipeline_batch_records", len(messages))

    async def _sorted(self, messages: Sequence[Any], generation: int) -> dict[int, list[StoredRecord]]:
        """Return the expected messages by partition; a gap is looked into, for it may be a loss."""
        ownership = self._ownership
        by_partition: dict[int, list[StoredRecord]] = {}
        for message in messages:
            partition, offset = message.partition, message.offset
            expected = ownership.expected.get(partition)
            is_current = ownership.generation == generation and message.generation_id in (None, generation)
            if expected is None or not is_current or offset < expected:
                continue
            if offset > expected:
                await self._look_into_gap(partition, expected, offset)
                if ownership.generation != generation or ownership.expected.get(partition) != expected:
                    continue  # taken over meanwhile: the new generation says what is read next
            ownership.expected[partition] = offset + 1
            by_partition.setdefault(partition, []).append(stored_record(message))
        return by_partition

    async def _look_into_gap(self, partition: int, expected: int, offset: int) -> None:
        """Go on where the topic itself has the gap (retention); end where uploads were passed over."""
        loop, lanes = asyncio.get_running_loop(), self._ownership.lanes
        first = await loop.run_in_executor(None, lanes.first_upload_from, partition, expected)
        if first is not None and first < offset:
            self._end(Ending.STUCK, "uploads_passed_over", f"{UPLOADS} {partition} from {first} to {offset}")
        self._meters.count("pipeline_lost_offsets_total", by=offset - expected)
        _log.error(
            "offsets_lost", topic=UPLOADS, partition=partition, offset=expected, offsets=offset - expected
        )

    async def _carry_partition(
        self, partition: int, records: Sequence[StoredRecord], generation: int
    ) -> None:
        """Process one partition's records and commit them, in transactions bounded by bytes, count and time.

        The stages of all partitions share one thread (they only compute); commits wait in many.
        """
        rest = records
        while rest:
            part, _ = split(rest, self._most_bytes, self._step())
            if self._ownership.generation != generation:
                return
            if not self._is_flowing():  # the rest is read again, by whoever owns the partition then
                self._ownership.expected[partition] = part[0].offset
                return
            rest = rest[await self._carry_part(partition, part) :]

    def _step(self) -> int:
        """Return how many uploads the stages may take before the next commit, as fast as they were last."""
        if not self._record_s:
            return min(FIRST_STEP, self._most_records)
        return max(1, min(self._most_records, int(STEP_S / self._record_s)))

    async def _carry_part(
        self, partition: int, part: Sequence[StoredRecord], never_taken: Mapping[int, int] = NONE_REFUSED
    ) -> int:
        """Commit the part, or its first uploads where it gives too much; return how many."""
        loop = asyncio.get_running_loop()
        generation = self._ownership.generation
        hold = self._ownership.lanes.hold(partition)
        try:
            with self._traces.batch(part) as spans:
                processed = await loop.run_in_executor(
                    self._stages, self._process, partition, part, never_taken, spans
                )
                commit = loop.run_in_executor(
                    self._ownership.pool, self._commit, partition, part, processed, hold, spans
                )
                await asyncio.wait_for(commit, COMMIT_DEADLINE_S)
        except NeverTaken as refused:
            await self._apart(partition, part, never_taken, refused)
            return len(part)
        except Fenced as error:
            place = {"topic": UPLOADS, "partition": partition, "offset": part[0].offset}
            self._end(Ending.FENCED, "fenced", error, **place)
        self._ownership.went_on(partition, part[processed.taken - 1].offset + 1, generation)
        return processed.taken

    async def _apart(
        self,
        partition: int,
        part: Sequence[StoredRecord],
        never_taken: Mapping[int, int],
        refused: NeverTaken,
    ) -> None:
        """Carry the halves of a part that Kafka refused; the one upload that it is becomes a dead letter.

        Of a dead letter that is refused too hardly more than its reason is kept.
        """
        if BARE_BYTES in never_taken.values():
            raise refused
        _log.error(
            "records_refused",
            topic=UPLOADS,
            partition=partition,
            offset=part[0].offset,
            uploads=len(part),
            error=str(refused),
        )
        if len(part) == 1:
            most_bytes = BARE_BYTES if never_taken else sys.maxsize
            await self._carry_part(partition, part, {part[0].offset: most_bytes})
            return
        middle = len(part) // 2
        for rest in (part[:middle], part[middle:]):
            while rest:
                rest = rest[await self._carry_part(partition, rest) :]  # noqa: PLW2901 - until nothing is left

    def _process(
        self,
        partition: int,
        records: Sequence[StoredRecord],
        never_taken: Mapping[int, int],
        spans: BatchSpan,
    ) -> Processed:
        self._room.wait()
        started = time.perf_counter()
        lanes = self._ownership.lanes
        with spans.step("stages"):
            processed = self._topology.process(
                records,
                lambda keys: lanes.known(partition, keys),
                self._now_ms(),
                never_taken,
                spans.headers_of,
            )
        self._room.take(processed.size_bytes)
        self._record_s = (time.perf_counter() - started) / processed.taken
        return processed

    def _commit(
        self,
        partition: int,
        records: Sequence[StoredRecord],
        processed: Processed,
        hold: object,
        spans: BatchSpan,
    ) -> None:
        started = time.perf_counter()
        next_offset = records[processed.taken - 1].offset + 1
        try:
            with spans.step("transaction"):
                self._ownership.lanes.commit(partition, processed.records, next_offset, hold)
        finally:
            self._room.give(processed.size_bytes)
        self._meters.observe("pipeline_transaction_seconds", time.perf_counter() - started)
        report(processed, processed.taken, self._meters)


def split(
    records: Sequence[StoredRecord], most_bytes: int, most_records: int
) -> tuple[Sequence[StoredRecord], Sequence[StoredRecord]]:
    """Return a first run of at most so many bytes and records, but of one at least, and the rest."""
    size = 0
    for place, record in enumerate(records):
        size += len(record.value or b"")
        if place and (place == most_records or size > most_bytes):
            return records[:place], records[place:]
    return records, ()


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
