"""The times of a session and what is doubtful about them; nothing is shifted (DESIGN.md 2.5, 6.10)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from pipeline.session.datastream import Datastream
from pipeline.session.model import Session, TimeLedger, Viewing

FUTURE_MS: Final = 24 * 3_600_000
SKEW_MS: Final = 5 * 60_000
CLOCK_SET_MS: Final = 1_262_304_000_000
"""The start of 2010, before any client of these APIs existed."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def time_ledger(
    session: Session, viewing: Viewing, received_at_ms: int, datastream: Datastream
) -> TimeLedger:
    """Return the session's times, with every doubt as a flag; all times in ms since 1970 UTC."""
    flags: set[str] = set()
    if viewing.ended_at_ms > received_at_ms:
        flags.add("clock_ahead")
        if viewing.ended_at_ms > received_at_ms + FUTURE_MS:
            flags.add("future_ts")
    if min([event.occurred_at_ms for event in viewing.events]) < CLOCK_SET_MS:
        flags.add("clock_not_set")
    skew_ms = None if session.sent_at_ms is None else received_at_ms - session.sent_at_ms
    if skew_ms is not None and abs(skew_ms) > SKEW_MS:
        flags.add("skew_suspected")
    day = day_of(viewing.started_at_ms, datastream)
    return TimeLedger(
        started_at_ms=viewing.started_at_ms,
        ended_at_ms=viewing.ended_at_ms,
        received_at_ms=received_at_ms,
        sent_at_ms=session.sent_at_ms,
        lateness_ms=received_at_ms - viewing.ended_at_ms,
        viewing_day=day,
        is_late_day=day_of(received_at_ms, datastream) > day,
        skew_ms=skew_ms,
        flags=frozenset(flags),
    )


def day_of(at_ms: int, datastream: Datastream) -> str:
    """Return the day of this moment where the datastream counts its days, as an ISO date."""
    zone = _zone(datastream.time_zone)
    moment = _EPOCH + timedelta(milliseconds=at_ms)
    try:
        return moment.astimezone(zone).date().isoformat()
    except OverflowError:  # the first or last day of the calendar, moved beyond it by the zone
        return moment.date().isoformat()


@lru_cache(maxsize=256)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)
