"""Health means progress: lag while a position stands still is sick, whatever else looks fine.

Each partition is looked at by itself: that others move says nothing of one that hangs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

LOOK_S: Final = 1.0
LOOKS: Final = 2
"""So many looks in a row must find the worker sick: one that was frozen has to see its own state first."""


class Progress:
    """What the worker last saw of itself; times are seconds of one monotonic clock."""

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._positions: Mapping[int, int] = {}
        self._lag: Mapping[int, int] = {}
        self._moved_at: dict[int, float] = {}
        self._looked_at: float | None = None
        self._is_working = False

    def observe(self, now: float, positions: Mapping[int, int], lag: Mapping[int, int]) -> None:
        """Take the committed positions and the lag of every partition that this worker owns."""
        self._moved_at = {
            partition: self._moved_at[partition]
            if lag.get(partition)
            and self._positions.get(partition) == position
            and partition in self._moved_at
            else now
            for partition, position in positions.items()
        }
        self._positions, self._lag = dict(positions), dict(lag)
        self._looked_at, self._is_working = now, True

    def standing(self, now: float) -> Mapping[int, int]:
        """Return how many uploads wait, by partition, where some do and have stood still for too long."""
        return {
            partition: self._lag[partition]
            for partition, moved_at in self._moved_at.items()
            if self._lag.get(partition) and now - moved_at > self._stall_s
        }

    def rest(self, now: float) -> None:
        """Take that nothing can move now, while partitions are taken over: nor is the worker ready."""
        self._moved_at = dict.fromkeys(self._moved_at, now)
        self._looked_at, self._is_working = now, False

    def is_ready(self) -> bool:
        """Return whether no take-over is going on; the group may have given this worker no partition."""
        return self._is_working

    def is_sick(self, now: float) -> bool:
        """Return whether for too long uploads of a partition waited while it stood still, or nobody looked.

        The second is an event loop that hangs.
        """
        if self._looked_at is None:
            return False
        is_blind = now - self._looked_at > self._stall_s
        return is_blind or bool(self.standing(now))


def watch(
    progress: Progress,
    monotonic: Callable[[], float],
    on_sick: Callable[[], object],
    look_s: float = LOOK_S,
) -> threading.Thread:
    """Start a thread that calls `on_sick` once the worker is sick; it needs no event loop to see that."""

    def look() -> None:
        looks = 0
        while looks < LOOKS:
            time.sleep(look_s)
            looks = looks + 1 if progress.is_sick(monotonic()) else 0
        on_sick()

    thread = threading.Thread(target=look, name="watch", daemon=True)
    thread.start()
    return thread
