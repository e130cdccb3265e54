"""Limits that answer 503: requests a second, refused bytes an hour, and faults of ours a minute.

(Two more are kept elsewhere: memory of bodies in `body.py`, connections in `protocol.py`.)

The endpoint is open to the world, and refused bodies are kept (nothing is lost), so what they may fill is
bounded. A limit that is hit makes SDKs keep the session and try again; Android gives up after three.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from pipeline.session.datastream import Datastream

HOUR_S: Final = 3_600.0
MINUTE_S: Final = 60.0
LATEST_ANSWER_S: Final = 4.5
"""How long an answer that waits for anything may take to be made: SDKs wait 5 s."""


class Limit(StrEnum):
    """Which limit was hit; the label of `pipeline_limited_total`."""

    RATE = "rate"
    QUOTA = "quota"
    FAULTS = "faults"
    MEMORY = "memory"
    CONNECTIONS = "connections"


class Limits:
    """Counts per datastream, in memory of one process; times are seconds of one monotonic clock."""

    def __init__(
        self, datastreams: Mapping[str, Datastream], refused_bytes_per_hour: int, faults_per_minute: int
    ) -> None:
        self._datastreams = datastreams
        self._refused_bytes_per_hour = refused_bytes_per_hour
        self._faults_per_minute = faults_per_minute
        self._seconds: dict[str, tuple[float, int]] = {}
        self._hours: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
        self._faults: deque[float] = deque(maxlen=max(1, faults_per_minute))

    def hit(self, datastream_id: str, refused_bytes: int, now: float) -> Limit | None:
        """Return the limit that this request goes over, or count it and return None."""
        if self.has_too_many_faults(now):
            return Limit.FAULTS
        datastream = self._datastreams.get(datastream_id)
        if refused_bytes and self._is_over_quota(datastream_id, refused_bytes, now):
            return Limit.QUOTA
        if datastream is not None and datastream.rate_per_s and self._is_over_rate(datastream, now):
            return Limit.RATE
        if refused_bytes:
            self._charge(datastream_id, refused_bytes)
        return None

    def give_back(self, datastream_id: str, refused_bytes: int) -> None:
        """Take refused bytes out of the quota again that `hit` has counted: they could not be stored."""
        self._charge(datastream_id, -refused_bytes)

    def count_fault(self, now: float) -> None:
        """Count an unexpected exception."""
        self._faults.append(now)

    def has_too_many_faults(self, now: float) -> bool:
        """Return whether there were as many faults within the last minute as there may be."""
        return len(self._faults) == self._faults_per_minute and now - self._faults[0] < MINUTE_S

    def _is_over_rate(self, datastream: Datastream, now: float) -> bool:
        second = float(int(now))
        start, count = self._seconds.get(datastream.id, (second, 0))
        if start != second:
            start, count = second, 0
        if count >= datastream.rate_per_s:
            return True
        self._seconds[datastream.id] = (start, count + 1)
        return False

    def _is_over_quota(self, datastream_id: str, refused_bytes: int, now: float) -> bool:
        datastream = self._datastreams.get(datastream_id)
        quota = (datastream.refused_bytes_per_hour if datastream else 0) or self._refused_bytes_per_hour
        name = self._quota_of(datastream_id)
        start, count = self._hours[name]
        if now - start >= HOUR_S:
            start, count = self._hours[name] = (now, 0)
        return count + refused_bytes > quota

    def _charge(self, datastream_id: str, refused_bytes: int) -> None:
        name = self._quota_of(datastream_id)
        start, count = self._hours[name]
        self._hours[name] = (start, max(0, count + refused_bytes))

    def _quota_of(self, datastream_id: str) -> str:
        """Return whose count it is: what no datastream claims shares one, whatever names are invented."""
        return datastream_id if datastream_id in self._datastreams else ""
