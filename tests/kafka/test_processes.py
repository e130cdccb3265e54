"""Several ingest processes on one port: one sum of metrics, and a dead one is started again."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from pipeline.settings import Settings
from pipeline.wire.encode import to_media_collection
from tests.kafka.home import made_topics, settings_of
from tests.kafka.running import Ingest
from tests.lender import LentKafka
from tests.stories import story

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

PROCESSES = 2
UPLOADS = 40


@pytest.fixture
def settings(kafka: LentKafka, tmp_path: Path) -> Iterator[Settings]:
    found = dataclasses.replace(settings_of(kafka, tmp_path / "data"), ingest_processes=PROCESSES)
    with made_topics(found):
        yield found


def upload(ingest: Ingest, number: int) -> int:
    body = to_media_collection(story("0 start, 0 play, 10 end", name=f"film-{number}"))
    with ingest.client() as client:  # a connection of its own: any of the processes may take it
        headers = {"content-type": "application/json"}
        return client.post("/api/v1/downloaded", content=body, headers=headers).status_code


def answered(ingest: Ingest) -> float:
    with ingest.client() as client:
        text = client.get("/metrics").text
    found = re.findall(r'^pipeline_requests_total\{.*status="201".*\} (\S+)$', text, re.MULTILINE)
    return sum(float(value) for value in found)


def children(ingest: Ingest) -> list[psutil.Process]:
    return psutil.Process(ingest.process_id).children()


def test_metrics_are_the_sum_of_all_processes_and_a_dead_one_is_started_again(settings: Settings) -> None:
    with Ingest(settings) as ingest:
        await_children(ingest)
        assert {upload(ingest, number) for number in range(UPLOADS)} == {201}
        assert {answered(ingest) for _ in range(10)} == {UPLOADS}
        assert len([child for child in children(ingest) if child.cpu_times().user > 0]) == PROCESSES
        dead = children(ingest)[0]
        dead.kill()
        dead.wait()
        await_children(ingest)
        assert dead.pid not in {child.pid for child in children(ingest)}
        assert answered(ingest) == UPLOADS, "what a dead process counted stays"
        assert upload(ingest, UPLOADS) == 201
        assert ingest.stop() == 0


def test_when_the_parent_is_killed_its_children_end_and_another_can_take_the_port(settings: Settings) -> None:
    with Ingest(settings) as ingest:
        await_children(ingest)
        assert upload(ingest, 1) == 201
        port = ingest.port
        orphans = children(ingest)
        ingest.kill()
        _, alive = psutil.wait_procs(orphans, timeout=180)
        assert alive == []
        with Ingest(settings, port=port) as again:
            await_children(again)
            assert upload(again, 2) == 201
            assert again.stop() == 0


def await_children(ingest: Ingest) -> None:
    """Wait until all processes run and the port answers."""
    end = time.monotonic() + 180
    while time.monotonic() < end:
        if len(children(ingest)) == PROCESSES:
            try:
                with ingest.client() as client:
                    client.get("/health/live")
            except httpx.TransportError:
                pass
            else:
                return
        time.sleep(0.2)
    raise AssertionError("the processes did not start")
