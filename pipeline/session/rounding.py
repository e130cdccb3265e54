"""Rounding: inside everything is integer milliseconds; seconds are made once, at output, half up."""

from __future__ import annotations

import math


def seconds(span_ms: int) -> int:
    """Return whole seconds, rounded half up (`spec/media-collection.md` 3, rounding)."""
    return (span_ms + 500) // 1000


def half_up(value: float) -> int:
    """Return the whole number nearest to `value`, half up."""
    return math.floor(value + 0.5)
