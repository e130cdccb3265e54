"""Carries the worker's uploads on Kafka: each partition by itself, in transactions bounded in every way.

An upload waits a moment for others of its partition, since a transaction costs as much as the stages of some
sessions; partitions do not wait for each other. What is not the data's fault ends the process: it is started
again, takes its partitions over and reads what was not committed again.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from typing import Any, Final, NamedTuple

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
LINGER_S: Final = 0.08
"""How long an upload waits for others of its transaction (at 500 a second over 24 partitions, for two)."""
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


class _Waiting(NamedTuple):
    """An upload that waits for its partition's next transaction, since this moment of the event loop."""

    record: StoredRecord
    message: Any
    since: float


class Carrier:
    """Carries Faust's messages for the partitions that are owned."""

    def __init__(
        self,
        settings: Settings,
        topology: Topology,
        ownership: Ownership,
        meters: Meters,
        now_ms: Callable[[], int],
        end: End,
        is_flowing: Callable[[], bool],
        let_go: Callable[[Any], object],
        traces: Traces = OFF,
    ) -> None:
        """`is_flowing` says that neither a stop nor a rebalance waits for what is in hand.

        `let_go` is called with each message once it is committed, or is left to who reads it again.
        """
        self._is_flowing = is_flowing
        self._let_go = let_go
        self._traces = traces
        self._topology = topology
        self._ownership = ownership
        self._meters = meters
        self._now_ms = now_ms
        self._end = end
        self._most_bytes = settings.worker_batch_bytes
        self._most_records = settings.worker_batch_records
        self._record_s = 0.0
        self._held = 0
        self._held_bytes = 0
        self._freed = asyncio.Event()
        self._lines: dict[tuple[int, int], deque[_Waiting]] = {}
        self._tasks: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._room = Room(TRANSACTIONS * settings.worker_output_bytes)
        self._stages = ThreadPoolExecutor(1, "stages")

    async def take(self, messages: Sequence[Any], generation: int) -> None:
        """Have these messages carried; return when there is room for more.

        Messages of an earlier generation are left to their new owner.
        """
        self._held += len(messages)
        self._held_bytes += sum([_size_of(message) for message in messages])
        try:
            for message in messages:
                if await self._is_expected(message, generation):
                    self._line_up(message, generation)
                else:
                    self._done(message)
        except Unavailable as error:
            self._end(Ending.STUCK, "not_carried", error)
        await self.held_below(self._most_records)

    async def held_below(self, number: int) -> None:
        """Return once fewer messages than that were taken and not let go, and not too many bytes."""
        while self._held >= number or self._held_bytes >= TRANSACTIONS * self._most_bytes:
            self._freed.clear()
            await self._freed.wait()

    def _line_up(self, message: Any, generation: int) -> None:
        """Let the message wait for its partition's next transaction."""
        place = message.partition, generation
        line = self._lines.get(place)
        if line is None:
            line = self._lines[place] = deque()
            self._tasks[place] = asyncio.ensure_future(self._carry_line(line, *place))
        line.append(_Waiting(stored_record(message), message, asyncio.get_running_loop().time()))

    def _done(self, message: Any) -> None:
        self._let_go(message)
        self._held -= 1
        self._held_bytes -= _size_of(message)
        self._freed.set()

    async def _is_expected(self, message: Any, generation: int) -> bool:
        """Whether this is its partition's next message; a gap is looked into, for it may be a loss."""
        if not self._is_flowing():  # a stop or a rebalance has left messages before this one
            return False
        ownership, partition, offset = self._ownership, message.partition, message.offset
        expected = ownership.expected.get(partition)
        is_current = ownership.generation == generation and message.generation_id in (None, generation)
        if expected is None or not is_current or offset < expected:
            return False
        if offset > expected:
            loop, lanes = asyncio.get_running_loop(), ownership.lanes
            first = await loop.run_in_executor(None, lanes.first_upload_from, partition, expected)
            if ownership.generation != generation or ownership.expected.get(partition) != expected:
                return False  # taken over meanwhile: the new generation says what is read next
            self._judge_gap(partition, expected, offset, first)
        ownership.expected[partition] = offset + 1
        return True

    def _judge_gap(self, partition: int, expected: int, offset: int, first: int | None) -> None:
        """Go on where the topic itself has the gap (retention); end where uploads were passed over.

        `first` is what the topic holds from `expected` on. The upload in hand is there, so a broker that
        knows of none is behind, and says nothing of what is before it: all is read again.
        """
        gap = f"{UPLOADS} {partition} from {expected} to {offset}"
        if first is None:
            self._end(Ending.STUCK, "gap_not_known", f"{gap}: a broker has nothing there yet")
        elif first < offset:
            self._end(Ending.STUCK, "uploads_passed_over", f"{gap}: there is {first}")
        self._meters.count("pipeline_lost_offsets_total", by=offset - expected)
        _log.error(
            "offsets_lost", topic=UPLOADS, partition=partition, offset=expected, offsets=offset - expected
        )

    async def _carry_line(self, line: deque[_Waiting], partition: int, generation: int) -> None:
        """Carry what waits in a partition until nothing does; what is not the data's fault ends the process.

        The stages of all partitions share one thread (they only compute); commits wait in many.
        """
        loop = asyncio.get_running_loop()
        try:
            while line:
                await asyncio.sleep(line[0].since + LINGER_S - loop.time())
                await self._carry_first(line, partition, generation)
        except Flooded as error:
            self._end(Ending.FLOOD, "too_many_dead_letters", error)
        except Exception as error:  # noqa: BLE001 - nobody else would hear of it
            self._end(Ending.STUCK, "not_committed", error)
        finally:
            del self._lines[partition, generation], self._tasks[partition, generation]

    async def _carry_first(self, line: deque[_Waiting], partition: int, generation: int) -> None:
        """Carry the first of what waits, in one transaction bounded by bytes, count and time."""
        ownership = self._ownership
        if ownership.generation != generation or not self._is_flowing():
            # All is read again, by whoever owns the partition then.
            if ownership.generation == generation:
                ownership.expected[partition] = line[0].record.offset
            taken = len(line)
        else:
            started = time.perf_counter()
            part = first_of([waiting.record for waiting in line], self._most_bytes, self._step())
            taken = await self._carry_part(partition, part)
            self._meters.observe("pipeline_batch_seconds", time.perf_counter() - started)
            self._meters.observe("pipeline_batch_records", taken)
        for _ in range(taken):
            self._done(line.popleft().message)

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


def first_of(records: Sequence[StoredRecord], most_bytes: int, most_records: int) -> Sequence[StoredRecord]:
    """Return a first run of at most so many bytes and records, but of one at least."""
    size = 0
    for place, record in enumerate(records):
        size += len(record.value or b"")
        if place and (place == most_records or size > most_bytes):
            return records[:place]
    return records


def _size_of(message: Any) -> int:
    return len(message.key or b"") + len(message.value or b"")


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
