"""Waiting for a state instead of a time."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(holds: Callable[[], bool], otherwise: str = "it never came", deadline_s: float = 60.0) -> None:
    """Wait until this holds, for so long as any machine needs."""
    end = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < end, otherwise
        time.sleep(0.01)
