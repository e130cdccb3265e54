"""The list of flags is closed: each one is raised here, by the smallest session that has the doubt."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import pytest

from pipeline.session.calls import analytics_calls
from pipeline.session.datastream import Datastream
from pipeline.session.flags import FLAGS
from pipeline.session.identity import session_id
from pipeline.session.measure import measure
from pipeline.session.model import Form, Session, Visitor
from pipeline.session.timeledger import time_ledger
from pipeline.wire import media_collection, media_edge
from pipeline.wire.encode import to_media_collection, to_media_edge
from tests.stories import BASE_MS, story

DAY_MS: Final = 86_400_000

STORIES: Final[dict[str, str]] = {
    "adComplete_without_ad_ignored": "0 start, 1 adcomplete, 2 end",
    "ad_outside_break_ignored": "0 start, 1 ad, 2 end",
    "chapterComplete_without_chapter_ignored": "0 start, 1 chapterskip, 2 end",
    "clock_not_set": "-1699990000 start, -1699980000 end",
    "clock_regression": "0 start, 5 ping, 4 end",
    "equal_ts": "0 start, 0 play, 2 end",
    "events_after_sessionComplete": "0 start, 1 complete, 2 ping",
    "events_after_sessionEnd_dropped": "0 start, 1 end, 2 ping",
    "gap_over_10min": "0 start, 601 end",
    "idle_over_30min": "0 start, 0 buffer, 500 ping, 1000 ping, 1500 ping, 1900 end",
    "over_24h": "0 start, 86401 end",
    "playhead_beyond_length": "0 start, 1 ping @100.5, 2 end @5",
    "seek_detected": "0 start, 0 play @50, 9 ping @10, 19 end @20",
    "stateEnd_without_start_ignored": "0 start, 1 off mute, 2 end",
    "state_limit": "0 start, " + ", ".join(f"1 on s{n}" for n in range(11)) + ", 2 end",
}
"""Doubts of the events themselves."""


def flags_of(session: Session, received_at_ms: int = BASE_MS + DAY_MS, **datastream: Any) -> frozenset[str]:
    """Return every flag that comes of a session, as the record of the session has them."""
    tenant = Datastream(**datastream)
    viewing = measure(session, tenant.rules)
    calls = analytics_calls(session, viewing, session_id(session, tenant), tenant)
    times = time_ledger(session, viewing, received_at_ms, tenant)
    return viewing.flags.union(times.flags, *(call.flags for call in calls))


def of_media_collection(change: Callable[[list[Any]], object]) -> frozenset[str]:
    body = json.loads(to_media_collection(story("0 start, 1 play, 9 end")))
    change(body)
    return flags_of(media_collection.decode(json.dumps(body).encode(), "/api/v1/downloaded"))


def of_media_edge(change: Callable[[dict[str, Any]], object], **datastream: Any) -> frozenset[str]:
    item = json.loads(to_media_edge(story("0 start, 1 play, 9 end")))
    change(item)
    tenant = Datastream(**datastream)
    return flags_of(media_edge.decode(json.dumps(item).encode(), tenant), **datastream)


def event(item: dict[str, Any], index: int) -> Any:
    return item["xdm"]["mediaDownloadedEvents"][index]["mediaCollection"]


NOW: Final = story("0 start, 1 play, 9 end")
CUSTOM: Final = NOW._replace(
    events=(NOW.events[0]._replace(custom_metadata={"two words": "x"}), *NOW.events[1:])
)
OTHERS: Final[dict[str, Callable[[], frozenset[str]]]] = {
    "clock_ahead": lambda: flags_of(NOW, BASE_MS + 8_000),
    "context_key_invalid": lambda: flags_of(CUSTOM),
    "context_truncated": lambda: flags_of(story("0 start, 9 end", show="x" * 256)),
    "custom_metadata_ignored": lambda: of_media_collection(
        lambda body: body[1].update(customMetadata={"k": "v"})
    ),
    "details_ignored": lambda: of_media_edge(lambda item: event(item, 1).update(errorDetails={})),
    "fraction_rounded": lambda: of_media_collection(
        lambda body: body[1].update(qoeData={"media.qoe.framesPerSecond": 23.5})
    ),
    "future_ts": lambda: flags_of(NOW, BASE_MS + 8_999 - DAY_MS),
    "length_not_positive": lambda: flags_of(story("0 start, 9 end", length=0)),
    "metadata_key_media": lambda: of_media_collection(
        lambda body: body[0].update(customMetadata={"media.k": "v"})
    ),
    "metadata_key_reserved": lambda: of_media_collection(
        lambda body: body[0].update(customMetadata={"a.k": "v"})
    ),
    "mid_generated": lambda: flags_of(
        story("0 start, 9 end", form=Form.MEDIA_EDGE)._replace(visitor=Visitor())
    ),
    "session_id_ignored": lambda: of_media_edge(
        lambda item: event(item, 1).update(sessionID="x"), ignore_session_id=True
    ),
    "skew_suspected": lambda: flags_of(NOW._replace(sent_at_ms=BASE_MS), BASE_MS + 300_001),
    "unknown_member": lambda: of_media_edge(lambda item: event(item, 1).update(extra=1)),
    "unknown_param": lambda: of_media_collection(lambda body: body[0]["params"].update({"media.new": 1})),
    "vid_with_ts": lambda: flags_of(NOW._replace(visitor=Visitor(vid="v"))),
}
"""Doubts of the upload, of its time of receipt, or of what Analytics makes of it."""


def test_every_flag_of_the_list_is_raised_by_one_of_these() -> None:
    assert sorted([*STORIES, *OTHERS]) == sorted(FLAGS)


@pytest.mark.parametrize("flag", STORIES)
def test_a_doubt_of_the_events_becomes_its_flag(flag: str) -> None:
    assert flag in flags_of(story(STORIES[flag]))


@pytest.mark.parametrize("flag", OTHERS)
def test_a_doubt_of_the_upload_becomes_its_flag(flag: str) -> None:
    assert flag in OTHERS[flag]()


def test_a_clock_that_is_not_set_is_seen_inside_a_session_too() -> None:
    text = "0 start, 5 ping, -1699990000 ping, 9 end"
    assert {"clock_not_set", "clock_regression"} <= flags_of(story(text))


def test_a_session_without_doubts_has_no_flags() -> None:
    assert flags_of(NOW) == frozenset()
    assert of_media_collection(lambda body: None) == frozenset()


def test_nothing_but_the_list_is_raised() -> None:
    raised = {flag for text in STORIES.values() for flag in flags_of(story(text))}
    raised |= {flag for made in OTHERS.values() for flag in made()}
    assert raised <= set(FLAGS)


def test_the_limits_of_doubt_themselves_are_no_doubt() -> None:
    assert "gap_over_10min" not in flags_of(story("0 start, 600 end"))
    assert "over_24h" not in flags_of(story("0 start, 86400 end"))
    idle = "0 start, 0 pause, 500 ping, 1000 ping, 1500 ping, 1800 end"
    assert "idle_over_30min" not in flags_of(story(idle))
    assert "playhead_beyond_length" not in flags_of(story("0 start, 1 ping @100, 2 end @5"))
    assert "future_ts" not in flags_of(NOW, BASE_MS + 9_000 - DAY_MS)
    assert "clock_ahead" not in flags_of(NOW, BASE_MS + 9_000)
    assert "skew_suspected" not in flags_of(NOW._replace(sent_at_ms=BASE_MS), BASE_MS + 300_000)
