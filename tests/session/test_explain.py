"""Why a number is what it is: every metric has a rule, and what a rule names adds up to the value."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given

from pipeline.session.datastream import AdBreakGap, Rules
from pipeline.session.explain import Because, Explanation, explain
from pipeline.session.measure import measure
from pipeline.session.metric_rules import RULES
from pipeline.session.model import Metrics, Session
from pipeline.session.rounding import half_up
from tests.session.test_properties import sessions
from tests.stories import story

TIMES = (
    "content_time_spent_ms",
    "ad_time_spent_ms",
    "media_time_spent_ms",
    "pause_time_ms",
    "buffer_time_ms",
    "stall_time_ms",
)
COUNTS = (
    "pause_count",
    "buffer_count",
    "ad_count",
    "chapter_count",
    "error_count",
    "bitrate_change_count",
)
RULE_SETS = (
    Rules(),
    Rules(gap_cap_ms=60_000, stall=False),
    Rules(gap_cap_ms=5_000),
    Rules(ad_break_gap=AdBreakGap.NONE),
)


def because(explanation: Explanation, metric: str) -> Because:
    return next(b for b in explanation.metrics if b.metric == metric)


def average(detail: str) -> int | None:
    """Return the average of a detail such as "100 for 20 s, 200 for 5.5 s"."""
    parts = [part.removesuffix(" s").split(" for ") for part in detail.split(", ") if part]
    weights = [(Fraction(rate), Fraction(took_s)) for rate, took_s in parts]
    total_s = sum(took_s for _, took_s in weights)
    return half_up(float(sum(rate * took_s for rate, took_s in weights) / total_s)) if total_s else None


def test_every_metric_has_one_rule() -> None:
    assert sorted(rule.metric for rule in RULES) == sorted(Metrics._fields)
    assert len({rule.name for rule in RULES}) == len(RULES)


@given(sessions(steps_back=True))
def test_what_a_rule_names_adds_up_to_the_value(session: Session) -> None:
    for rules in RULE_SETS:
        explanation, metrics = explain(session, rules), measure(session, rules).metrics
        for metric in TIMES:
            found = because(explanation, metric)
            assert found.value == getattr(metrics, metric)
            assert sum(i.counted_ms for i in found.intervals) == found.value, metric
        for metric in COUNTS:
            found = because(explanation, metric)
            assert len(found.events) == found.value == getattr(metrics, metric), metric
        assert average(because(explanation, "bitrate_average_kbps").detail) == metrics.bitrate_average_kbps
        for part in (*explanation.ads, *explanation.chapters):
            assert sum(i.counted_ms for i in part.intervals) == part.time_spent_ms


def test_a_repeated_pause_start_made_nothing() -> None:
    explanation = explain(story("0 start, 0 play, 10 pause, 20 pause, 30 play, 40 end"), Rules())
    assert because(explanation, "pause_count").events == (2,)


def test_only_the_time_to_start_that_counts_is_named() -> None:
    text = (
        "0 start time_to_start_ms=900, 1 ping time_to_start_ms=800, 2 play, 5 ping time_to_start_ms=9, 9 end"
    )
    assert because(explain(story(text), Rules()), "time_to_start_ms").events == (1,)
    late = "0 start, 1 play, 5 ping time_to_start_ms=7, 6 ping time_to_start_ms=8, 9 end"
    assert because(explain(story(late), Rules()), "time_to_start_ms").events == (2,)


def test_a_seek_is_marked_on_its_interval() -> None:
    explanation = explain(story("0 start, 0 play @0, 10 ping @10, 20 ping @90, 30 complete @95"), Rules())
    assert [i.from_sequence for i in explanation.intervals if i.is_seek] == [2]
    assert because(explanation, "unique_time_played_ms").detail == "played 0 to 10, 90 to 95 s of the content"


@pytest.mark.parametrize(
    ("metric", "detail"),
    [
        ("average_minute_audience", "48 s / 100 s"),
        ("estimated_streams", "floor(48 / 1800) + 1"),
        ("segment", "playheads 0 to 48 s, in 1 min steps"),
        (
            "progress_markers",
            (
                "played through: 10 % at 10 s yes, 25 % at 25 s yes, 50 % at 50 s no, 75 % at 75 s no, "
                "95 % at 95 s no"
            ),
        ),
    ],
)
def test_a_value_is_spelt_out(metric: str, detail: str) -> None:
    explanation = explain(story("0 start, 0 play @0, 48 complete @48"), Rules())
    assert because(explanation, metric).detail == detail


def test_lanes_hold_playback_ads_chapters_and_states() -> None:
    text = (
        "0 start, 0 play, 10 break, 10 ad, 25 adcomplete, 25 endbreak, 30 chapter, 40 on FullScreen, 60 end"
    )
    lanes = {lane.name: lane.bars for lane in explain(story(text), Rules()).lanes}
    assert [*lanes] == ["playback", "ads", "chapters", "fullscreen"]
    assert [(bar.from_ms, bar.to_ms, bar.label) for bar in lanes["playback"]] == [
        (0, 10_000, "content"),
        (10_000, 25_000, "ad"),
        (25_000, 60_000, "content"),
    ]
    assert [(bar.from_ms, bar.to_ms) for bar in lanes["fullscreen"]] == [(40_000, 60_000)]


GAP = "0 start bitrate=100, 0 play, 10 break bitrate=900, 20 ping, 30 endbreak bitrate=200, 40 end"


def test_a_gap_in_a_break_that_counts_nowhere_weighs_no_bitrate() -> None:
    rules = Rules(ad_break_gap=AdBreakGap.NONE)
    found = because(explain(story(GAP), rules), "bitrate_average_kbps")
    assert (found.value, found.detail) == (150, "100 for 10 s, 200 for 10 s")
    counted = because(explain(story(GAP), Rules()), "bitrate_average_kbps")
    assert (counted.value, counted.detail) == (525, "100 for 10 s, 900 for 20 s, 200 for 10 s")


def test_a_gap_in_a_break_that_counts_nowhere_starts_no_content() -> None:
    text = "0 start, 0 break, 0 play, 5 ping, 9 endbreak, 9 end"
    explanation = explain(story(text), Rules(ad_break_gap=AdBreakGap.NONE))
    assert (because(explanation, "is_played").value, because(explanation, "is_played").events) == (False, ())
    assert because(explain(story(text), Rules()), "is_played").events == (2,)


def test_a_stall_weighs_its_bitrate_as_far_as_the_gap_cap_lets_it() -> None:
    text = "0 start bitrate=100, 0 play @0, 50 ping @0, 100 ping @0 bitrate=200, 101 ping @0, 102 end @0"
    found = because(explain(story(text), Rules(gap_cap_ms=10_000)), "bitrate_average_kbps")
    assert (found.value, found.detail) == (109, "100 for 20 s, 200 for 2 s")
