"""What counts and what doesn't, one small story each."""

from __future__ import annotations

import pytest

from pipeline.session.datastream import AdBreakGap, BitrateUnit, MarkerRule, Rules
from pipeline.session.model import StateTotal
from tests.stories import BASE_MS, viewing_of


def test_a_pause_does_not_count_as_playing() -> None:
    metrics = viewing_of("0 start, 0 play, 30 pause, 90 play, 100 end").metrics
    assert (metrics.content_time_spent_ms, metrics.pause_count, metrics.pause_time_ms) == (40_000, 1, 60_000)


def test_a_second_pause_start_inside_a_pause_is_the_same_pause() -> None:
    metrics = viewing_of("0 start, 0 play, 10 pause, 15 ping, 20 pause, 30 play, 40 end").metrics
    assert (metrics.pause_count, metrics.pause_time_ms) == (1, 20_000)


def test_buffering_before_the_first_play_counts_as_buffer() -> None:
    metrics = viewing_of("0 start, 0 buffer, 4 play, 14 end").metrics
    assert (metrics.buffer_count, metrics.buffer_time_ms, metrics.content_time_spent_ms) == (1, 4_000, 10_000)


def test_time_in_an_ad_is_ad_time_and_not_content_time() -> None:
    viewing = viewing_of(
        "0 start, 0 play, 10 break, 10 ad 15, 25 adcomplete, 25 endbreak, 25 play, 40 complete"
    )
    metrics = viewing.metrics
    assert (metrics.content_time_spent_ms, metrics.ad_time_spent_ms) == (25_000, 15_000)
    assert metrics.media_time_spent_ms == 40_000
    assert [(ad.is_completed, ad.closed_by) for ad in viewing.ads] == [(True, "complete")]


def test_an_ad_outside_a_break_is_ignored_and_its_time_is_content() -> None:
    viewing = viewing_of("0 start, 0 play, 10 ad, 20 adcomplete, 30 complete")
    assert viewing.metrics.ad_count == 0
    assert viewing.metrics.content_time_spent_ms == 30_000
    assert {"ad_outside_break_ignored", "adComplete_without_ad_ignored"} <= viewing.flags


def test_an_ad_starts_playing_by_itself() -> None:
    viewing = viewing_of("0 start, 0 break, 0 ad, 15 adcomplete, 15 endbreak, 30 end")
    assert (viewing.metrics.ad_time_spent_ms, viewing.metrics.content_time_spent_ms) == (15_000, 15_000)


def test_a_new_ad_closes_the_one_that_is_open_without_completing_it() -> None:
    viewing = viewing_of("0 start, 0 break, 0 ad 10, 7 ad 20, 20 endbreak, 20 end")
    assert [(ad.closed_by, ad.is_completed, ad.time_spent_ms) for ad in viewing.ads] == [
        ("adStart", False, 7_000),
        ("adBreakComplete", False, 13_000),
    ]


def test_a_missing_session_complete_is_added_at_the_last_moment_with_the_last_playhead() -> None:
    viewing = viewing_of("0 start, 0 play, 50 ping")
    assert viewing.complete_added
    assert not viewing.metrics.is_completed
    assert (viewing.events[-1].occurred_at_ms, viewing.events[-1].playhead_s) == (BASE_MS + 50_000, 50)


def test_session_end_alone_is_not_completed() -> None:
    viewing = viewing_of("0 start, 0 play, 50 end")
    assert (viewing.complete_added, viewing.metrics.is_completed) == (True, False)


def test_what_follows_a_session_end_is_dropped() -> None:
    whole = viewing_of("0 start, 0 play, 50 end, 60 play, 90 ping")
    assert whole.metrics == viewing_of("0 start, 0 play, 50 end").metrics
    assert "events_after_sessionEnd_dropped" in whole.flags


def test_after_session_complete_only_ads_count() -> None:
    viewing = viewing_of(
        "0 start, 0 play, 50 complete, 50 break, 50 ad, 60 adcomplete, 60 endbreak, 80 ping, 90 end"
    )
    assert (viewing.metrics.content_time_spent_ms, viewing.metrics.ad_time_spent_ms) == (50_000, 10_000)
    assert viewing.ended_at_ms == BASE_MS + 90_000
    assert "events_after_sessionComplete" in viewing.flags


def test_a_clock_that_steps_back_counts_nothing_and_is_flagged() -> None:
    viewing = viewing_of("0 start, 0 play, 30 ping, 20 ping @31, 40 complete @51")
    assert viewing.metrics.content_time_spent_ms == 50_000
    assert viewing.event_times_ms[-2:] == (BASE_MS + 30_000, BASE_MS + 40_000)
    assert "clock_regression" in viewing.flags


def test_a_seek_is_no_unique_time_and_is_flagged() -> None:
    viewing = viewing_of("0 start @0, 0 play @0, 20 ping @20, 21 ping @400, 31 complete @410", length=1000)
    assert viewing.metrics.unique_time_played_ms == 30_000
    assert "seek_detected" in viewing.flags


def test_what_is_watched_twice_is_unique_once() -> None:
    metrics = viewing_of("0 start, 0 play @0, 30 pause @30, 31 play @10, 51 complete @30").metrics
    assert (metrics.content_time_spent_ms, metrics.unique_time_played_ms) == (50_000, 30_000)


def test_three_events_that_stand_still_are_a_stall_and_not_time_spent() -> None:
    metrics = viewing_of("0 start, 0 play @0, 10 ping @10, 20 ping @10, 30 ping @10, 40 complete @20").metrics
    assert (metrics.stall_count, metrics.stall_time_ms) == (1, 20_000)
    assert metrics.content_time_spent_ms == 20_000


def test_the_playhead_of_a_stall_is_no_part_of_the_segment() -> None:
    stalled = "0 start, 0 play @300, 10 ping @300, 20 ping @300"
    assert viewing_of(stalled, length=999).metrics.segment is None
    assert viewing_of("0 start, 0 play @300, 10 ping @300", length=999).metrics.segment == "[5-6]"
    later = "0 start, 0 play @300, 10 ping @300, 20 ping @300, 21 play @10, 30 complete @19"
    assert viewing_of(later, length=999).metrics.segment == "[0-5]"  # the interval to 10 began at 300


def test_two_events_that_stand_still_are_no_stall() -> None:
    metrics = viewing_of("0 start, 0 play @0, 10 ping @10, 20 ping @10, 30 ping @20, 40 complete @30").metrics
    assert (metrics.stall_count, metrics.content_time_spent_ms) == (0, 40_000)


def test_a_stall_inside_a_chapter_is_taken_out_of_the_chapter_too() -> None:
    viewing = viewing_of(
        "0 start, 0 play @0, 0 chapter, 10 ping @10, 20 ping @10, 30 ping @10, 40 chaptercomplete @20, 40 end"
    )
    assert viewing.chapters[0].time_spent_ms == 20_000


def test_a_session_that_ends_in_its_pre_roll_was_dropped_before_start() -> None:
    metrics = viewing_of("0 start, 0 break, 0 ad, 5 ping, 9 end").metrics
    assert metrics.is_dropped_before_start
    assert not metrics.is_played
    assert metrics.segment is None


def test_play_before_a_pre_roll_is_a_content_start() -> None:
    assert viewing_of("0 start, 0 play, 0 break, 0 ad, 9 end").metrics.is_played


def test_estimated_streams_are_the_half_hours_begun() -> None:
    text = "0 start, 0 play @0, {end} complete @{end}"
    counts = [
        viewing_of(text.format(end=end), length=9999).metrics.estimated_streams
        for end in (1799, 1800, 3599, 3600)
    ]
    assert counts == [1, 2, 2, 3]


def test_average_minute_audience_is_time_spent_over_length() -> None:
    assert viewing_of("0 start, 0 play, 48 complete").metrics.average_minute_audience == 0.48
    assert viewing_of("0 start, 0 play, 48 complete", length=0).metrics.average_minute_audience is None


def test_bitrate_is_weighted_by_the_time_it_played() -> None:
    metrics = viewing_of(
        "0 start bitrate=100, 0 play, 10 bitrate bitrate=400, 40 pause, 90 play, 90 end"
    ).metrics
    assert (metrics.bitrate_average_kbps, metrics.bitrate_average_bucket) == (325, "300-399")
    assert metrics.bitrate_change_count == 1


def test_time_to_start_is_the_last_value_up_to_the_first_content_play() -> None:
    before = viewing_of(
        "0 start time_to_start_ms=900, 1 play time_to_start_ms=1200, 5 ping time_to_start_ms=9, 9 end"
    )
    assert before.metrics.time_to_start_ms == 1200
    assert viewing_of("0 start, 1 play, 5 ping time_to_start_ms=7, 9 end").metrics.time_to_start_ms == 7


def test_errors_are_counted_each_and_listed_once_by_source() -> None:
    metrics = viewing_of("0 start, 0 play, 1 error a, 2 error a, 3 error b source=external, 9 end").metrics
    assert (metrics.error_count, metrics.player_sdk_errors, metrics.external_errors) == (3, ("a",), ("b",))
    assert metrics.content_time_spent_ms == 9_000


def test_player_states_run_on_the_wall_clock_whatever_plays() -> None:
    viewing = viewing_of(
        "0 start, 0 on FullScreen, 0 play, 10 pause, 30 off fullscreen, 40 play, 50 on mute, 60 end"
    )
    assert viewing.metrics.states == (StateTotal("fullscreen", 1, 30_000), StateTotal("mute", 1, 10_000))


def test_only_the_first_ten_state_names_count() -> None:
    states = ", ".join(f"{n} on s{n}" for n in range(12))
    viewing = viewing_of(f"0 start, {states}, 20 end")
    assert len(viewing.metrics.states) == 10
    assert "state_limit" in viewing.flags


def test_a_state_that_ends_without_a_start_is_flagged() -> None:
    assert "stateEnd_without_start_ignored" in viewing_of("0 start, 1 off mute, 2 end").flags


def test_half_a_second_rounds_up_once() -> None:
    from pipeline.session.rounding import seconds

    assert [seconds(value) for value in (499, 500, 1_499, 1_500)] == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("story", "flag"),
    [
        ("0 start, 0 play, 700 end", "gap_over_10min"),
        ("0 start, 0 pause, 500 ping, 1000 ping, 1500 ping, 1900 end", "idle_over_30min"),
        ("0 start, 0 play @0, 90000 end @5", "over_24h"),
        ("0 start, 0 play, 1 ping @101, 2 end", "playhead_beyond_length"),
        ("0 start, 1 chaptercomplete, 2 end", "chapterComplete_without_chapter_ignored"),
        ("0 start, 0 play, 2 end", "equal_ts"),
    ],
)
def test_a_doubt_becomes_a_flag(story: str, flag: str) -> None:
    assert flag in viewing_of(story).flags


# Each switch of a datastream, and the difference that it makes.


def test_the_marker_rule_decides_whether_a_jump_sets_markers() -> None:
    text = "0 start @0, 0 play @0, 5 ping @5, 6 ping @60, 10 complete @64"
    assert viewing_of(text).metrics.progress_markers == ()
    reached = viewing_of(text, Rules(marker_rule=MarkerRule.REACHED)).metrics.progress_markers
    assert reached == (10, 25, 50)


def test_the_segment_step_decides_how_wide_segments_are() -> None:
    text = "0 start, 0 play @0, 48 complete @48"
    assert viewing_of(text).metrics.segment == "[0-1]"
    assert viewing_of(text, Rules(segment_step_min=5)).metrics.segment == "[0-5]"


def test_without_the_stall_rule_standing_still_is_time_spent() -> None:
    text = "0 start, 0 play @0, 10 ping @10, 20 ping @10, 30 ping @10, 40 complete @20"
    metrics = viewing_of(text, Rules(stall=False)).metrics
    assert (metrics.stall_count, metrics.content_time_spent_ms) == (0, 40_000)


def test_the_bitrate_unit_bps_divides_by_a_thousand() -> None:
    text = "0 start bitrate=2500000, 0 play, 10 end"
    assert viewing_of(text).metrics.bitrate_average_kbps == 2_500_000
    assert viewing_of(text, Rules(bitrate_unit=BitrateUnit.BPS)).metrics.bitrate_average_kbps == 2_500


def test_the_gap_rule_decides_what_time_between_ads_is() -> None:
    text = "0 start, 0 play, 10 break, 12 ad, 20 adcomplete, 25 endbreak, 30 end"
    assert viewing_of(text).metrics.content_time_spent_ms == 22_000
    assert viewing_of(text, Rules(ad_break_gap=AdBreakGap.NONE)).metrics.content_time_spent_ms == 15_000


def test_the_play_rate_and_slack_decide_what_a_seek_is() -> None:
    text = "0 start @0, 0 play @0, 10 complete @25"
    assert viewing_of(text).metrics.unique_time_played_ms == 0
    assert viewing_of(text, Rules(max_play_rate=3.0)).metrics.unique_time_played_ms == 25_000
    assert viewing_of(text, Rules(seek_slack_ms=5_000)).metrics.unique_time_played_ms == 25_000


def test_a_gap_cap_limits_what_one_interval_may_count() -> None:
    text = "0 start, 0 play, 5000 end"
    assert viewing_of(text).metrics.content_time_spent_ms == 5_000_000
    assert viewing_of(text, Rules(gap_cap_ms=60_000)).metrics.content_time_spent_ms == 60_000
