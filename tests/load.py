"""Devices under load: each uploads sessions and follows its SDK's rules until they are acknowledged."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections import Counter
from itertools import cycle
from typing import Final, NamedTuple, Protocol

import httpx

from pipeline.device.sender import TIMEOUT_S, Fate, Platform, send
from pipeline.ingest.limits import LATEST_ANSWER_S
from pipeline.session.model import Visitor
from pipeline.wire.encode import to_media_collection
from tests.stories import story

RETRY_S = 0.1
"""What an SDK's 60 s between tries are here."""
PAUSE_S = 0.07
"""Between two sessions of one thread: three threads send 40 uploads a second, however fast the machine is."""
LOOK_S = 0.1
STANDSTILL_S: Final = TIMEOUT_S - LATEST_ANSWER_S
"""What the door leaves of an SDK's patience for everything else: a machine that takes more makes it late."""


class Target(Protocol):
    """A running ingest."""

    def client(self) -> httpx.Client:
        """Return a client of it."""


def plain_client(base_url: str) -> httpx.Client:
    """Return a client with a connection of its own to an HTTP server of this machine.

    Without `verify=False` each client reads all certificates of all authorities, 20 ms of CPU that no
    plain HTTP request needs.
    """
    return httpx.Client(base_url=base_url, trust_env=False, verify=False, timeout=30)


class Exchange(NamedTuple):
    """A request with the status of its answer; None: it was given up, since none came in time."""

    began: float
    ended: float
    status: int | None

    @property
    def took_s(self) -> float:
        """How long the answer took or was waited for."""
        return self.ended - self.began


class Standstills:
    """Notes when the machine keeps a thread waiting that only sleeps and writes a page to the disk.

    Whatever an ingest, a broker and their client do meanwhile is as late, and tells nothing of them.
    """

    def __init__(self) -> None:
        self._noted: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def met(self, exchange: Exchange) -> bool:
        """Return whether the machine stood still while this was under way."""
        return any(began < exchange.ended and exchange.began < ended for began, ended in self._noted)

    def stop(self) -> None:
        """Note no more; may be called twice."""
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        with tempfile.TemporaryFile() as page:
            while not self._stop.is_set():
                began = time.monotonic()
                time.sleep(LOOK_S)
                os.pwrite(page.fileno(), bytes(4096), 0)
                os.fsync(page.fileno())
                ended = time.monotonic()
                if ended - began - LOOK_S > STANDSTILL_S:
                    self._noted.append((began, ended))


class _Stopped(Exception):
    """The test is over: the device keeps what it has."""


class Senders:
    """Threads that upload sessions until stopped, as devices of these platforms in turn.

    `acknowledged` are the session ids answered with 201, `deleted` counts the sessions that an SDK gave up,
    `statuses` counts every answer, `answers` the whole sequences that uploads got (None is network trouble),
    `exchanges` are all requests that were answered or given up.
    """

    def __init__(
        self, threads: int = 3, pause_s: float = PAUSE_S, platforms: tuple[Platform, ...] = tuple(Platform)
    ) -> None:
        self.acknowledged: set[str] = set()
        self.deleted = 0
        self.statuses: Counter[int] = Counter()
        self.answers: Counter[tuple[int | None, ...]] = Counter()
        self.exchanges: list[Exchange] = []
        self._target: Target | None = None
        self._stop = threading.Event()
        self._pause_s = pause_s
        self._devices = enumerate(cycle(platforms))
        self._lock = threading.Lock()
        self._standstills = Standstills()
        self._threads = [threading.Thread(target=self._send) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def to(self, target: Target | None) -> None:
        """Send to this target from now on; None is a time without network."""
        self._target = target

    def await_acknowledged(self, least: int, deadline_s: float = 120) -> None:
        """Wait until so many uploads are acknowledged, however slow the machine is."""
        end = time.monotonic() + deadline_s
        while len(self.acknowledged) < least:
            assert time.monotonic() < end, f"the load is too small: {len(self.acknowledged)} of {least}"
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop and wait for every thread; may be called twice."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._standstills.stop()

    @property
    def late(self) -> int:
        """How many answers did not come in time."""
        return sum(exchange.status is None for exchange in self.exchanges)

    @property
    def slowest_s(self) -> float:
        """The longest that one answer took or was waited for."""
        return max((exchange.took_s for exchange in self.exchanges), default=0.0)

    def undisturbed(self) -> list[Exchange]:
        """Return the exchanges during which the machine never stood still."""
        return [exchange for exchange in self.exchanges if not self._standstills.met(exchange)]

    def overdue(self) -> list[Exchange]:
        """Return those of them that an SDK would not have waited for."""
        return [e for e in self.undisturbed() if e.status is None or e.took_s >= TIMEOUT_S]

    def post(self, url: str, *, content: bytes, headers: dict[str, str], timeout: float) -> httpx.Response:
        """Post to the present target, as a device's network."""
        target = self._target
        if target is None:
            raise httpx.ConnectError("no network")
        began = time.monotonic()
        try:
            with target.client() as client:
                answer = client.post(url, content=content, headers=headers, timeout=timeout)
        except httpx.TimeoutException:
            self.exchanges.append(Exchange(began, time.monotonic(), None))
            raise
        self.exchanges.append(Exchange(began, time.monotonic(), answer.status_code))
        self.statuses[answer.status_code] += 1
        return answer

    def _send(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                number, platform = next(self._devices)
            viewer = f"{number:038d}"
            session = story("0 start, 0 play, 10 ping, 20 complete", name=f"film-{number}")
            body = to_media_collection(session._replace(visitor=Visitor(ecid=viewer, key_value=viewer)))
            try:
                sent = send(self, "/api/v1/downloaded", body, platform, most_tries=100_000, wait=self._wait)
            except _Stopped:
                return
            self.answers[sent.answers] += 1
            if sent.fate is Fate.DELIVERED and sent.last is not None:
                self.acknowledged.add(sent.last.headers["location"].rsplit("/", 1)[1])
            elif sent.fate is Fate.DELETED:
                self.deleted += 1
            time.sleep(self._pause_s)

    def _wait(self, _seconds: float) -> None:
        if self._stop.is_set():
            raise _Stopped
        time.sleep(RETRY_S)
