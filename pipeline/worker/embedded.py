"""The embedded runner: reads uploads from the SQLite log and commits what the stages return.

One thread serves all partitions. A batch's records, its dedupe entries and the read position are
one commit; a crash anywhere before it leaves the batch to be read again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from pipeline.contract.ports import Commits, Unavailable, Uploads
from pipeline.metrics import Meters
from pipeline.topology import UPLOADS, Topology
from pipeline.traces import OFF, Traces
from pipeline.worker.report import report

_log = structlog.get_logger("pipeline.worker")

IDLE_WAIT_S: Final = 0.5
RETRY_WAIT_S: Final = 1.0


class Home(Commits, Uploads, Protocol):
    """The embedded log as the worker sees it."""

    def wait_for_records(self, topic: str, positions: dict[int, int], timeout_s: float) -> bool:
        """Return True as soon as a partition holds records beyond its position, False on time-out."""


class EmbeddedWorker:
    """Carries uploads through the stages until told to stop; `step` is one round, for tests."""

    def __init__(
        self,
        topology: Topology,
        home: Home,
        meters: Meters,
        *,
        partitions: int,
        batch_records: int,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        traces: Traces = OFF,
    ) -> None:
        self._traces = traces
        self._topology = topology
        self._home = home
        self._meters = meters
        self._batch_records = batch_records
        self._now_ms = now_ms
        self._positions = {p: home.take_over(p) for p in range(partitions)}

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; a full disk is waited out, any other fault of ours is raised."""
        while not stop.is_set():
            try:
                if not self.step():
                    self._home.wait_for_records(UPLOADS, dict(self._positions), IDLE_WAIT_S)
            except Unavailable as error:
                _log.error("not_committed", error=str(error), retry_s=RETRY_WAIT_S)
                stop.wait(RETRY_WAIT_S)

    def step(self) -> int:
        """Carry at most one batch of each partition; return how many uploads were carried."""
        carried = sum(self._carry(partition) for partition in self._positions)
        self._meters.set("pipeline_lag_records", self.lag())
        return carried

    def lag(self) -> int:
        """Return how many uploads wait."""
        ends = (self._home.end_offset(UPLOADS, p) - at for p, at in self._positions.items())
        return sum(ends)

    def _carry(self, partition: int) -> int:
        position = self._positions[partition]
        if self._home.end_offset(UPLOADS, partition) <= position:
            return 0
        batch = self._home.read(UPLOADS, partition, position, self._batch_records)
        if not batch:
            return 0
        started = time.perf_counter()
        with self._traces.batch(batch) as spans:
            with spans.step("stages"):
                processed = self._topology.process(
                    batch,
                    lambda keys: self._home.known(partition, keys),
                    self._now_ms(),
                    headers_of=spans.headers_of,
                )
            next_offset = batch[processed.taken - 1].offset + 1
            begun = time.perf_counter()
            with spans.step("transaction"):
                self._home.commit(partition, processed.records, next_offset)
        self._positions[partition] = next_offset
        self._meters.observe("pipeline_transaction_seconds", time.perf_counter() - begun)
        report(processed, processed.taken, self._meters)
        self._meters.observe("pipeline_batch_seconds", time.perf_counter() - started)
        self._meters.observe("pipeline_batch_records", processed.taken)
        return processed.taken
