"""How each metric is made, in words and as what to look at: the table behind `pipeline explain`.

Each rule names the intervals that it sums, or the events that it counts, and can spell out the sum, the
quotient or the comparison that gave the value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from pipeline.session.datastream import MarkerRule, Rules
from pipeline.session.machine import Playback
from pipeline.session.measure import Spent, Walk
from pipeline.session.model import Event, Kind, Session, Viewing
from pipeline.session.rounding import seconds
from pipeline.session.spans import MARKERS


class Interval(NamedTuple):
    """The time between two events and what it counted as; a gap cap may count less than it took."""

    from_sequence: int
    to_sequence: int
    took_ms: int
    counted_ms: int
    spent: Spent
    is_seek: bool = False
    """Content whose playhead step playing does not explain: no part of unique time and progress."""


class Facts(NamedTuple):
    """What the rules look at."""

    session: Session
    rules: Rules
    viewing: Viewing
    walk: Walk
    intervals: tuple[Interval, ...]
    entered: dict[Playback, tuple[int, ...]]
    """The events that entered PAUSE or BUFFER."""
    content_started_by: int | None

    @property
    def events(self) -> tuple[Event, ...]:
        """The accepted events, without an added one."""
        return self.walk.events

    @property
    def length_s(self) -> float:
        """Length of the content, in seconds."""
        return float(self.session.details["length"])


_Sequences = Callable[[Facts], Iterable[int]]
_Detail = Callable[[Facts], str]

PLAYING_TIMES: Final = (Spent.CONTENT, Spent.AD)
_MOST_SPANS: Final = 6
_SPEC: Final = "spec/media-collection.md"


def _of_kind(*kinds: Kind) -> _Sequences:
    return lambda facts: (n for n, event in enumerate(facts.events) if event.kind in kinds)


def _entered(playback: Playback) -> _Sequences:
    return lambda facts: facts.entered[playback]


def _start(_: Facts) -> Iterable[int]:
    return (0,)


def _content_start(facts: Facts) -> Iterable[int]:
    return () if facts.content_started_by is None else (facts.content_started_by,)


def _ads(facts: Facts) -> Iterable[int]:
    return (ad.started_sequence for ad in facts.viewing.ads)


def _stalls(facts: Facts) -> Iterable[int]:
    stalled = [i for i in facts.intervals if i.spent is Spent.STALL]
    return dict.fromkeys(n for i in stalled for n in (i.from_sequence, i.to_sequence))


def _reporting(member: str) -> _Sequences:
    return lambda facts: (
        n for n, event in enumerate(facts.events) if event.qoe and getattr(event.qoe, member) is not None
    )


def _last_reporting(member: str) -> _Sequences:
    return lambda facts: [*_reporting(member)(facts)][-1:]


def _time_to_start(facts: Facts) -> Iterable[int]:
    found = [*_reporting("time_to_start_ms")(facts)]
    first = facts.content_started_by
    before = [n for n in found if first is None or n <= first]
    return before[-1:] or found[:1]


def _errors(source: str) -> _Sequences:
    def sequences(facts: Facts) -> Iterable[int]:
        first: dict[object, int] = {}
        for n, event in enumerate(facts.events):
            of = "external" if event.details.get("source") == "external" else "player"
            if event.kind is Kind.ERROR and event.details.get("name") and of == source:
                first.setdefault(event.details["name"], n)
        return first.values()

    return sequences


def _spans_detail(facts: Facts) -> str:
    spans = [f"{_number(a)} to {_number(b)}" for a, b in facts.walk.spans.union()]
    more = f" and {len(spans) - _MOST_SPANS} more parts" if len(spans) > _MOST_SPANS else ""
    listed = ", ".join(spans[:_MOST_SPANS])
    return f"played {listed} s of the content{more}" if spans else "nothing was played through"


def _markers_detail(facts: Facts) -> str:
    if facts.length_s <= 0:
        return "none without a length"
    reached = facts.viewing.metrics.progress_markers
    marks = [
        f"{m} % at {_number(facts.length_s * m / 100)} s {'yes' if m in reached else 'no'}" for m in MARKERS
    ]
    how = "played through" if facts.rules.marker_rule is MarkerRule.INTERVAL else "reached"
    return f"{how}: {', '.join(marks)}"


def _segment_detail(facts: Facts) -> str:
    spans = facts.walk.spans
    if facts.viewing.metrics.segment is None:
        return "none without content play"
    return f"playheads {_number(spans.lowest)} to {_number(spans.highest)} s, in {_step(facts.rules)} steps"


def _step(rules: Rules) -> str:
    return "1 min" if rules.segment_step_min == 1 else f"{rules.segment_step_min} min"


def _audience_detail(facts: Facts) -> str:
    if facts.length_s <= 0:
        return "not produced without a length"
    return f"{seconds(facts.viewing.metrics.content_time_spent_ms)} s / {_number(facts.length_s)} s"


def _streams_detail(facts: Facts) -> str:
    return f"floor({seconds(facts.viewing.metrics.media_time_spent_ms)} / 1800) + 1"


def _bitrate_detail(facts: Facts) -> str:
    took: dict[float, int] = {}
    bitrate: float | None = None
    cap_ms = facts.rules.gap_cap_ms
    for interval in facts.intervals:
        qoe = facts.events[interval.from_sequence].qoe
        if qoe is not None and qoe.bitrate is not None:
            bitrate = qoe.bitrate
        if bitrate is not None and interval.spent in (*PLAYING_TIMES, Spent.STALL):
            weighed_ms = interval.took_ms if cap_ms is None else min(interval.took_ms, cap_ms)
            took[bitrate] = took.get(bitrate, 0) + weighed_ms
    return ", ".join(f"{_number(rate)} for {_number(ms / 1000)} s" for rate, ms in took.items())


def _states_detail(facts: Facts) -> str:
    return ", ".join(
        f"{s.name} {s.count}x, {_number(s.time_ms / 1000)} s" for s in facts.viewing.metrics.states
    )


def _number(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


class Rule(NamedTuple):
    """How one metric is made."""

    metric: str
    name: str
    rule: str
    source: str
    spent: tuple[Spent, ...] = ()
    events: _Sequences | None = None
    detail: _Detail | None = None


RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "content_time_spent_ms",
        "content time",
        "time in PLAY with no ad open, not stalled, before sessionComplete",
        f"{_SPEC} 3, content ms",
        (Spent.CONTENT,),
    ),
    Rule("ad_time_spent_ms", "ad time", "time in PLAY with an ad open", f"{_SPEC} 3, ad ms", (Spent.AD,)),
    Rule(
        "media_time_spent_ms",
        "total time",
        "content time and ad time",
        f"{_SPEC} 3, total ms",
        PLAYING_TIMES,
    ),
    Rule(
        "unique_time_played_ms",
        "unique time",
        "union of the playhead spans of content intervals that are no seek",
        f"{_SPEC} 3, uniqueTimePlayed",
        (Spent.CONTENT,),
        detail=_spans_detail,
    ),
    Rule(
        "average_minute_audience",
        "average minute audience",
        "content time in whole seconds / length",
        f"{_SPEC} 3",
        (Spent.CONTENT,),
        detail=_audience_detail,
    ),
    Rule(
        "estimated_streams",
        "half hours begun",
        "floor(total time / 1800) + 1",
        f"{_SPEC} 3",
        PLAYING_TIMES,
        detail=_streams_detail,
    ),
    Rule(
        "progress_markers",
        "progress",
        "shares of the length that a played span contains, or that the playhead reached (marker_rule)",
        f"{_SPEC} 3 and 6.12, progress",
        (Spent.CONTENT,),
        detail=_markers_detail,
    ),
    Rule(
        "segment",
        "segment",
        "lowest and highest playhead of content intervals, in whole steps",
        f"{_SPEC} 6.13",
        (Spent.CONTENT,),
        detail=_segment_detail,
    ),
    Rule("is_viewed", "media start", "a sessionStart was accepted", "spec/metrics.csv", events=_start),
    Rule(
        "is_played",
        "content start",
        "a play or ping after which content plays",
        f"{_SPEC} 3, isPlayed",
        events=_content_start,
    ),
    Rule(
        "is_completed",
        "completion",
        "the client sent sessionComplete",
        f"{_SPEC} 2.3",
        events=_of_kind(Kind.SESSION_COMPLETE),
    ),
    Rule(
        "is_dropped_before_start",
        "drop before start",
        "closed without a content start",
        f"{_SPEC} 3, isPlayed",
    ),
    Rule("has_resume", "resume", "media.resume of the sessionStart", "spec/metrics.csv", events=_start),
    Rule(
        "is_authorized",
        "authorized",
        "media.pass.auth is true, in any case of letters",
        f"{_SPEC} 6.21",
        events=_start,
    ),
    Rule("is_federated", "federated", "never: no federation reaches this pipeline", "spec/metrics.csv"),
    Rule("pause_time_ms", "pause time", "time in PAUSE, in content or ad", f"{_SPEC} 3", (Spent.PAUSE,)),
    Rule(
        "pause_count",
        "pauses",
        "pauseStart that entered PAUSE",
        f"{_SPEC} 2.4",
        events=_entered(Playback.PAUSE),
    ),
    Rule("buffer_time_ms", "buffer time", "time in BUFFER", f"{_SPEC} 3", (Spent.BUFFER,)),
    Rule(
        "buffer_count",
        "buffers",
        "bufferStart that entered BUFFER",
        f"{_SPEC} 2.4",
        events=_entered(Playback.BUFFER),
    ),
    Rule(
        "stall_time_ms",
        "stall time",
        "from the first to the last event of each stall",
        f"{_SPEC} 3, stall",
        (Spent.STALL,),
    ),
    Rule(
        "stall_count",
        "stalls",
        "runs of three or more play or ping that stand still outside breaks",
        f"{_SPEC} 3, stall",
        events=_stalls,
    ),
    Rule("ad_count", "ads", "adStart inside a break", f"{_SPEC} 2.4", events=_ads),
    Rule("chapter_count", "chapters", "chapterStart", f"{_SPEC} 3", events=_of_kind(Kind.CHAPTER_START)),
    Rule(
        "seconds_since_last_call",
        "seconds since last call",
        "0 for an upload: no server waits for it",
        f"{_SPEC} 6.31",
    ),
    Rule(
        "bitrate_average_kbps",
        "average bitrate",
        "last reported bitrate, weighted by PLAY time",
        f"{_SPEC} 3, bitrateAverage",
        (*PLAYING_TIMES, Spent.STALL),
        _reporting("bitrate"),
        _bitrate_detail,
    ),
    Rule(
        "bitrate_average_bucket",
        "bitrate bucket",
        "the 100 kbps that the average is in",
        f"{_SPEC} 3, bitrateAverage",
    ),
    Rule(
        "bitrate_change_count",
        "bitrate changes",
        "bitrateChange events",
        "spec/metrics.csv",
        events=_of_kind(Kind.BITRATE_CHANGE),
    ),
    Rule(
        "dropped_frames",
        "dropped frames",
        "last reported value",
        f"{_SPEC} 3",
        events=_last_reporting("dropped_frames"),
    ),
    Rule(
        "frames_per_second",
        "frame rate",
        "last reported value",
        f"{_SPEC} 3",
        events=_last_reporting("frames_per_second"),
    ),
    Rule(
        "time_to_start_ms",
        "time to start",
        "last value up to the first content play, else the first later one",
        f"{_SPEC} 3",
        events=_time_to_start,
    ),
    Rule("error_count", "errors", "error events", "spec/metrics.csv", events=_of_kind(Kind.ERROR)),
    Rule(
        "player_sdk_errors",
        "player errors",
        "each id of source player once",
        "spec/metrics.csv",
        events=_errors("player"),
    ),
    Rule(
        "external_errors",
        "external errors",
        "each id of source external once",
        "spec/metrics.csv",
        events=_errors("external"),
    ),
    Rule(
        "states",
        "player states",
        "the first ten names: how often each was opened, and for how long by the wall clock",
        f"{_SPEC} 3, states",
        events=_of_kind(Kind.STATES_UPDATE),
        detail=_states_detail,
    ),
)
"""How each metric is made; the docs list is drawn from it, and a test wants one for every metric."""
