"""Health means progress."""

from __future__ import annotations

import asyncio
import threading

import httpx

from pipeline.metrics import Meters
from pipeline.worker.endpoint import make_endpoint
from pipeline.worker.progress import Progress, watch


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


def test_a_partition_that_stands_still_is_sick_although_others_move() -> None:
    progress = Progress(stall_s=10)
    for second in range(12):
        progress.observe(second, {0: 5, 1: second}, {0: 1_000, 1: 1_000})
    assert progress.is_sick(11)
    assert progress.standing(11) == {0: 1_000}
    progress.observe(12, {0: 6, 1: 12}, {0: 999, 1: 1_000})
    assert not progress.is_sick(12)


def test_a_partition_that_comes_back_gets_its_full_time() -> None:
    progress = Progress(stall_s=10)
    progress.observe(0, {0: 5}, {0: 3})
    progress.observe(9, {1: 5}, {1: 3})
    progress.observe(18, {0: 5, 1: 6}, {0: 3, 1: 2})
    assert not progress.is_sick(27)
    assert progress.is_sick(28.1)


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
    progress.rest(11)  # partitions are taken over again
    assert asyncio.run(statuses()) == [200, 503]
    progress.observe(12, {0: 5}, {0: 3})
    assert asyncio.run(statuses()) == [200, 200]


def test_a_worker_that_no_longer_looks_at_itself_is_sick() -> None:
    progress = Progress(stall_s=10)
    assert not progress.is_sick(1_000), "one that takes over for the first time is not sick"
    progress.rest(0)
    assert not progress.is_ready()
    assert progress.is_sick(10.1), "nor does the loop run that would look"
    progress.observe(0, {0: 5}, {0: 0})
    assert not progress.is_sick(10)
    assert progress.is_sick(10.1)


def test_a_long_take_over_that_goes_on_is_no_standstill() -> None:
    progress = Progress(stall_s=10)
    progress.observe(0, {0: 5}, {0: 3})
    for second in range(0, 60, 6):
        progress.rest(second)
        assert not progress.is_sick(second + 5)
    assert progress.is_sick(70)


def test_the_watch_calls_only_after_two_looks_that_found_it_sick() -> None:
    progress, clock, looks = Progress(stall_s=10), [0.0], []
    sick = threading.Event()
    progress.observe(0, {0: 5}, {0: 3})

    def now() -> float:
        looks.append(clock[0])
        return clock[0]

    watch(progress, now, sick.set, look_s=0.01)
    assert not sick.wait(0.1)
    clock[0] = 11
    assert sick.wait(5)
    assert looks.count(11) == 2


def test_the_lag_of_a_partition_that_went_to_another_worker_is_not_shown() -> None:
    meters = Meters()
    meters.replace("pipeline_partition_lag_records", {"0": 5, "1": 7})
    meters.replace("pipeline_partition_lag_records", {"1": 8})
    shown = [line for line in meters.text().decode().splitlines() if line.startswith("pipeline_partition_")]
    assert shown == ['pipeline_partition_lag_records{partition="1"} 8.0']
