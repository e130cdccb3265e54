"""Why a number is what it is: the events and intervals that made each metric, and lanes over time.

Computed on demand from the same walk that measures (`measure.Walk`), never on the hot path.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from pipeline.session.datastream import Rules
from pipeline.session.measure import Spent, Walk
from pipeline.session.model import Event, Kind, Metrics, Session, Viewing


class Interval(NamedTuple):
    """The time between two events and what it counted as."""

    from_sequence: int
    to_sequence: int
    took_ms: int
    spent: Spent


class Because(NamedTuple):
    """One metric: its value, the rule, where the rule stands, and what made it."""

    metric: str
    value: object
    rule: str
    source: str
    intervals: tuple[Interval, ...] = ()
    events: tuple[int, ...] = ()
    """Sequences of the events that made it."""


class Bar(NamedTuple):
    """A stretch of a lane, in ms since the start of the session."""

    from_ms: int
    to_ms: int
    label: str


class Lane(NamedTuple):
    """One line of the timeline: playback, ads, chapters, or one player state."""

    name: str
    bars: tuple[Bar, ...]


class Explanation(NamedTuple):
    """Everything that explains one session."""

    intervals: tuple[Interval, ...]
    metrics: tuple[Because, ...]
    lanes: tuple[Lane, ...]


_SPEC: Final = "spec/media-collection.md"


class _Rule(NamedTuple):
    metric: str
    rule: str
    source: str
    spent: tuple[Spent, ...] = ()
    kinds: tuple[Kind, ...] = ()


RULES: Final[tuple[_Rule, ...]] = (
    _Rule(
        "content_time_spent_ms",
        "time in PLAY with no ad open, not stalled, before sessionComplete",
        f"{_SPEC} 3, content ms",
        (Spent.CONTENT,),
    ),
    _Rule("ad_time_spent_ms", "time in PLAY with an ad open", f"{_SPEC} 3, ad ms", (Spent.AD,)),
    _Rule(
        "media_time_spent_ms",
        "content time and ad time",
        f"{_SPEC} 3, total ms",
        (Spent.CONTENT, Spent.AD),
    ),
    _Rule(
        "unique_time_played_ms",
        "union of the playhead spans of content intervals that are no seek",
        f"{_SPEC} 3, uniqueTimePlayed",
        (Spent.CONTENT,),
    ),
    _Rule(
        "average_minute_audience", "content time spent in seconds / length", f"{_SPEC} 3", (Spent.CONTENT,)
    ),
    _Rule("estimated_streams", "floor(media time spent / 1800) + 1", f"{_SPEC} 3", (Spent.CONTENT, Spent.AD)),
    _Rule(
        "progress_markers",
        "markers that a played span contains",
        f"{_SPEC} 3 and 6.12, progress",
        (Spent.CONTENT,),
    ),
    _Rule("segment", "lowest and highest playhead of content intervals", f"{_SPEC} 6.13", (Spent.CONTENT,)),
    _Rule("pause_time_ms", "time in PAUSE, in content or ad", f"{_SPEC} 3", (Spent.PAUSE,)),
    _Rule("pause_count", "pauseStart that entered PAUSE", f"{_SPEC} 2.4", kinds=(Kind.PAUSE_START,)),
    _Rule("buffer_time_ms", "time in BUFFER", f"{_SPEC} 3", (Spent.BUFFER,)),
    _Rule("buffer_count", "bufferStart that entered BUFFER", f"{_SPEC} 2.4", kinds=(Kind.BUFFER_START,)),
    _Rule(
        "stall_time_ms",
        "runs of three or more play or ping that stand still",
        f"{_SPEC} 3, stall",
        (Spent.STALL,),
    ),
    _Rule("ad_count", "adStart inside a break", f"{_SPEC} 2.4", kinds=(Kind.AD_START,)),
    _Rule("chapter_count", "chapterStart", f"{_SPEC} 3", kinds=(Kind.CHAPTER_START,)),
    _Rule("is_completed", "the client sent sessionComplete", f"{_SPEC} 2.3", kinds=(Kind.SESSION_COMPLETE,)),
    _Rule("is_played", "a play or ping after which content plays", f"{_SPEC} 3, isPlayed"),
    _Rule("error_count", "error events", "spec/metrics.csv", kinds=(Kind.ERROR,)),
    _Rule("bitrate_change_count", "bitrateChange events", "spec/metrics.csv", kinds=(Kind.BITRATE_CHANGE,)),
    _Rule(
        "bitrate_average_kbps",
        "last reported bitrate, weighted by PLAY time",
        f"{_SPEC} 3, bitrateAverage",
        (Spent.CONTENT, Spent.AD, Spent.STALL),
    ),
    _Rule("dropped_frames", "last reported value", f"{_SPEC} 3"),
    _Rule("frames_per_second", "last reported value", f"{_SPEC} 3"),
    _Rule("time_to_start_ms", "last value up to the first content play", f"{_SPEC} 3"),
)
"""Which intervals and events make each metric; the docs list is drawn from it."""

_QOE_MEMBER: Final = {
    "dropped_frames": "dropped_frames",
    "frames_per_second": "frames_per_second",
    "time_to_start_ms": "time_to_start_ms",
    "bitrate_average_kbps": "bitrate",
}


def explain(session: Session, rules: Rules) -> Explanation:
    """Return why each metric of this session is what it is; one more walk over its events."""
    walk = Walk(session, rules)
    played: list[int] = []
    for sequence, event in enumerate(walk.events):
        if sequence:
            walk.interval(event)
        walk.event(sequence, event)
        if event.kind in (Kind.PLAY, Kind.PING) and walk.is_content():
            played.append(sequence)
    viewing = walk.viewing(session, rules)
    intervals = tuple(
        Interval(sequence, sequence + 1, _took(walk.events, sequence), spent)
        for sequence, spent in enumerate(walk.spent)
    )
    started_ads = {ad.started_sequence for ad in viewing.ads}
    metrics = tuple(
        _because(rule, viewing.metrics, intervals, walk.events, played, started_ads) for rule in RULES
    )
    return Explanation(intervals, metrics, _lanes(intervals, viewing, walk.events))


def _took(events: tuple[Event, ...], sequence: int) -> int:
    return max(0, events[sequence + 1].occurred_at_ms - events[sequence].occurred_at_ms)


def _because(
    rule: _Rule,
    metrics: Metrics,
    intervals: tuple[Interval, ...],
    events: tuple[Event, ...],
    played: list[int],
    started_ads: set[int],
) -> Because:
    made = [sequence for sequence, event in enumerate(events) if event.kind in rule.kinds]
    if rule.metric == "ad_count":
        made = [sequence for sequence in made if sequence in started_ads]
    elif rule.metric == "is_played":
        made = played[:1]
    elif rule.metric in _QOE_MEMBER:
        member = _QOE_MEMBER[rule.metric]
        made = [
            sequence
            for sequence, event in enumerate(events)
            if event.qoe is not None and getattr(event.qoe, member) is not None
        ]
    return Because(
        metric=rule.metric,
        value=getattr(metrics, rule.metric),
        rule=rule.rule,
        source=rule.source,
        intervals=tuple(i for i in intervals if i.spent in rule.spent and i.took_ms),
        events=tuple(made),
    )


def _lanes(intervals: tuple[Interval, ...], viewing: Viewing, events: tuple[Event, ...]) -> tuple[Lane, ...]:
    start = viewing.started_at_ms
    times = [at - start for at in viewing.event_times_ms]
    playback = _merged(
        Bar(times[i.from_sequence], times[i.to_sequence], i.spent.value) for i in intervals if i.took_ms
    )
    ads = tuple(
        Bar(ad.started_at_ms - start, ad.closed_at_ms - start, str(ad.details.get("name", "ad")))
        for ad in viewing.ads
    )
    chapters = tuple(
        Bar(
            chapter.started_at_ms - start,
            chapter.closed_at_ms - start,
            str(chapter.details.get("friendlyName") or chapter.details["index"]),
        )
        for chapter in viewing.chapters
    )
    lanes = [Lane("playback", playback)]
    lanes += [Lane(name, bars) for name, bars in (("ads", ads), ("chapters", chapters)) if bars]
    return (*lanes, *_state_lanes(events, times))


def _merged(bars: Iterable[Bar]) -> tuple[Bar, ...]:
    found: list[Bar] = []
    for bar in bars:
        if found and found[-1].label == bar.label and found[-1].to_ms == bar.from_ms:
            found[-1] = Bar(found[-1].from_ms, bar.to_ms, bar.label)
        else:
            found.append(bar)
    return tuple(found)


def _state_lanes(events: tuple[Event, ...], times: list[int]) -> tuple[Lane, ...]:
    bars: dict[str, list[Bar]] = {}
    opened: dict[str, int] = {}
    for sequence, event in enumerate(events):
        for name in event.states_ended:
            if name in opened:
                bars[name].append(Bar(opened.pop(name), times[sequence], name))
        for name in event.states_started:
            bars.setdefault(name, [])
            opened.setdefault(name, times[sequence])
    for name, at in opened.items():
        bars[name].append(Bar(at, times[len(events) - 1], name))
    return tuple(Lane(name, tuple(found)) for name, found in bars.items())
