"""Watch the sessions come out while faults happen, and say when they flow again."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from typing import Final, Protocol

from confluent_kafka import Consumer, TopicPartition

from faults.deployment import PARTITIONS
from faults.fleet import AGAIN
from faults.outputs import consumer_config

WINDOW_S: Final = 1.0
LEAST_PART: Final = 0.5
"""Outputs flow when at least this part of the load's new sessions came out in the window…"""
OLDEST_S: Final = 3.0
"""… and none that was acknowledged longer ago than this is still awaited."""
CALM_S: Final = 2.5
"""After so long without a breach the outputs flow again."""
LOOK_S: Final = 0.1


class Sent(Protocol):
    """What the devices know: every acknowledged session with its moment, and in order."""

    acknowledged: dict[str, float]
    in_order: list[str]


class Arrivals:
    """Which sessions came out, and when; all times are of one monotonic clock."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.seen: dict[str, float] = {}
        self._monotonic = monotonic
        self._moments: list[float] = []
        self._oldest = 0

    def note(self, session: str) -> None:
        """Take a session that came out; only its first time counts."""
        if session not in self.seen:
            self.seen[session] = self._monotonic()
            self._moments.append(self.seen[session])

    def out_within(self, seconds: float) -> int:
        """Return how many sessions came out first in the last so many seconds."""
        return len(self._moments) - bisect_left(self._moments, self._monotonic() - seconds)

    def is_even(self, sent: Sent) -> bool:
        """Return whether every acknowledged session has come out."""
        return self.awaited_since(sent) is None

    def awaited_since(self, sent: Sent) -> float | None:
        """Return when the oldest session that is still awaited was acknowledged, or None."""
        order = sent.in_order
        while self._oldest < len(order) and order[self._oldest] in self.seen:
            self._oldest += 1
        return sent.acknowledged[order[self._oldest]] if self._oldest < len(order) else None

    def flows(self, sent: Sent, rate_per_s: float) -> bool:
        """Return whether sessions come out at the rate of the load."""
        since = self.awaited_since(sent)
        if since is not None and self._monotonic() - since > OLDEST_S:
            return False
        return self.out_within(WINDOW_S) >= LEAST_PART * rate_per_s * (1 - AGAIN) * WINDOW_S


class Watch(Arrivals):
    """Follows `media.sessions` as a `read_committed` consumer would; only for the eye and for times."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        super().__init__()
        self._stop = threading.Event()
        self._consumer = Consumer(consumer_config(bootstrap))
        self._consumer.assign([TopicPartition(f"{prefix}media.sessions", p, 0) for p in range(PARTITIONS)])
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop following."""
        self._stop.set()
        self._thread.join(30)
        self._consumer.close()

    def _follow(self) -> None:
        while not self._stop.is_set():
            for message in self._consumer.consume(500, 0.1):
                if message.error() is None:
                    self.note(bytes(message.key() or b"").decode())


class Recovery:
    """Measures the time from a fault's begin to the last moment at which outputs did not flow."""

    def __init__(self, watch: Arrivals, fleet: Sent, rate_per_s: float) -> None:
        self._watch = watch
        self._fleet = fleet
        self._rate_per_s = rate_per_s
        self._began_at = time.monotonic()
        self._last_breach_at = self._began_at
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    @property
    def seconds(self) -> float:
        """How long outputs were disturbed; 0 when nobody downstream could notice the fault."""
        return self._last_breach_at - self._began_at

    def await_calm(self, deadline_s: float = 90.0) -> bool:
        """Wait until outputs have flowed for a while; return False when they don't by the deadline."""
        since = time.monotonic()
        while time.monotonic() - max(since, self._last_breach_at) < CALM_S:
            if time.monotonic() - since > deadline_s:
                return False
            time.sleep(LOOK_S)
        return True

    def stop(self) -> None:
        """Look no more: the load is about to end."""
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        # The first window would look at what came out before the fault.
        while not self._stop.wait(LOOK_S):
            now = time.monotonic()
            if now - self._began_at > WINDOW_S and not self._watch.flows(self._fleet, self._rate_per_s):
                self._last_breach_at = now
