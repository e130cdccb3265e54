"""Health means progress."""

from __future__ import annotations

import asyncio

import httpx

from pipeline.metrics import Meters
from pipeline.worker.endpoint import make_endpoint
from pipeline.worker.progress import Progress


def test_lag_while_positions_stand_still_is_sick() -> None:
    progress = Progress(stall_s=10)
    progress.observe(0, {0: 5}, {0: 3})
    progress.observe(10, {0: 5}, {0: 3})
    assert not progress.is_sick(10)
    assert progress.is_sick(10.1)


def test_a_position_that_moves_is_healthy_however_large_the_lag() -> None:
    progress = Progress(stall_s=10)
    for second in range(0, 100, 5):
        progress.observe(second, {0: second}, {0: 1_000_000})
        assert not progress.is_sick(second)


def test_an_idle_worker_is_healthy_and_gets_its_full_time_when_work_comes() -> None:
    progress = Progress(stall_s=10)
    progress.observe(0, {0: 5}, {0: 0})
    progress.observe(500, {0: 5}, {0: 0})
    progress.observe(501, {0: 5}, {0: 1})
    assert not progress.is_sick(509)
    assert progress.is_sick(511)


def test_the_endpoint_says_what_progress_says() -> None:
    progress, clock = Progress(stall_s=10), [0.0]
    app = make_endpoint(Meters(), progress, lambda: clock[0])

    async def statuses() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://worker") as client:
            answers = [await client.get(f"/health/{name}") for name in ("live", "ready")]
            assert "pipeline_partition_lag_records" in (await client.get("/metrics")).text
        return [answer.status_code for answer in answers]

    assert asyncio.run(statuses()) == [200, 503]
    progress.observe(0, {0: 5}, {0: 3})
    assert asyncio.run(statuses()) == [200, 200]
    clock[0] = 11
    assert asyncio.run(statuses()) == [503, 200]
