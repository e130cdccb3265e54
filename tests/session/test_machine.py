"""The state machine has no holes: every state has a row for every event."""

from __future__ import annotations

from enum import Enum

import pytest

from pipeline.session.machine import (
    AD,
    AD_KINDS,
    CHAPTER,
    CHAPTER_KINDS,
    PLAYBACK,
    AdState,
    AdStep,
    ChapterState,
    ChapterStep,
    Playback,
)
from pipeline.session.model import Kind


@pytest.mark.parametrize(("table", "states"), [(PLAYBACK, Playback), (AD, AdState), (CHAPTER, ChapterState)])
def test_every_state_has_a_row_for_every_event(
    table: dict[object, dict[Kind, object]], states: type[Enum]
) -> None:
    assert set(table) == set(states)
    assert all(set(row) == set(Kind) for row in table.values())


def test_only_the_listed_kinds_move_the_ad_and_chapter_machines() -> None:
    for state, row in AD.items():
        assert all(step == AdStep(state) for kind, step in row.items() if kind not in AD_KINDS)
    for chapter, steps in CHAPTER.items():
        assert all(step == ChapterStep(chapter) for kind, step in steps.items() if kind not in CHAPTER_KINDS)


def test_an_ad_is_closed_exactly_when_its_state_is_left_or_a_new_one_opens() -> None:
    for state, row in AD.items():
        for step in row.values():
            leaves = state is AdState.AD and (step.to is not AdState.AD or step.opens)
            assert (step.closes is not None) == leaves
            assert not step.opens or step.to is AdState.AD


def test_only_play_pause_and_buffer_change_playback() -> None:
    movers = {
        kind for row in PLAYBACK.values() for kind, to in row.items() for s in [row] if to is not _self(s)
    }
    assert movers == {Kind.SESSION_START, Kind.PLAY, Kind.PAUSE_START, Kind.BUFFER_START}


def _self(row: dict[Kind, Playback]) -> Playback:
    return row[Kind.PING]
