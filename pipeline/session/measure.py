"""Measure a session: one walk over its events gives every metric (`spec/media-collection.md` 2.3, 2.4, 3).

Interval i lies between event i and i+1, is `max(0, ts[i+1] - ts[i])` long and is judged by the state
after event i. So the walk takes, at each event, first the interval that ends there and then the event.
A stall is known only at its third event: what its first interval counted is then taken back.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from pipeline.session.datastream import AdBreakGap, Rules
from pipeline.session.machine import (
    AD,
    AD_KINDS,
    CHAPTER,
    CHAPTER_KINDS,
    PLAYBACK,
    AdState,
    ChapterState,
    Playback,
)
from pipeline.session.model import (
    NO_DETAILS,
    Ad,
    Chapter,
    Details,
    Event,
    Kind,
    Metrics,
    Session,
    Viewing,
)
from pipeline.session.playerstates import PlayerStates
from pipeline.session.quality import Quality, bucket
from pipeline.session.rounding import seconds
from pipeline.session.spans import PlayedSpans

LONG_GAP_MS: Final = 10 * 60_000
LONG_IDLE_MS: Final = 30 * 60_000
LONG_SESSION_MS: Final = 24 * 3_600_000
STREAM_S: Final = 1_800
LEAST_LENGTH_S: Final = 0.001
"""A shorter length is none: what is divided by it could be infinite."""
STALL_EVENTS: Final = 3


class Spent(StrEnum):
    """What an interval counted as; `idle` is everything that is not counted anywhere."""

    CONTENT = "content"
    AD = "ad"
    PAUSE = "pause"
    BUFFER = "buffer"
    STALL = "stall"
    IDLE = "idle"


# Members of the enums that every interval or event is compared with: reading one from its class costs
# ten times as much as a global, which is half of the walk.
_PLAY: Final = Playback.PLAY
_PAUSE: Final = Playback.PAUSE
_BUFFER: Final = Playback.BUFFER
_NO_BREAK: Final = AdState.CONTENT
_BREAK: Final = AdState.BREAK
_AD: Final = AdState.AD
_CHAPTER: Final = ChapterState.CHAPTER
_PLAY_EVENT: Final = Kind.PLAY
_PING_EVENT: Final = Kind.PING
_SESSION_END: Final = Kind.SESSION_END
_CONTENT_TIME: Final = Spent.CONTENT
_AD_TIME: Final = Spent.AD
_PAUSE_TIME: Final = Spent.PAUSE
_BUFFER_TIME: Final = Spent.BUFFER
_STALL_TIME: Final = Spent.STALL
_IDLE_TIME: Final = Spent.IDLE


def measure(session: Session, rules: Rules) -> Viewing:
    """Return what was measured of one session; never raises for a decoded session."""
    walk = Walk(session, rules)
    for sequence, event in enumerate(walk.events):
        if sequence:
            walk.interval(event)
        walk.event(sequence, event)
    return walk.viewing(session, rules)


def accepted_events(session: Session) -> tuple[Event, ...]:
    """Return the events up to and with the first sessionEnd; what follows is dropped (6.5)."""
    for sequence, event in enumerate(session.events):
        if event.kind is _SESSION_END:
            return session.events[: sequence + 1]
    return session.events


class Walk:
    """The state of one walk: where playback, ad, chapter and clock stand, and what was counted."""

    __slots__ = (
        "_ad",
        "_ad_event",
        "_ad_ms",
        "_ad_state",
        "_ads",
        "_ads_ms",
        "_break_is_content",
        "_buffer_ms",
        "_buffers",
        "_chapter",
        "_chapter_event",
        "_chapter_ms",
        "_chapter_state",
        "_chapters",
        "_clock_ms",
        "_completed",
        "_content_ms",
        "_counts_stalls",
        "_flags",
        "_gap_cap_ms",
        "_idle_ms",
        "_last",
        "_latest_ms",
        "_length_s",
        "_pause_ms",
        "_pauses",
        "_played",
        "_pod",
        "_quality",
        "_run",
        "_run_bounds",
        "_run_ms",
        "_run_took_ms",
        "_stall_ms",
        "_stalls",
        "_states",
        "events",
        "playback",
        "spans",
        "spent",
        "times_ms",
    )

    def __init__(self, session: Session, rules: Rules) -> None:
        self.events = accepted_events(session)
        self.times_ms: list[int] = []
        self.spent: list[Spent] = []
        self._flags = set(session.flags)
        if len(self.events) < len(session.events):
            self._flags.add("events_after_sessionEnd_dropped")
        self._counts_stalls = rules.stall
        self._gap_cap_ms = rules.gap_cap_ms
        self._break_is_content = rules.ad_break_gap is AdBreakGap.CONTENT
        self._length_s = float(session.details["length"])
        if self._length_s <= 0:
            self._flags.add("length_not_positive")
        self._last = self.events[0]
        self._latest_ms = self._last.occurred_at_ms
        self._clock_ms = 0
        self.playback = Playback.INIT
        self._ad_state = AdState.CONTENT
        self._chapter_state = ChapterState.NONE
        self._completed = False
        self._played = False
        self._content_ms = self._pause_ms = self._buffer_ms = self._stall_ms = self._ads_ms = 0
        self._pauses = self._buffers = self._stalls = 0
        self._idle_ms = 0
        self.spans = PlayedSpans(rules)
        self._run = 0
        self._run_ms = 0
        self._run_took_ms = 0
        self._run_bounds = self.spans.lowest, self.spans.highest
        self._pod: Details = NO_DETAILS
        self._ad_event: Event | None = None
        self._ad = 0
        self._ad_ms = 0
        self._ads: list[Ad] = []
        self._chapter_event: Event | None = None
        self._chapter = 0
        self._chapter_ms = 0
        self._chapters: list[Chapter] = []
        self._quality = Quality()
        self._states = PlayerStates()

    def interval(self, event: Event) -> None:
        """Count the interval that ends at this event, by the state after the event before it."""
        last = self._last
        took_ms = event.occurred_at_ms - last.occurred_at_ms
        if took_ms <= 0:
            self._flags.add("equal_ts" if took_ms == 0 else "clock_regression")
            took_ms = 0
        elif took_ms > LONG_GAP_MS:
            self._flags.add("gap_over_10min")
        self._clock_ms += took_ms
        stalled = False
        if event.playhead_s == last.playhead_s and self._counts_stalls:
            stalled = self._extends_stall(last, event, took_ms)
        else:
            self._run = 0
        playback = self.playback
        if playback is _PLAY:
            self.spent.append(self._play(last, event, took_ms, stalled=stalled))
        elif playback is _PAUSE:
            self._pause_ms += took_ms
            self._idle(took_ms)
            self.spent.append(_PAUSE_TIME)
        elif playback is _BUFFER:
            self._buffer_ms += took_ms
            self._idle(took_ms)
            self.spent.append(_BUFFER_TIME)
        else:
            self.spent.append(_IDLE_TIME)

    def event(self, sequence: int, event: Event) -> None:
        """Take one event: move the three machines, and count what it reports."""
        kind = event.kind
        at_ms = event.occurred_at_ms
        if at_ms > self._latest_ms:
            self._latest_ms = at_ms
        self.times_ms.append(self._latest_ms)
        if event.playhead_s > self._length_s > 0:
            self._flags.add("playhead_beyond_length")
        if self._completed and kind is not _SESSION_END:
            self._flags.add("events_after_sessionComplete")
        if event.qoe is not None:
            self._quality.report(event.qoe, has_played=self._played)
        after = PLAYBACK[self.playback][kind]
        if after is not self.playback:
            self._enter(after)
        if kind is _PING_EVENT or kind is _PLAY_EVENT:
            if not self._played and self.is_content():
                self._played = True
        elif kind in AD_KINDS:
            self._step_ad(sequence, event)
        elif kind in CHAPTER_KINDS:
            self._step_chapter(sequence, event)
        else:
            self._count(kind, event)
        self._last = event

    def viewing(self, session: Session, rules: Rules) -> Viewing:
        """Return the result: what is open ends with the last event, a missing sessionComplete is added."""
        end = len(self.events) - 1
        ended_at_ms = self.times_ms[-1]
        if self._ad_event is not None:
            self._close_ad(end, "end")
        if self._chapter_event is not None:
            self._close_chapter(end, "end")
        complete_added = not self._completed
        events, times_ms = self.events, tuple(self.times_ms)
        if complete_added:
            events = (*events, Event(Kind.SESSION_COMPLETE, ended_at_ms, self._last.playhead_s))
            times_ms = (*times_ms, ended_at_ms)
        if ended_at_ms - times_ms[0] > LONG_SESSION_MS:
            self._flags.add("over_24h")
        if self.spans.sought:
            self._flags.add("seek_detected")
        return Viewing(
            events=events,
            event_times_ms=times_ms,
            complete_added=complete_added,
            started_at_ms=times_ms[0],
            ended_at_ms=ended_at_ms,
            metrics=self._metrics(session.details, rules),
            ads=tuple(self._ads),
            chapters=tuple(self._chapters),
            flags=frozenset(self._flags | self._states.flags),
        )

    def _count(self, kind: Kind, event: Event) -> None:
        if kind is Kind.STATES_UPDATE:
            self._states.update(event, self._clock_ms)
        elif kind is Kind.ERROR:
            self._quality.error(event.details)
        elif kind is Kind.BITRATE_CHANGE:
            self._quality.bitrate_changes += 1
        elif kind is Kind.SESSION_COMPLETE:
            self._completed = True

    def _enter(self, playback: Playback) -> None:
        self.playback = playback
        self._idle_ms = 0
        if playback is _PAUSE:
            self._pauses += 1
        elif playback is _BUFFER:
            self._buffers += 1

    def is_content(self) -> bool:
        """Whether main content plays now: PLAY, no ad open, nor a gap that counts nowhere, not completed."""
        return (
            self.playback is _PLAY
            and (self._ad_state is _NO_BREAK or (self._ad_state is _BREAK and self._break_is_content))
            and not self._completed
        )

    def has_content_start(self) -> bool:
        """Whether content has played."""
        return self._played

    def _play(self, last: Event, event: Event, took_ms: int, *, stalled: bool) -> Spent:
        cap_ms = self._gap_cap_ms
        counted_ms = took_ms if cap_ms is None or took_ms < cap_ms else cap_ms
        if self._ad_state is _AD:
            self._quality.play(counted_ms)
            self._ad_ms += counted_ms
            return _AD_TIME
        if self._completed:
            return _IDLE_TIME
        if self._ad_state is _BREAK and not self._break_is_content:
            return _IDLE_TIME
        self._quality.play(counted_ms)
        if stalled:
            self._stall_ms += took_ms
            return _STALL_TIME
        self._content_ms += counted_ms
        if self._chapter_state is _CHAPTER:
            self._chapter_ms += counted_ms
        if self._run:
            self._run_ms = counted_ms
            self._run_bounds = self.spans.lowest, self.spans.highest
        self.spans.add(last.playhead_s, event.playhead_s, took_ms)
        return _CONTENT_TIME

    def _extends_stall(self, last: Event, event: Event, took_ms: int) -> bool:
        """Return whether the interval up to this event, which stands still, makes a run of it."""
        kind = event.kind
        if (
            took_ms > 0
            and (kind is _PING_EVENT or kind is _PLAY_EVENT)
            and (last.kind is _PING_EVENT or last.kind is _PLAY_EVENT)
            and self.playback is _PLAY
            and self._ad_state is _NO_BREAK
            and not self._completed
        ):
            self._run = self._run + 1 if self._run else 2
            if self._run == 2:
                self._run_took_ms = took_ms
            elif self._run == STALL_EVENTS:
                self._take_back()
            return self._run >= STALL_EVENTS
        self._run = 0
        return False

    def _take_back(self) -> None:
        """Turn the first interval of a run, counted as content, into stall."""
        self._stalls += 1
        self._content_ms -= self._run_ms
        if self._chapter_state is _CHAPTER:
            self._chapter_ms -= self._run_ms
        self._stall_ms += self._run_took_ms
        self.spans.lowest, self.spans.highest = self._run_bounds
        self.spent[-1] = _STALL_TIME

    def _idle(self, took_ms: int) -> None:
        self._idle_ms += took_ms
        if self._idle_ms > LONG_IDLE_MS:
            self._flags.add("idle_over_30min")

    def _step_ad(self, sequence: int, event: Event) -> None:
        step = AD[self._ad_state][event.kind]
        if step.flag is not None:
            self._flags.add(step.flag)
        if step.closes is not None:
            self._close_ad(sequence, step.closes)
        if step.opens_break:
            self._pod = event.details
        if step.opens:
            self._ad_event, self._ad, self._ad_ms = event, sequence, 0
            self.playback = _PLAY
            self._idle_ms = 0
        self._ad_state = step.to

    def _close_ad(self, sequence: int, closed_by: str) -> None:
        started = self._ad_event
        assert started is not None  # noqa: S101 - the table closes only what it has opened
        pod = self._pod
        if "podFriendlyName" in started.details and "friendlyName" not in pod:
            pod = {**pod, "friendlyName": started.details["podFriendlyName"]}
        self._ads.append(
            Ad(
                details=started.details,
                pod=pod,
                custom_metadata=started.custom_metadata,
                started_sequence=self._ad,
                closed_sequence=sequence,
                started_at_ms=self.times_ms[self._ad],
                closed_at_ms=self.times_ms[sequence],
                started_playhead_s=started.playhead_s,
                closed_playhead_s=self.events[sequence].playhead_s,
                time_spent_ms=self._ad_ms,
                is_completed=closed_by == "complete",
                closed_by=closed_by,
            )
        )
        self._ads_ms += self._ad_ms
        self._ad_event = None

    def _step_chapter(self, sequence: int, event: Event) -> None:
        step = CHAPTER[self._chapter_state][event.kind]
        if step.flag is not None:
            self._flags.add(step.flag)
        if step.closes is not None:
            self._close_chapter(sequence, step.closes)
        if step.opens:
            self._chapter_event, self._chapter, self._chapter_ms = event, sequence, 0
        self._chapter_state = step.to

    def _close_chapter(self, sequence: int, closed_by: str) -> None:
        started = self._chapter_event
        assert started is not None  # noqa: S101 - the table closes only what it has opened
        self._chapters.append(
            Chapter(
                details=started.details,
                custom_metadata=started.custom_metadata,
                started_sequence=self._chapter,
                closed_sequence=sequence,
                started_at_ms=self.times_ms[self._chapter],
                closed_at_ms=self.times_ms[sequence],
                started_playhead_s=started.playhead_s,
                closed_playhead_s=self.events[sequence].playhead_s,
                time_spent_ms=self._chapter_ms,
                is_completed=closed_by == "complete",
                closed_by=closed_by,
            )
        )
        self._chapter_event = None

    def _metrics(self, details: Details, rules: Rules) -> Metrics:
        total_ms = self._content_ms + self._ads_ms
        quality = self._quality
        bitrate_kbps = quality.bitrate_average_kbps(rules.bitrate_unit)
        return Metrics(
            content_time_spent_ms=self._content_ms,
            media_time_spent_ms=total_ms,
            unique_time_played_ms=self.spans.unique_ms(),
            average_minute_audience=(
                seconds(self._content_ms) / self._length_s if self._length_s >= LEAST_LENGTH_S else None
            ),
            estimated_streams=seconds(total_ms) // STREAM_S + 1,
            progress_markers=(self.spans.markers(self._length_s, rules.marker_rule) if self._played else ()),
            segment=self.spans.segment(rules.segment_step_min) if self._played else None,
            is_played=self._played,
            is_completed=self._completed,
            has_resume=details.get("hasResume") is True,
            is_authorized=str(details.get("authorized", "")).lower() == "true",
            is_dropped_before_start=not self._played,
            pause_count=self._pauses,
            pause_time_ms=self._pause_ms,
            buffer_count=self._buffers,
            buffer_time_ms=self._buffer_ms,
            stall_count=self._stalls,
            stall_time_ms=self._stall_ms,
            ad_count=len(self._ads),
            ad_time_spent_ms=self._ads_ms,
            chapter_count=len(self._chapters),
            bitrate_average_kbps=bitrate_kbps,
            bitrate_average_bucket=bucket(bitrate_kbps),
            bitrate_change_count=quality.bitrate_changes,
            dropped_frames=quality.dropped_frames,
            frames_per_second=quality.frames_per_second,
            time_to_start_ms=quality.time_to_start_ms,
            error_count=quality.errors,
            player_sdk_errors=tuple(quality.player_errors),
            external_errors=tuple(quality.external_errors),
            states=self._states.totals(self._clock_ms),
        )
