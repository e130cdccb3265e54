"""Why a number is what it is: the events and intervals that made each metric, and lanes over time.

Computed on demand from the same walk that measures (`measure.Walk`), never on the hot path.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pipeline.session.datastream import Rules
from pipeline.session.machine import Playback
from pipeline.session.measure import Spent, Walk
from pipeline.session.metric_rules import PLAYING_TIMES, RULES, Facts, Interval, Rule
from pipeline.session.model import Ad, Chapter, Event, Session, Viewing
from pipeline.session.playerstates import state_name
from pipeline.session.spans import PlayedSpans


class Because(NamedTuple):
    """One metric: its value, its rule by name and in words, where the rule stands, and what made it."""

    metric: str
    value: object
    name: str
    rule: str
    source: str
    detail: str = ""
    """The sum, the quotient or the comparison that gave the value."""
    intervals: tuple[Interval, ...] = ()
    events: tuple[int, ...] = ()
    """Sequences of the events that made it."""


class Part(NamedTuple):
    """One ad or chapter: the events that opened and closed it, and the intervals of its time."""

    name: str
    from_sequence: int
    to_sequence: int
    time_spent_ms: int
    is_completed: bool
    closed_by: str
    intervals: tuple[Interval, ...]


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
    ads: tuple[Part, ...]
    chapters: tuple[Part, ...]
    lanes: tuple[Lane, ...]


def explain(session: Session, rules: Rules) -> Explanation:
    """Return why each metric of this session is what it is; one more walk over its events."""
    walk = Walk(session, rules)
    entered: dict[Playback, tuple[int, ...]] = {Playback.PAUSE: (), Playback.BUFFER: ()}
    content_started_by = None
    for sequence, event in enumerate(walk.events):
        if sequence:
            walk.interval(event)
        before = walk.playback
        walk.event(sequence, event)
        if walk.playback is not before and walk.playback in entered:
            entered[walk.playback] += (sequence,)
        if content_started_by is None and walk.has_content_start():
            content_started_by = sequence
    viewing = walk.viewing(session, rules)
    intervals = tuple(_interval(walk, sequence, rules) for sequence in range(len(walk.spent)))
    facts = Facts(session, rules, viewing, walk, intervals, entered, content_started_by)
    return Explanation(
        intervals,
        tuple(_because(rule, facts) for rule in RULES),
        tuple(_part(ad, str(ad.details["name"]), Spent.AD, intervals) for ad in viewing.ads),
        tuple(_part(c, _chapter_name(c), Spent.CONTENT, intervals) for c in viewing.chapters),
        _lanes(intervals, viewing, walk.events),
    )


def _interval(walk: Walk, sequence: int, rules: Rules) -> Interval:
    spent = walk.spent[sequence]
    events = walk.events
    took_ms = max(0, events[sequence + 1].occurred_at_ms - events[sequence].occurred_at_ms)
    counted_ms = 0 if spent is Spent.IDLE else took_ms
    if rules.gap_cap_ms is not None and spent in PLAYING_TIMES:
        counted_ms = min(took_ms, rules.gap_cap_ms)
    is_seek = spent is Spent.CONTENT and PlayedSpans(rules).is_seek(
        events[sequence].playhead_s, events[sequence + 1].playhead_s, took_ms
    )
    return Interval(sequence, sequence + 1, took_ms, counted_ms, spent, is_seek)


def _because(rule: Rule, facts: Facts) -> Because:
    value = getattr(facts.viewing.metrics, rule.metric)
    if rule.metric == "states":
        value = tuple(state._asdict() for state in value)
    return Because(
        metric=rule.metric,
        value=value,
        name=rule.name,
        rule=rule.rule,
        source=rule.source,
        detail=rule.detail(facts) if rule.detail else "",
        intervals=tuple(i for i in facts.intervals if i.spent in rule.spent and i.took_ms),
        events=tuple(rule.events(facts)) if rule.events else (),
    )


def _part(part: Ad | Chapter, name: str, spent: Spent, intervals: tuple[Interval, ...]) -> Part:
    within = intervals[part.started_sequence : part.closed_sequence]
    return Part(
        name=name,
        from_sequence=part.started_sequence,
        to_sequence=part.closed_sequence,
        time_spent_ms=part.time_spent_ms,
        is_completed=part.is_completed,
        closed_by=part.closed_by,
        intervals=tuple(i for i in within if i.spent is spent and i.took_ms),
    )


def _chapter_name(chapter: Chapter) -> str:
    return str(chapter.details.get("friendlyName") or chapter.details["index"])


def _lanes(intervals: tuple[Interval, ...], viewing: Viewing, events: tuple[Event, ...]) -> tuple[Lane, ...]:
    start = viewing.started_at_ms
    times = [at - start for at in viewing.event_times_ms]
    playback = _merged(
        Bar(times[i.from_sequence], times[i.to_sequence], i.spent.value) for i in intervals if i.took_ms
    )
    ads = tuple(
        Bar(ad.started_at_ms - start, ad.closed_at_ms - start, str(ad.details["name"])) for ad in viewing.ads
    )
    chapters = tuple(
        Bar(c.started_at_ms - start, c.closed_at_ms - start, _chapter_name(c)) for c in viewing.chapters
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
        for sent in event.states_ended:
            name = state_name(sent)
            if name in opened:
                bars[name].append(Bar(opened.pop(name), times[sequence], name))
        for sent in event.states_started:
            name = state_name(sent)
            bars.setdefault(name, [])
            opened.setdefault(name, times[sequence])
    for name, at in opened.items():
        bars[name].append(Bar(at, times[len(events) - 1], name))
    return tuple(Lane(name, tuple(found)) for name, found in bars.items())
