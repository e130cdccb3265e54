"""The times of a session: which day it was watched, how late it came, what is doubtful."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline.session.datastream import OPEN_DATASTREAM, Datastream
from pipeline.session.measure import measure
from pipeline.session.model import Session, TimeLedger
from pipeline.session.timeledger import time_ledger
from pipeline.wire import media_edge
from pipeline.wire.encode import to_media_edge
from tests.stories import BASE_MS, story

HOUR_MS = 3_600_000


def at(text: str) -> int:
    """Return a moment of UTC in ms."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def viewed(start: str, minutes: int = 60) -> Session:
    """A session that starts at this moment of UTC."""
    shift = (at(start) - BASE_MS) / 1000
    return story(f"{shift} start, {shift + minutes * 60} end")


def ledger(session: Session, received: str | int, zone: str = "UTC") -> TimeLedger:
    datastream = Datastream(time_zone=zone)
    received_ms = at(received) if isinstance(received, str) else received
    return time_ledger(session, measure(session, datastream.rules), received_ms, datastream)


@pytest.mark.parametrize(
    ("zone", "day"),
    [("UTC", "2026-03-29"), ("America/New_York", "2026-03-28"), ("Asia/Tokyo", "2026-03-29")],
)
def test_a_viewing_day_is_the_day_of_the_start_in_the_zone(zone: str, day: str) -> None:
    assert ledger(viewed("2026-03-29T03:30:00"), "2026-03-29T12:00:00", zone).viewing_day == day


def test_a_zone_has_its_summer_time() -> None:
    # Berlin is at +01:00 until 01:00 UTC of 29 March 2026, at +02:00 from then on.
    assert ledger(viewed("2026-03-28T22:30:00"), "2026-04-01", "Europe/Berlin").viewing_day == "2026-03-28"
    assert ledger(viewed("2026-03-29T22:30:00"), "2026-04-01", "Europe/Berlin").viewing_day == "2026-03-30"


def test_a_day_is_late_when_it_had_ended_in_its_zone_at_the_receipt() -> None:
    evening = viewed("2026-05-01T20:00:00")
    assert not ledger(evening, "2026-05-01T23:59:59").is_late_day
    assert ledger(evening, "2026-05-02T00:00:00").is_late_day
    # In New York the first of May ends at 04:00 UTC.
    assert not ledger(evening, "2026-05-02T03:59:59", "America/New_York").is_late_day
    assert ledger(evening, "2026-05-02T04:00:00", "America/New_York").is_late_day


def test_a_session_over_midnight_is_of_the_day_of_its_start() -> None:
    found = ledger(viewed("2026-05-01T23:30:00"), "2026-05-02T00:40:00")
    assert (found.viewing_day, found.is_late_day) == ("2026-05-01", True)


def test_lateness_is_receipt_minus_the_last_event_and_may_be_negative() -> None:
    session = story("0 start, 60 end")
    assert ledger(session, BASE_MS + 100_000).lateness_ms == 40_000
    ahead = ledger(session, BASE_MS + 50_000)
    assert (ahead.lateness_ms, [*ahead.flags]) == (-10_000, ["clock_ahead"])


def test_the_devices_own_clock_at_upload_bounds_its_skew() -> None:
    item: dict[str, Any] = json.loads(to_media_edge(story("0 start, 60 end")))
    item["xdm"]["timestamp"] = "2023-11-14T23:14:20+01:00"  # one minute after the start
    session = media_edge.decode(json.dumps(item).encode(), OPEN_DATASTREAM)
    near, far = ledger(session, BASE_MS + 61_000), ledger(session, BASE_MS + 60_000 + HOUR_MS)
    assert (near.sent_at_ms, near.skew_ms, near.flags) == (BASE_MS + 60_000, 1_000, frozenset())
    assert (far.skew_ms, [*far.flags]) == (HOUR_MS, ["skew_suspected"])
    assert ledger(story("0 start, 60 end"), BASE_MS + HOUR_MS).skew_ms is None


def test_a_device_whose_clock_lies_keeps_its_times() -> None:
    for start in ("1970-01-01T00:00:00", "2040-01-01T00:00:00", "9999-12-31T22:00:00"):
        found = ledger(viewed(start), "2026-05-02T00:00:00", "Pacific/Kiritimati")
        assert found.started_at_ms == at(start)
        assert found.flags & {"clock_not_set", "future_ts"}
