"""kill -9 of the embedded default at random moments under load: nothing lost, nothing counted twice."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import httpx
import pytest

from pipeline.wire.encode import to_media_collection
from tests.commands.serving import Served, rows, served, settled
from tests.stories import story

ROUNDS = 4
SENDERS = 3


class Senders:
    """Threads that upload sessions, each again until it is acknowledged, as devices do."""

    def __init__(self) -> None:
        self.acknowledged: set[str] = set()
        self._service: Served | None = None
        self._stop = threading.Event()
        self._next = 0
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._send) for _ in range(SENDERS)]
        for thread in self._threads:
            thread.start()

    def to(self, service: Served | None) -> None:
        self._service = service

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        number: int | None = None
        while not self._stop.is_set():
            if number is None:
                with self._lock:
                    self._next += 1
                    number = self._next
            service = self._service
            if service is None or not self._upload(service, number):
                time.sleep(0.02)
                continue
            number = None

    def _upload(self, service: Served, number: int) -> bool:
        body = to_media_collection(story("0 start, 0 play, 10 ping, 20 complete", name=f"film-{number}"))
        try:
            with service.client() as client:
                answer = client.post(
                    "/api/v1/downloaded", content=body, headers={"content-type": "application/json"}
                )
        except httpx.TransportError:
            return False
        if answer.status_code == 201:
            self.acknowledged.add(answer.headers["location"].rsplit("/", 1)[1])
            return True
        return False


@pytest.mark.slow
def test_killed_at_random_moments_under_load_it_loses_nothing_and_counts_nothing_twice(
    tmp_path: Path,
) -> None:
    chance = random.Random(20260131)
    senders = Senders()
    try:
        for _ in range(ROUNDS):
            with served(tmp_path) as service:
                senders.to(service)
                time.sleep(chance.uniform(0.1, 1.2))
                service.kill()
                senders.to(None)
        with served(tmp_path) as service:
            senders.to(service)
            time.sleep(0.5)
            senders.stop()
            ledger = settled(tmp_path)
            assert service.stop() == 0
    finally:
        senders.stop()
    assert ledger["pending"] == 0
    assert ledger["balances"], [check for check in ledger["checks"] if not check["balances"]]
    sessions = [
        row["value"]["session_id"]
        for row in rows("records", "media.sessions", "--json", "--data-dir", str(tmp_path))
    ]
    assert len(senders.acknowledged) > 20, "the load was too small to prove anything"
    assert senders.acknowledged <= set(sessions)
    assert len(sessions) == len(set(sessions))
    starts = [
        row["value"]["session_id"]
        for row in rows("records", "media.analytics.calls", "--json", "--data-dir", str(tmp_path))
        if row["value"]["call"] == "mediaStart"
    ]
    assert sorted(starts) == sorted(sessions)
