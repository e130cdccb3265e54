"""The limit on the worker's own dead letters, judged before each commit: a bad deploy drains no topic.

Counted are uploads that the worker itself could not carry (`OWN_REASONS`), never the door's refusals. The
window is an entry of the index, so that it goes with the partition and over restarts; it is halved when it
is full, so that what is long ago weighs less and less.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from pipeline.contract.records import IndexEntry
from pipeline.stages.prepare import Prepared, Refusal

WINDOW_UPLOADS: Final = 1_000

OWN_REASONS: Final = frozenset({"door_disagrees", "undecodable"})
"""With `internal_error`, where it was the worker's and not the door's, the worker's own doing.

`record_too_large` is not: a device can send bodies that give too much, and must not stop a worker.
"""


class Limit(NamedTuple):
    """When it is a flood: more than `percent` of the window's uploads, and at least `least` of them."""

    percent: int
    least: int


DEFAULT_LIMIT: Final = Limit(10, 20)


class Flooded(Exception):
    """Too many uploads became dead letters by our own doing: the worker must stop and commit nothing."""


def window_key(partition: int) -> bytes:
    """Return the key of a partition's window in the index."""
    return f"window:media.uploads:{partition}".encode()


def judged(
    window: IndexEntry | None, uploads: int, rejected: Sequence[Prepared], limit: Limit, now_ms: int
) -> IndexEntry | None:
    """Return the window with this batch (None while there is nothing to remember), or raise `Flooded`."""
    own = [end.refusal.reason for end in rejected if end.refusal is not None and is_own(end.refusal)]
    before = (window.dead_letters or 0) if window else 0
    if not own and not before:
        return None
    seen, dead = uploads, before + len(own)
    if window is not None:
        seen += window.uploads or 0
    if own and dead >= limit.least and dead * 100 > limit.percent * seen:
        raise Flooded(
            f"{dead} of the last {seen} uploads of a partition would be dead letters of the worker's own "
            f"doing ({', '.join(sorted(set(own)))}), "
            f"over PIPELINE_WORKER_DEAD_LETTERS_PERCENT={limit.percent}. "
            "Nothing of this batch was committed: look at what was deployed last (a version, the datastreams "
            "file, on the ingest and here), or raise the setting to let them go"
        )
    while seen > WINDOW_UPLOADS:
        seen, dead = seen // 2, dead // 2
    return IndexEntry(kind="window", uploads=seen, dead_letters=dead, recorded_at_ms=now_ms)


def is_own(refusal: Refusal) -> bool:
    """Return whether an upload is rejected by the worker's own doing."""
    return refusal.reason in OWN_REASONS or (refusal.reason == "internal_error" and refusal.fault is not None)
