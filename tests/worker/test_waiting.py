"""What a worker sees of what waits for it: a partition that no broker told of yet is not an idle one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.metrics import Meters
from pipeline.worker import faust_worker
from pipeline.worker.progress import Progress

STALL_S = 10


class Clocked:
    """A worker of one partition, at offset 5, and its clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.ends: dict[int, int | None] = {}
        self.meters = Meters()
        self.progress = Progress(STALL_S)
        self._app: Any = SimpleNamespace(
            pipeline_ownership=SimpleNamespace(generation=None, committed={}),
            pipeline_topic="media.uploads",
            consumer=SimpleNamespace(highwater=lambda place: self.ends[place.partition]),
        )
        monkeypatch.setattr(faust_worker, "time", SimpleNamespace(monotonic=lambda: self.now))

    def assign(self, *ends: int | None) -> None:
        """Have taken partitions over, of which the consumer knows these ends."""
        ownership = self._app.pipeline_ownership
        ownership.generation, ownership.committed = 1, dict.fromkeys(range(len(ends)), 5)
        self.ends = dict(enumerate(ends))

    def look(self, *seconds: float) -> None:
        for second in seconds:
            self.now = second
            faust_worker.observe_progress(self._app, self.meters, self.progress)

    def shown(self) -> list[str]:
        lines = self.meters.text().decode().splitlines()
        return [line for line in lines if line.startswith(("pipeline_lag", "pipeline_partition_lag"))]


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Clocked:
    return Clocked(monkeypatch)


def test_a_partition_that_is_never_fetched_is_sick_once_it_had_its_full_time(worker: Clocked) -> None:
    worker.look(0, 30, 60)  # a long take-over, which has a deadline of its own
    worker.assign(None)
    worker.look(61, 65, 71)
    assert not worker.progress.is_sick(71)
    worker.look(72)
    assert worker.progress.is_sick(72)


def test_an_empty_answer_to_a_fetch_is_an_idle_partition(worker: Clocked) -> None:
    worker.assign(None)
    worker.look(0, 9)
    worker.assign(5)
    worker.look(10, 60, 120)
    assert not worker.progress.is_sick(121)


def test_a_lag_that_is_not_known_is_not_shown_as_a_number(worker: Clocked) -> None:
    worker.assign(None, 12, 5)
    worker.look(0)
    assert worker.shown() == [
        "pipeline_lag_records 7.0",
        'pipeline_partition_lag_records{partition="1"} 7.0',
        'pipeline_partition_lag_records{partition="2"} 0.0',
    ]
