"""The worker with a fault planted in it: `python -m tests.kafka.injected FAULT`."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import pipeline.topology
from pipeline.commands.worker import worker
from pipeline.settings import load
from pipeline.stages.prepare import Prepared
from pipeline.worker.faust_worker import TransactionalConsumer

topology: Any = pipeline.topology
consumer: Any = TransactionalConsumer
SLOW_S = 0.15
WIDENED_S = 0.5


def slow_stage() -> None:
    """Each upload takes long."""
    derive = topology.derive

    def slow(step: Prepared, now_ms: int) -> Any:
        time.sleep(SLOW_S)
        return derive(step, now_ms)

    topology.derive = slow


def bad_deploy() -> None:
    """Every upload meets an exception."""

    def broken(step: Prepared, now_ms: int) -> Any:
        raise RuntimeError("a bug that was deployed")

    topology.derive = broken


def one_exception() -> None:
    """One upload meets an exception in a stage."""
    derive = topology.derive

    def fragile(step: Prepared, now_ms: int) -> Any:
        if step.identified is not None and step.identified.session.content_id == "film-boom":
            raise RuntimeError("a bug that one upload meets")
        return derive(step, now_ms)

    topology.derive = fragile


def fault_of_ours() -> None:
    """The second batch meets an exception outside of any upload."""
    judged = topology.flood.judged
    batches = []

    def failing(*arguments: Any) -> Any:
        batches.append(1)
        if len(batches) == 2:
            raise RuntimeError("a fault of ours")
        return judged(*arguments)

    topology.flood.judged = failing


def widened_seek() -> None:
    """A seek takes long, so that records are fetched and thrown away around it."""
    perform_seek = consumer.perform_seek

    async def slow(self: Any) -> None:
        await asyncio.sleep(WIDENED_S)
        await perform_seek(self)
        await asyncio.sleep(WIDENED_S)

    consumer.perform_seek = slow


FAULTS = {f.__name__: f for f in (slow_stage, bad_deploy, one_exception, fault_of_ours, widened_seek)}

if __name__ == "__main__":
    FAULTS[sys.argv[1]]()
    sys.exit(worker(load()))
