"""The rules of a datastream as its file gives them."""

from __future__ import annotations

import pytest

from pipeline.session.datastream import AdBreakGap, BitrateUnit, MarkerRule, Rules, VidRule
from pipeline.stages.datastreams import DatastreamsError, parse_datastreams

EVERY = """
[datastream.one]
ignore_session_id = true
new_session_handle = true
strict = true
[datastream.one.rules]
marker_rule = "reached"
segment_step_min = 5
stall = false
bitrate_unit = "bps"
ad_break_gap = "none"
vid_rule = "always"
max_play_rate = 3
seek_slack_ms = 500
gap_cap_ms = 600000
skip_rows = true
"""


def test_every_switch_can_be_set_in_the_file() -> None:
    (one,) = parse_datastreams(EVERY).datastreams
    assert (one.ignore_session_id, one.new_session_handle, one.strict) == (True, True, True)
    assert one.rules == Rules(
        marker_rule=MarkerRule.REACHED,
        segment_step_min=5,
        stall=False,
        bitrate_unit=BitrateUnit.BPS,
        ad_break_gap=AdBreakGap.NONE,
        vid_rule=VidRule.ALWAYS,
        max_play_rate=3.0,
        seek_slack_ms=500,
        gap_cap_ms=600_000,
        skip_rows=True,
    )
    assert all(
        value != default for value, default in zip(one.rules, Rules(), strict=True)
    )  # so each one was read


def test_the_defaults_are_the_decided_ones() -> None:
    assert Rules() == Rules(
        marker_rule=MarkerRule.INTERVAL,
        segment_step_min=1,
        stall=True,
        bitrate_unit=BitrateUnit.KBPS,
        ad_break_gap=AdBreakGap.CONTENT,
        vid_rule=VidRule.ONLY_ID,
        max_play_rate=2.0,
        seek_slack_ms=2_000,
        gap_cap_ms=None,
        skip_rows=False,
    )


@pytest.mark.parametrize(
    "rule",
    [
        "segment_step_min = 0",
        "max_play_rate = -0.5",
        "max_play_rate = nan",
        "max_play_rate = inf",
        "seek_slack_ms = -1",
        "gap_cap_ms = -1",
        'marker_rule = "jumped"',
        "stall = 1",
        "segment_step_min = 1.5",
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_by_name(rule: str) -> None:
    with pytest.raises(DatastreamsError, match=f"datastream.one.rules.{rule.split(maxsplit=1)[0]}"):
        parse_datastreams(f"[datastream.one.rules]\n{rule}\n")
