"""Bounds the records that were made and wait for their commit, over all partitions of a worker.

Each partition has its transaction, bounded by `PIPELINE_WORKER_OUTPUT_BYTES`; the stages, which are one
thread for all partitions, wait while so many transactions' worth of records are on their way.
"""

from __future__ import annotations

import threading
from typing import Final

TRANSACTIONS: Final = 4
LONGEST_WAIT_S: Final = 60.0
"""A commit that takes longer ends the worker anyway."""


class Room:
    """How many bytes are on their way; `take` and `give` may be called from different threads."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._held_bytes = 0
        self._changed = threading.Condition()

    def wait(self) -> None:
        """Return when there is room, or nothing was given back for too long."""
        with self._changed:
            self._changed.wait_for(lambda: self._held_bytes < self._most_bytes, LONGEST_WAIT_S)

    def take(self, size_bytes: int) -> None:
        """Hold these bytes too, even beyond the limit: they exist already."""
        with self._changed:
            self._held_bytes += size_bytes

    def give(self, size_bytes: int) -> None:
        """Let go of these bytes."""
        with self._changed:
            self._held_bytes -= size_bytes
            self._changed.notify()
