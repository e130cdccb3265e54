"""Devices under load: each uploads sessions, every one again until it is acknowledged."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Protocol

import httpx

from pipeline.wire.encode import to_media_collection
from tests.stories import story


class Target(Protocol):
    """A running ingest."""

    def client(self) -> httpx.Client:
        """Return a client of it."""


class Senders:
    """Threads that upload sessions until stopped; `acknowledged` are the session ids answered with 201.

    `statuses` counts every answer, `slowest_s` is the longest that one took.
    """

    def __init__(self, threads: int = 3, pause_s: float = 0.0) -> None:
        self.acknowledged: set[str] = set()
        self.statuses: Counter[int] = Counter()
        self.slowest_s = 0.0
        self._target: Target | None = None
        self._stop = threading.Event()
        self._pause_s = pause_s
        self._next = 0
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._send) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def to(self, target: Target | None) -> None:
        """Send to this target from now on; None is a time without network."""
        self._target = target

    def stop(self) -> None:
        """Stop and wait for every thread; may be called twice."""
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
            target = self._target
            if target is None or not self._upload(target, number):
                time.sleep(0.02)
                continue
            number = None
            time.sleep(self._pause_s)

    def _upload(self, target: Target, number: int) -> bool:
        body = to_media_collection(story("0 start, 0 play, 10 ping, 20 complete", name=f"film-{number}"))
        started = time.monotonic()
        try:
            with target.client() as client:
                answer = client.post(
                    "/api/v1/downloaded", content=body, headers={"content-type": "application/json"}
                )
        except httpx.TransportError:
            return False
        self.slowest_s = max(self.slowest_s, time.monotonic() - started)
        self.statuses[answer.status_code] += 1
        if answer.status_code != 201:
            return False
        self.acknowledged.add(answer.headers["location"].rsplit("/", 1)[1])
        return True
