"""Quality of a session: bitrate, dropped frames, frame rate, time to start, errors (`spec/metrics.csv`)."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.session.datastream import BitrateUnit
from pipeline.session.model import Qoe, Scalar
from pipeline.session.rounding import half_up


class Quality:
    """The quality values seen so far; `play` weighs the bitrate by play time."""

    __slots__ = (
        "_bitrate",
        "_dropped_frames",
        "_first_later_start",
        "_frames_per_second",
        "_start",
        "_weighed",
        "_weighed_ms",
        "bitrate_changes",
        "errors",
        "external_errors",
        "player_errors",
    )

    def __init__(self) -> None:
        self._bitrate: float | None = None
        self._dropped_frames: float | None = None
        self._frames_per_second: float | None = None
        self._start: float | None = None
        self._first_later_start: float | None = None
        self._weighed = 0.0
        self._weighed_ms = 0
        self.bitrate_changes = 0
        self.errors = 0
        self.player_errors: dict[str, None] = {}
        self.external_errors: dict[str, None] = {}

    def report(self, qoe: Qoe, *, has_played: bool) -> None:
        """Take the values of one event; `has_played` is whether content had started before it."""
        if qoe.bitrate is not None:
            self._bitrate = qoe.bitrate
        if qoe.dropped_frames is not None:
            self._dropped_frames = qoe.dropped_frames
        if qoe.frames_per_second is not None:
            self._frames_per_second = qoe.frames_per_second
        if qoe.time_to_start_ms is not None:
            if not has_played:
                self._start = qoe.time_to_start_ms
            elif self._first_later_start is None:
                self._first_later_start = qoe.time_to_start_ms

    def play(self, took_ms: int) -> None:
        """Weigh the last bitrate with one interval of play."""
        if self._bitrate is not None:
            self._weighed += self._bitrate * took_ms
            self._weighed_ms += took_ms

    def error(self, details: Mapping[str, Scalar]) -> None:
        """Count one error; ids are listed once, by source."""
        self.errors += 1
        name = details.get("name")
        if name:
            source = self.external_errors if details.get("source") == "external" else self.player_errors
            source[str(name)] = None

    def bitrate_average_kbps(self, unit: BitrateUnit) -> int | None:
        """Return the mean bitrate over play time, or None when none was known while playing."""
        if not self._weighed_ms:
            return None
        mean = self._weighed / self._weighed_ms
        return half_up(mean / 1000 if unit is BitrateUnit.BPS else mean)

    @property
    def dropped_frames(self) -> int | None:
        """The last reported number of dropped frames."""
        return None if self._dropped_frames is None else half_up(self._dropped_frames)

    @property
    def frames_per_second(self) -> int | None:
        """The last reported frame rate."""
        return None if self._frames_per_second is None else half_up(self._frames_per_second)

    @property
    def time_to_start_ms(self) -> int | None:
        """The last value up to the first content play, else the first later one."""
        value = self._start if self._start is not None else self._first_later_start
        return None if value is None else half_up(value)


def bucket(bitrate_kbps: int | None) -> str | None:
    """Return the bucket of 100 kbps, for example `0-99` for 35."""
    if bitrate_kbps is None:
        return None
    low = bitrate_kbps // 100 * 100
    return f"{low}-{low + 99}"
