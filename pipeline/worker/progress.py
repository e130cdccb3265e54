"""Health means progress: lag while positions stand still is sick, whatever else looks fine."""

from __future__ import annotations

from collections.abc import Mapping


class Progress:
    """What the worker last saw of itself; times are seconds of one monotonic clock."""

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._positions: Mapping[int, int] = {}
        self._lag: Mapping[int, int] = {}
        self._moved_at = 0.0
        self._is_working = False

    @property
    def lag(self) -> Mapping[int, int]:
        """Uploads that wait, by partition."""
        return self._lag

    def observe(self, now: float, positions: Mapping[int, int], lag: Mapping[int, int]) -> None:
        """Take the committed positions and the lag of every partition that this worker owns."""
        if positions != self._positions or not any(lag.values()):
            self._moved_at = now
        self._positions, self._lag, self._is_working = dict(positions), dict(lag), True

    def rest(self, now: float) -> None:
        """Take that nothing can move now, while partitions are taken over."""
        self._moved_at = now

    def is_ready(self) -> bool:
        """Return whether partitions were taken over, or the group gave this worker none."""
        return self._is_working

    def is_sick(self, now: float) -> bool:
        """Return whether uploads have waited for too long while nothing moved."""
        return any(self._lag.values()) and now - self._moved_at > self._stall_s
