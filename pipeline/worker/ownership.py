"""Which partitions this worker owns, and how far it is in each: taken over once a generation.

A take-over runs in threads and may outlive the call that asked for it (a rebalance cancels that): the
next generation's take-over waits for it. Its deadline measures missing progress, not time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import structlog

from pipeline.contract.positions import UPLOADS
from pipeline.kafka.lanes import Lanes

_log = structlog.get_logger("pipeline.worker")

NO_PROGRESS_S: Final = 60.0
LOOK_S: Final = 0.5
LANE_THREADS: Final = 24


class Stuck(Exception):
    """A take-over made no progress for too long."""


class Ownership:
    """What is owned in the present generation.

    `expected` is the offset that is read next by partition, `committed` the one that a restart goes on from.
    """

    def __init__(self, lanes: Lanes, no_progress_s: float = NO_PROGRESS_S) -> None:
        self.lanes = lanes
        self.expected: dict[int, int] = {}
        self.committed: dict[int, int] = {}
        self.generation: int | None = None
        self.pool = ThreadPoolExecutor(LANE_THREADS, "lanes")
        self._no_progress_s = no_progress_s
        self._taking: tuple[int, asyncio.Task[None]] | None = None

    async def taken(self, generation: int, partitions: Sequence[int]) -> None:
        """Return once the partitions of this generation are owned; cancelling the call stops nothing."""
        if self._taking is None or self._taking[0] != generation:
            earlier = None if self._taking is None else self._taking[1]
            self._taking = generation, asyncio.ensure_future(self._take(generation, partitions, earlier))
        await asyncio.shield(self._taking[1])

    def went_on(self, partition: int, next_offset: int, generation: int | None) -> None:
        """Take that a commit of this generation is done; one that was taken over since says so itself."""
        if generation is not None and generation == self.generation and partition in self.committed:
            self.committed[partition] = next_offset

    async def _take(
        self, generation: int, partitions: Sequence[int], earlier: asyncio.Task[None] | None
    ) -> None:
        if earlier is not None:
            await asyncio.wait([earlier])
        started = time.monotonic()
        loop = asyncio.get_running_loop()
        self.generation = None
        for lost in set(self.expected) - set(partitions):
            self.expected.pop(lost)
            self.committed.pop(lost, None)
            await loop.run_in_executor(self.pool, self.lanes.release, lost)
        work = [loop.run_in_executor(self.pool, self.lanes.resume, p) for p in partitions]
        positions = dict(zip(partitions, await self._watched(asyncio.gather(*work)), strict=True))
        self.expected, self.committed = dict(positions), dict(positions)
        self.generation = generation
        took_s = round(time.monotonic() - started, 2)
        _log.info(
            "taken_over",
            topic=UPLOADS,
            partitions=list(partitions),
            positions=list(positions.values()),
            generation=generation,
            took_s=took_s,
        )

    async def _watched(self, work: asyncio.Future[list[int]]) -> list[int]:
        """Return what the work gives, or raise `Stuck` when the lanes make no progress."""
        seen, moved_at = self.lanes.progress, time.monotonic()
        while not (await asyncio.wait([work], timeout=LOOK_S))[0]:
            now = time.monotonic()
            if self.lanes.progress != seen:
                seen, moved_at = self.lanes.progress, now
            elif now - moved_at > self._no_progress_s:
                raise Stuck(f"no progress in {self._no_progress_s:.0f} s of taking partitions over")
        return work.result()
