"""Played playhead spans: unique time played, progress markers and segment (`spec/media-collection.md` 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from pipeline.session.datastream import MarkerRule, Rules
from pipeline.session.rounding import half_up

MARKERS: Final = (10, 25, 50, 75, 95)
"""The progress markers, in per cent of the content length."""


class PlayedSpans:
    """The parts of the content that were played, collected one content interval at a time."""

    __slots__ = ("_max_rate", "_slack_s", "highest", "lowest", "sought", "spans")

    def __init__(self, rules: Rules) -> None:
        self._max_rate = rules.max_play_rate / 1000
        self._slack_s = rules.seek_slack_ms / 1000
        self.spans: list[tuple[float, float]] = []
        self.lowest = math.inf
        self.highest = -math.inf
        self.sought = False

    def add(self, from_s: float, to_s: float, took_ms: int) -> None:
        """Take one content interval: a step that playing explains is a span, any other is a seek."""
        lowest, highest = (from_s, to_s) if from_s <= to_s else (to_s, from_s)
        if lowest < self.lowest:
            self.lowest = lowest
        if highest > self.highest:
            self.highest = highest
        if to_s == from_s:
            return
        if self.is_seek(from_s, to_s, took_ms):
            self.sought = True
            return
        spans = self.spans
        if spans and spans[-1][1] == from_s:
            spans[-1] = (spans[-1][0], to_s)
        else:
            spans.append((from_s, to_s))

    def is_seek(self, from_s: float, to_s: float, took_ms: int) -> bool:
        """Return whether playing does not explain this step of the playhead."""
        return to_s < from_s or to_s - from_s > self._max_rate * took_ms + self._slack_s

    def unique_ms(self) -> int:
        """Return the measure of the union of the spans, in ms of content."""
        return half_up(sum(to_s - from_s for from_s, to_s in self.union()) * 1000)

    def union(self) -> list[tuple[float, float]]:
        """Return the parts of the content that were played, in order and apart."""
        found: list[tuple[float, float]] = []
        for from_s, to_s in sorted(self.spans):
            if found and from_s <= found[-1][1]:
                if to_s > found[-1][1]:
                    found[-1] = (found[-1][0], to_s)
            else:
                found.append((from_s, to_s))
        return found

    def markers(self, length_s: float, rule: MarkerRule) -> tuple[int, ...]:
        """Return the progress markers that count under this rule (6.12)."""
        if length_s <= 0:
            return ()
        if rule is MarkerRule.REACHED:
            return tuple(m for m in MARKERS if self.highest >= length_s * m / 100)
        return tuple(m for m in MARKERS if _contained(length_s * m / 100, self.spans))

    def segment(self, step_min: int) -> str | None:
        """Return `[a-b]` in minutes, at least one step wide, or None when nothing was played (6.13)."""
        if self.lowest > self.highest:
            return None
        step_s = 60 * step_min
        first = math.floor(self.lowest / step_s)
        last = max(math.ceil(self.highest / step_s), first + 1)
        return f"[{first * step_min}-{last * step_min}]"


def _contained(playhead_s: float, spans: Sequence[tuple[float, float]]) -> bool:
    return any(from_s <= playhead_s <= to_s for from_s, to_s in spans)
