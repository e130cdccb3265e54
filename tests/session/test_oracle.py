"""The walk beside a second implementation: the rules written down once more, naively, one at a time.

`spec/media-collection.md` 2.4 and 3 give every number as a sum over intervals; here each is summed on its
own, with no state shared, so that a slip in the one walk shows. Quadratic and slow on purpose.
"""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from typing import Any, Final, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.session.datastream import Rules
from pipeline.session.measure import measure
from pipeline.session.model import Details, Event, Form, Kind, Qoe, Routing, Session, Visitor
from tests.stories import BASE_MS

_DETAILS: Final[dict[Kind, Details]] = {
    Kind.AD_BREAK_START: {"index": 1, "offset": 0},
    Kind.AD_START: {"name": "ad", "length": 15, "podPosition": 1, "playerName": "p"},
    Kind.CHAPTER_START: {"index": 1, "offset": 0, "length": 60},
}
_KINDS: Final = [
    *(4 * [Kind.PLAY, Kind.PING]),
    *(2 * [Kind.AD_BREAK_START, Kind.AD_START, Kind.AD_COMPLETE, Kind.PAUSE_START, Kind.CHAPTER_START]),
    *(kind for kind in Kind if kind not in {Kind.SESSION_START, Kind.STATES_UPDATE, Kind.ERROR}),
]
_STEPS_MS: Final = (0, 1, 500, 1_000, 10_000, 50_000, -2_000)


class _State(NamedTuple):
    """Where everything stands after an event."""

    playback: str = "init"
    in_break: bool = False
    ad: int | None = None
    chapter: int | None = None
    completed: bool = False


@st.composite
def sessions(draw: st.DrawFn) -> Session:
    """Sessions that look like viewings: playheads stand, follow the clock, or jump."""
    length_s = draw(st.sampled_from([0, 50, 100, 600]))
    details: Details = {"name": "film", "length": length_s, "contentType": "vod", "playerName": "p"}
    at_ms, playhead_s = BASE_MS, 0.0
    events = [Event(Kind.SESSION_START, at_ms, 0, details)]
    for kind in draw(st.lists(st.sampled_from(_KINDS), max_size=25)):
        step_ms = draw(st.sampled_from(_STEPS_MS))
        at_ms += step_ms
        follows = max(0.0, playhead_s + step_ms / 1000)
        playhead_s = draw(st.sampled_from([playhead_s, follows, follows, float(draw(st.integers(0, 600)))]))
        qoe = Qoe(bitrate=draw(st.integers(100, 5_000))) if draw(st.integers(0, 9)) == 0 else None
        events.append(Event(kind, at_ms, playhead_s, _DETAILS.get(kind, {}), qoe))
    return Session(Form.MEDIA_COLLECTION, tuple(events), Visitor(), Routing())


@settings(max_examples=600, deadline=None)
@given(sessions())
def test_the_walk_and_the_naive_reading_of_the_rules_agree(session: Session) -> None:
    viewing = measure(session, Rules())
    m = viewing.metrics
    found = {
        "content": m.content_time_spent_ms,
        "total": m.media_time_spent_ms,
        "unique": m.unique_time_played_ms,
        "pause": (m.pause_count, m.pause_time_ms),
        "buffer": (m.buffer_count, m.buffer_time_ms),
        "stall": (m.stall_count, m.stall_time_ms),
        "ads": [(ad.time_spent_ms, ad.is_completed) for ad in viewing.ads],
        "chapters": [(chapter.time_spent_ms, chapter.is_completed) for chapter in viewing.chapters],
        "markers": m.progress_markers,
        "segment": m.segment,
        "bitrate": m.bitrate_average_kbps,
        "played": m.is_played,
        "completed": m.is_completed,
    }
    assert found == naive(session)


def naive(session: Session) -> dict[str, Any]:
    """Return the numbers of a session under the default rules."""
    ends = [n for n, event in enumerate(session.events) if event.kind is Kind.SESSION_END]
    events = session.events[: ends[0] + 1] if ends else session.events
    after = _states(events)
    last = len(events) - 1
    took = [max(0, events[n + 1].occurred_at_ms - events[n].occurred_at_ms) for n in range(last)]
    stalls = _stalls(events, after)
    stalled = {n for first, end in stalls for n in range(first, end)}
    plays = [n for n in range(last) if after[n].playback == "play"]
    content = [n for n in plays if after[n].ad is None and not after[n].completed and n not in stalled]
    ads = [
        (
            sum(took[n] for n in plays if after[n].ad == ad),
            _closed_by(events, after, "ad", ad) is Kind.AD_COMPLETE,
        )
        for ad in range(_opened(events, after, Kind.AD_START))
    ]
    chapters = [
        (
            sum(took[n] for n in content if after[n].chapter == chapter),
            _closed_by(events, after, "chapter", chapter) is Kind.CHAPTER_COMPLETE,
        )
        for chapter in range(_opened(events, after, Kind.CHAPTER_START))
    ]
    spans = [
        (events[n].playhead_s, events[n + 1].playhead_s)
        for n in content
        if 0 < events[n + 1].playhead_s - events[n].playhead_s <= 2 * took[n] / 1000 + 2
    ]
    played = any(
        event.kind in {Kind.PLAY, Kind.PING}
        and (state.playback, state.ad, state.completed) == ("play", None, False)
        for event, state in zip(events, after, strict=True)
    )
    content_ms = sum(took[n] for n in content)
    return {
        "content": content_ms,
        "total": content_ms + sum(ms for ms, _ in ads),
        "unique": _rounded(_measure_of(spans) * 1000),
        "pause": _entered(after, "pause", took),
        "buffer": _entered(after, "buffer", took),
        "stall": (len(stalls), sum(took[n] for n in stalled)),
        "ads": ads,
        "chapters": chapters,
        "markers": _markers(float(session.details["length"]), spans) if played else (),
        "segment": _segment([events[m].playhead_s for n in content for m in (n, n + 1)]) if played else None,
        "bitrate": _bitrate(events, after, took),
        "played": played,
        "completed": after[-1].completed,
    }


def _states(events: tuple[Event, ...]) -> list[_State]:
    """Return the state after each event (2.4)."""
    found: list[_State] = []
    state, ads, chapters = _State(), 0, 0
    for event in events:
        match event.kind:
            case Kind.PLAY:
                state = state._replace(playback="play")
            case Kind.PAUSE_START:
                state = state._replace(playback="pause")
            case Kind.BUFFER_START:
                state = state._replace(playback="buffer")
            case Kind.AD_BREAK_START:
                state = state._replace(in_break=True, ad=None)
            case Kind.AD_START if state.in_break:
                state, ads = state._replace(ad=ads, playback="play"), ads + 1
            case Kind.AD_COMPLETE | Kind.AD_SKIP:
                state = state._replace(ad=None)
            case Kind.AD_BREAK_COMPLETE:
                state = state._replace(in_break=False, ad=None)
            case Kind.CHAPTER_START:
                state, chapters = state._replace(chapter=chapters), chapters + 1
            case Kind.CHAPTER_COMPLETE | Kind.CHAPTER_SKIP:
                state = state._replace(chapter=None)
            case Kind.SESSION_COMPLETE:
                state = state._replace(completed=True)
        found.append(state)
    return found


def _opened(events: tuple[Event, ...], after: list[_State], kind: Kind) -> int:
    member = "ad" if kind is Kind.AD_START else "chapter"
    return len(
        {
            getattr(state, member)
            for event, state in zip(events, after, strict=True)
            if event.kind is kind and getattr(state, member) is not None
        }
    )


def _closed_by(events: tuple[Event, ...], after: list[_State], member: str, number: int) -> Kind | None:
    """Return the kind of the first event after which this ad or chapter is not the open one any more."""
    opened = next(n for n, state in enumerate(after) if getattr(state, member) == number)
    later = [n for n in range(opened, len(events)) if getattr(after[n], member) != number]
    return events[later[0]].kind if later else None


def _entered(after: list[_State], playback: str, took: list[int]) -> tuple[int, int]:
    before = [_State(), *after]
    count = sum(
        state.playback == playback != earlier.playback for earlier, state in zip(before, after, strict=False)
    )
    return count, sum(ms for state, ms in zip(after, took, strict=False) if state.playback == playback)


def _stalls(events: tuple[Event, ...], after: list[_State]) -> list[tuple[int, int]]:
    """Return the longest runs of three or more play and ping that stand still (first, last)."""

    def stands(n: int) -> bool:
        state = after[n]
        return (
            events[n].kind in {Kind.PLAY, Kind.PING}
            and state.playback == "play"
            and not state.in_break
            and not state.completed
        )

    def joined(n: int) -> bool:
        one, two = events[n], events[n + 1]
        later = two.occurred_at_ms > one.occurred_at_ms
        return stands(n) and stands(n + 1) and later and one.playhead_s == two.playhead_s

    runs: list[tuple[int, int]] = []
    for n in range(len(events) - 1):
        if joined(n):
            runs = [*runs[:-1], (runs[-1][0], n + 1)] if runs and runs[-1][1] == n else [*runs, (n, n + 1)]
    return [(first, end) for first, end in runs if end - first >= 2]


def _measure_of(spans: list[tuple[float, float]]) -> float:
    """Return the length of the union: of each piece between two neighbouring ends that a span covers."""
    ends = sorted({end for span in spans for end in span})
    return sum(high - low for low, high in pairwise(ends) if any(a <= low and high <= b for a, b in spans))


def _markers(length_s: float, spans: list[tuple[float, float]]) -> tuple[int, ...]:
    if length_s <= 0:
        return ()
    return tuple(x for x in (10, 25, 50, 75, 95) if any(a <= length_s * x / 100 <= b for a, b in spans))


def _segment(playheads: list[float]) -> str | None:
    if not playheads:
        return None
    first = math.floor(min(playheads) / 60)
    return f"[{first}-{max(math.ceil(max(playheads) / 60), first + 1)}]"


def _bitrate(events: tuple[Event, ...], after: list[_State], took: list[int]) -> int | None:
    weighed, weight, bitrate = Fraction(0), 0, None
    for n, ms in enumerate(took):
        qoe = events[n].qoe
        bitrate = qoe.bitrate if qoe is not None and qoe.bitrate is not None else bitrate
        state = after[n]
        if state.playback == "play" and (state.ad is not None or not state.completed) and bitrate is not None:
            weighed, weight = weighed + Fraction(bitrate) * ms, weight + ms
    return _rounded(weighed / weight) if weight else None


def _rounded(value: float | Fraction) -> int:
    return math.floor(Fraction(value) + Fraction(1, 2))
