"""Watch the sessions come out while faults happen, and say when they flow again."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from typing import Final

from confluent_kafka import Consumer, TopicPartition

from faults.fleet import AGAIN, Fleet
from faults.outputs import consumer_config
from faults.program import PARTITIONS

WINDOW_S: Final = 1.0
LEAST_PART: Final = 0.5
"""Outputs flow when at least this part of the load's new sessions came out in the window…"""
OLDEST_S: Final = 3.0
"""… and none that was acknowledged longer ago than this is still awaited."""
CALM_S: Final = 2.5
"""After so long without a breach the outputs flow again."""
LOOK_S: Final = 0.1


class Watch:
    """Follows `media.sessions` as a `read_committed` consumer would; only for the eye and for times."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        self.seen: dict[str, float] = {}
        self._moments: list[float] = []
        self._oldest = 0
        self._stop = threading.Event()
        self._consumer = Consumer(consumer_config(bootstrap))
        topic = "media.sessions"
        self._consumer.assign([TopicPartition(prefix + topic, p, 0) for p in range(PARTITIONS)])
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop following."""
        self._stop.set()
        self._thread.join(30)
        self._consumer.close()

    def out_within(self, seconds: float) -> int:
        """Return how many sessions came out first in the last so many seconds."""
        return len(self._moments) - bisect_left(self._moments, time.monotonic() - seconds)

    def is_even(self, fleet: Fleet) -> bool:
        """Return whether every acknowledged session has come out."""
        return self.awaited_since(fleet) is None

    def awaited_since(self, fleet: Fleet) -> float | None:
        """Return when the oldest session that is still awaited was acknowledged, or None."""
        order = fleet.in_order
        while self._oldest < len(order) and order[self._oldest] in self.seen:
            self._oldest += 1
        return fleet.acknowledged[order[self._oldest]] if self._oldest < len(order) else None

    def flows(self, fleet: Fleet, rate_per_s: float) -> bool:
        """Return whether sessions come out at the rate of the load."""
        since = self.awaited_since(fleet)
        if since is not None and time.monotonic() - since > OLDEST_S:
            return False
        return self.out_within(WINDOW_S) >= LEAST_PART * rate_per_s * (1 - AGAIN) * WINDOW_S

    def _follow(self) -> None:
        while not self._stop.is_set():
            for message in self._consumer.consume(500, 0.1):
                if message.error() is None:
                    session = bytes(message.key() or b"").decode()
                    if session not in self.seen:
                        self.seen[session] = time.monotonic()
                        self._moments.append(self.seen[session])


class Recovery:
    """Measures the time from a fault's begin to the last moment at which outputs did not flow."""

    def __init__(self, watch: Watch, fleet: Fleet, rate_per_s: float) -> None:
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
