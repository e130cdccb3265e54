"""Properties that hold for every session, found by hypothesis where they don't."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.session.datastream import OPEN_DATASTREAM, Rules
from pipeline.session.identity import session_id
from pipeline.session.measure import measure
from pipeline.session.model import Details, Event, Form, Kind, Qoe, Routing, Session, Viewing, Visitor
from pipeline.wire import media_collection, media_edge
from pipeline.wire.encode import to_media_collection, to_media_edge
from tests.stories import BASE_MS

pytestmark = pytest.mark.slow

START: Details = {"name": "film", "length": 600, "contentType": "vod", "playerName": "p", "channel": "c"}
_DETAILS: dict[Kind, Details] = {
    Kind.AD_BREAK_START: {"index": 1, "offset": 0},
    Kind.AD_START: {"name": "ad", "length": 15, "podPosition": 1, "playerName": "p"},
    Kind.CHAPTER_START: {"index": 1, "offset": 0, "length": 60},
    Kind.ERROR: {"name": "e", "source": "player"},
}
KINDS = [kind for kind in Kind if kind is not Kind.SESSION_START]
STATES = st.lists(st.sampled_from(("mute", "fullScreen", "custom.1")), max_size=2, unique=True).map(tuple)
# Described once: describing costs more than drawing, and each event is drawn.
NO_STATES = st.just(((), ()))
CHANGES = st.tuples(STATES, STATES).filter(any)
QOE = st.builds(
    Qoe,
    st.integers(0, 9_000),
    st.integers(0, 99) | st.none(),
    st.just(24) | st.none(),
    st.integers(0, 9).map(lambda s: s * 1000),
)
MAYBE_QOE = st.none() | QOE
CUSTOM = st.sampled_from([None, {"k": "v"}])
NO_CUSTOM = st.none()


def _events(
    kind: Kind, steps_ms: st.SearchStrategy[int], playheads: st.SearchStrategy[float]
) -> st.SearchStrategy[Any]:
    """An event with what its kind may carry, its time as a step: states, quality, custom metadata."""
    return st.tuples(
        st.just(kind),
        steps_ms,
        playheads,
        QOE if kind is Kind.BITRATE_CHANGE else MAYBE_QOE,
        CUSTOM if kind in {Kind.AD_START, Kind.CHAPTER_START} else NO_CUSTOM,
        CHANGES if kind is Kind.STATES_UPDATE else NO_STATES,
    )


@cache
def sessions(*, steps_back: bool = False, whole: bool = False) -> st.SearchStrategy[Session]:
    """Sessions with any order of events; times go on (or back), playheads are anywhere."""
    steps_ms = st.integers(-5_000 if steps_back else 0, 900_000)
    playheads = st.integers(0, 700) if whole else st.floats(0, 700, width=32)
    events = st.one_of([_events(kind, steps_ms, playheads) for kind in KINDS])
    short, long = st.lists(events, max_size=30), st.lists(events, min_size=5, max_size=30)
    return (short | long).map(_session)


def _session(drawn: list[Any]) -> Session:
    at_ms = BASE_MS
    events = [Event(Kind.SESSION_START, at_ms, 0, START)]
    for kind, step_ms, playhead_s, qoe, custom, (started, ended) in drawn:
        at_ms += step_ms
        details = _DETAILS.get(kind, {})
        events.append(Event(kind, at_ms, playhead_s, details, qoe, custom, started, ended))
    return Session(
        Form.MEDIA_COLLECTION, tuple(events), Visitor("1", "1"), Routing("org", ("suite",), "server")
    )


@given(sessions())
def test_time_is_never_negative_nor_longer_than_the_span(session: Session) -> None:
    viewing = measure(session, Rules())
    metrics = viewing.metrics
    span_ms = viewing.ended_at_ms - viewing.started_at_ms
    spent = (
        metrics.media_time_spent_ms,
        metrics.pause_time_ms,
        metrics.buffer_time_ms,
        metrics.stall_time_ms,
    )
    assert min(spent) >= 0
    assert sum(spent) <= span_ms


@given(sessions())
def test_content_and_ads_are_the_total(session: Session) -> None:
    viewing = measure(session, Rules())
    metrics = viewing.metrics
    assert metrics.content_time_spent_ms + metrics.ad_time_spent_ms == metrics.media_time_spent_ms
    assert sum(ad.time_spent_ms for ad in viewing.ads) == metrics.ad_time_spent_ms
    assert sum(chapter.time_spent_ms for chapter in viewing.chapters) <= metrics.content_time_spent_ms


@given(sessions())
def test_unique_time_is_at_most_what_the_playheads_span(session: Session) -> None:
    playheads = [event.playhead_s for event in session.events]
    unique_ms = measure(session, Rules()).metrics.unique_time_played_ms
    assert 0 <= unique_ms <= (max(playheads) - min(playheads)) * 1000 + 1


@given(sessions(steps_back=True), st.integers(-(10**9), 10**9))
def test_moving_all_times_moves_only_times(session: Session, by_ms: int) -> None:
    moved = session._replace(
        events=tuple(e._replace(occurred_at_ms=e.occurred_at_ms + by_ms) for e in session.events)
    )
    before, after = measure(session, Rules()), measure(moved, Rules())
    assert after.metrics == before.metrics
    assert after.flags == before.flags
    assert after.ended_at_ms - before.ended_at_ms == by_ms


@given(sessions(), st.lists(st.sampled_from(KINDS), min_size=1, max_size=5))
def test_events_after_a_session_end_change_nothing(session: Session, more: list[Kind]) -> None:
    last = session.events[-1]
    assume(all(event.kind is not Kind.SESSION_END for event in session.events))
    ended = (*session.events, Event(Kind.SESSION_END, last.occurred_at_ms, last.playhead_s))
    tail = tuple(Event(kind, last.occurred_at_ms + 1000, 5, _DETAILS.get(kind, {})) for kind in more)
    clean = measure(session._replace(events=ended), Rules())
    with_tail = measure(session._replace(events=(*ended, *tail)), Rules())
    assert with_tail.metrics == clean.metrics
    assert with_tail.ended_at_ms == clean.ended_at_ms


@given(sessions(), st.integers(0, 30), st.integers(2, 500), st.data())
def test_a_ping_inside_normal_playback_changes_nothing(
    session: Session, after: int, played_s: int, data: st.DataObject
) -> None:
    """Anywhere in any session: a play, then content at real time, with and without a ping in between."""
    head = session.events[: after + 1]
    assume(all(event.kind not in {Kind.SESSION_END, Kind.SESSION_COMPLETE} for event in head))
    at_ms, tail = head[-1].occurred_at_ms, session.events[after + 1 :]
    rest = tuple(e._replace(occurred_at_ms=e.occurred_at_ms + played_s * 1000) for e in tail)
    ping_s = data.draw(st.integers(1, played_s - 1))

    def viewed(*pings: int) -> Viewing:
        middle = (
            # Out of any break, then playing at real time; the bitrate goes on.
            Event(Kind.AD_BREAK_COMPLETE, at_ms, 50),
            Event(Kind.PLAY, at_ms, 50),
            *(Event(Kind.PING, at_ms + p * 1000, 50 + p) for p in pings),
            Event(Kind.PLAY, at_ms + played_s * 1000, 50 + played_s),
        )
        return measure(session._replace(events=(*head, *middle, *rest)), Rules())

    with_ping, without = viewed(ping_s), viewed()
    assert with_ping.metrics == without.metrics
    assert [ad.time_spent_ms for ad in with_ping.ads] == [ad.time_spent_ms for ad in without.ads]
    assert [c.time_spent_ms for c in with_ping.chapters] == [c.time_spent_ms for c in without.chapters]
    assert with_ping.flags == without.flags


@given(sessions(steps_back=True))
def test_measuring_never_fails_and_always_closes(session: Session) -> None:
    viewing = measure(session, Rules())
    assert any(event.kind is Kind.SESSION_COMPLETE for event in viewing.events)
    assert len(viewing.event_times_ms) == len(viewing.events)
    assert list(viewing.event_times_ms) == sorted(viewing.event_times_ms)


@settings(max_examples=50)
@given(sessions(whole=True))
def test_the_same_viewing_in_both_wire_forms_gives_the_same_metrics(session: Session) -> None:
    collected = media_collection.decode(to_media_collection(session), "/api/v1/downloaded")
    edge = media_edge.decode(to_media_edge(session), OPEN_DATASTREAM)
    assert measure(collected, Rules()).metrics == measure(edge, Rules()).metrics
    assert [e.kind for e in collected.events] == [e.kind for e in edge.events]


@settings(max_examples=50)
@given(sessions())
def test_a_session_survives_its_wire_form(session: Session) -> None:
    decoded = media_collection.decode(to_media_collection(session), "/api/v1/downloaded")
    assert session_id(decoded, OPEN_DATASTREAM) == session_id(session, OPEN_DATASTREAM)
    assert measure(decoded, Rules()).metrics == measure(session, Rules()).metrics
