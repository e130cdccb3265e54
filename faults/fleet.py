"""Devices that upload sessions at a rate, re-send some of them, and follow their SDK's rules."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from http import HTTPStatus
from itertools import count
from random import Random
from typing import Any, Final

import httpx

from bench.core import sdk_session
from pipeline.device.sender import TIMEOUT_S, Fate, Platform, send
from pipeline.wire.encode import to_media_collection

PATH: Final = "/api/v1/downloaded"
RETRY_S: Final = 0.25
"""What an SDK's 60 s between tries are here."""
DEVICES: Final = 8
"""So many send at the same time."""
AGAIN: Final = 0.2
"""This part of all uploads are sessions that were acknowledged before."""
BAD_EVERY: Final = 20
"""Before every so many uploads one comes that must be refused, and be a dead letter."""
EVENTS: Final = 12
PLATFORMS: Final = tuple(Platform)


class _Stopped(Exception):
    """The run is over: the device keeps what it has."""


class Fleet:
    """Uploads sessions to one address until told to end; every count is of the fleet's whole life.

    `acknowledged` maps each session id to the moment of its first acknowledgement (monotonic), `in_order`
    holds them as they were acknowledged. `renamed` are sessions that a later try got another id for, and
    `given_up` those that an SDK would have deleted. `refused` holds the marks of the bad bodies that were
    answered 400; no other count knows of them.
    """

    def __init__(self, base_url: str, seed: str) -> None:
        self.acknowledged: dict[str, float] = {}
        self.in_order: list[str] = []
        self.sent = 0
        self.answered = 0
        self.again = 0
        self.statuses: Counter[int] = Counter()
        self.given_up: list[str] = []
        self.renamed: list[str] = []
        self.refused: set[str] = set()
        self._client = httpx.Client(
            base_url=base_url, trust_env=False, limits=httpx.Limits(max_connections=2 * DEVICES)
        )
        self._seed = seed
        self._random = Random(f"{seed}/choices")  # noqa: S311 - reproducible choices, not secrets
        self._template: list[dict[str, Any]] = json.loads(to_media_collection(sdk_session(EVENTS)))
        self._turns = 0
        self._numbers = 0
        self._ids: dict[int, str] = {}
        self._delivered: list[int] = []
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._next_at = 0.0
        self._pause_s = 0.0
        self._left: int | None = None
        self._queue: list[int] = []
        self._ending = threading.Event()
        self._aborted = threading.Event()

    def begin(self, rate_per_s: float | None = None, most: int | None = None) -> None:
        """Begin to send at this rate, or as fast as it goes; at most so many uploads."""
        self._pause_s = 1 / rate_per_s if rate_per_s else 0.0
        self._next_at = time.monotonic()
        self._left = most
        self._ending.clear()
        self._threads = [threading.Thread(target=self._send, daemon=True) for _ in range(DEVICES)]
        for thread in self._threads:
            thread.start()

    def send_again(self, number: int) -> int:
        """Let the next uploads be so many sessions that were delivered before; return how many there are."""
        with self._lock:
            chosen = self._random.sample(self._delivered, min(number, len(self._delivered)))
            self._queue.extend(chosen)
        return len(chosen)

    @property
    def is_queue_empty(self) -> bool:
        """Whether all sessions of `send_again` are on their way."""
        return not self._queue

    def end(self, deadline_s: float = 90.0) -> None:
        """Send nothing new, wait until every device has delivered what it has, or raise `TimeoutError`."""
        self._ending.set()
        self.join(deadline_s)

    def join(self, deadline_s: float = 90.0) -> None:
        """Wait until the devices have sent what they may, or raise `TimeoutError`."""
        end = time.monotonic() + deadline_s
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                raise TimeoutError(f"devices can't deliver; answers so far: {dict(self.statuses)}")
        self._threads = []

    def close(self) -> None:
        """Stop at once, whatever is on its way."""
        self._aborted.set()
        self._ending.set()
        for thread in self._threads:
            thread.join(10)
        self._client.close()

    def post(self, url: str, *, content: bytes, headers: dict[str, str], timeout: float) -> httpx.Response:
        """Post as a device's network, with the body rebuilt as SDKs do at every try."""
        if self._aborted.is_set():
            raise _Stopped
        with self._lock:
            self.sent += 1
            number = self.sent
        rng = Random(f"{self._seed}/body/{number}")  # noqa: S311 - as above
        answer = self._client.post(url, content=rebuilt(content, rng), headers=headers, timeout=timeout)
        with self._lock:
            self.statuses[answer.status_code] += 1
        return answer

    def _send(self) -> None:
        while (number := self._taken()) is not None:
            platform = PLATFORMS[number % len(PLATFORMS)]
            try:
                self._send_bad()
                done = send(self, PATH, self._body(number), platform, most_tries=1_000_000, wait=self._wait)
            except _Stopped:
                return
            with self._lock:
                self._note(number, done.fate, done.last)

    def _send_bad(self) -> None:
        """Send a body that must be refused, when its turn has come; each try has a mark of its own."""
        with self._lock:
            self._turns += 1
            turn = self._turns
        if turn % BAD_EVERY:
            return
        for attempt in count(1):
            mark = f"bad-{turn}-{attempt}"
            status = self._status_of(bad(mark))
            if status == HTTPStatus.BAD_REQUEST:
                with self._lock:
                    self.refused.add(mark)
                return
            if status not in {None, HTTPStatus.SERVICE_UNAVAILABLE}:
                self.given_up.append(f"{mark}: {status}")
                return
            self._wait(RETRY_S)

    def _status_of(self, body: bytes) -> int | None:
        try:
            headers = {"content-type": "application/json"}
            return self._client.post(PATH, content=body, headers=headers, timeout=TIMEOUT_S).status_code
        except httpx.TransportError:
            return None

    def _taken(self) -> int | None:
        """Wait for the next turn and return the number of the session to send, or None at the end."""
        with self._lock:
            at = max(self._next_at, time.monotonic())
            self._next_at = at + self._pause_s
        if self._ending.wait(max(0.0, at - time.monotonic())) or self._aborted.is_set():
            return None
        with self._lock:
            if self._queue:
                self.again += 1
                return self._queue.pop()
            if self._left is not None:
                if self._left <= 0:
                    return None
                self._left -= 1
            if self._delivered and self._random.random() < AGAIN:
                self.again += 1
                return self._random.choice(self._delivered)
            self._numbers += 1
            return self._numbers

    def _note(self, number: int, fate: Fate, answer: httpx.Response | None) -> None:
        if fate is not Fate.DELIVERED or answer is None:
            self.given_up.append(f"{number}: {answer.status_code if answer else 'no answer'}")
            return
        self.answered += 1
        session = answer.headers["location"].rsplit("/", 1)[1]
        first = self._ids.setdefault(number, session)
        if first != session:
            self.renamed.append(session)
        if session not in self.acknowledged:
            self.acknowledged[session] = time.monotonic()
            self.in_order.append(session)
            self._delivered.append(number)

    def _body(self, number: int) -> bytes:
        start, *rest = self._template
        visitor = f"{number:038d}"
        params = {**start["params"], "media.id": f"film-{number}", "visitor.marketingCloudUserId": visitor}
        return json.dumps([{**start, "params": params}, *rest]).encode()

    def _wait(self, _seconds: float) -> None:
        if self._aborted.wait(RETRY_S):
            raise _Stopped


def bad(mark: str) -> bytes:
    """Return a body that no door accepts."""
    event = {"eventType": "sessionStart", "playerTime": {"playhead": 0}, "params": {"media.id": mark}}
    return json.dumps([event]).encode()


def rebuilt(body: bytes, rng: Random) -> bytes:
    """Return the same session in other bytes: members in another order, and what a later try may know."""
    events: Sequence[dict[str, Any]] = json.loads(body)
    found = [_shuffled(event, rng) for event in events]
    found[0]["params"]["visitor.aamLocationHint"] = rng.randint(1, 9)
    if rng.random() < 1 / 2:
        found[0]["params"]["analytics.aid"] = f"{rng.getrandbits(64):016X}-{rng.getrandbits(64):016X}"
    separators = (", ", ": ") if rng.random() < 1 / 2 else (",", ":")
    return json.dumps(found, separators=separators).encode()


def _shuffled(value: Any, rng: Random) -> Any:
    if not isinstance(value, dict):
        return value
    names = list(value)
    rng.shuffle(names)
    return {name: _shuffled(value[name], rng) for name in names}
