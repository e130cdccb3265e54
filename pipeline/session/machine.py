"""The state machine of a session as three tables (`spec/media-collection.md` 2.4).

Playback, ad and chapter run side by side. Each table has a row for every state and every kind of
event; a test walks all of them, and `docs/state-machine.md` is drawn from them. Player states are a
set of open names and need no table.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from pipeline.session.model import Kind


class Playback(StrEnum):
    """What the main player does; an interval between two events is judged by it."""

    __hash__ = str.__hash__

    INIT = "init"
    PLAY = "play"
    PAUSE = "pause"
    BUFFER = "buffer"


class AdState(StrEnum):
    """Whether an ad break and an ad in it are open."""

    __hash__ = str.__hash__

    CONTENT = "content"
    BREAK = "break"
    AD = "ad"


class ChapterState(StrEnum):
    """Whether a chapter is open."""

    __hash__ = str.__hash__

    NONE = "none"
    CHAPTER = "chapter"


class AdStep(NamedTuple):
    """A transition of the ad table. `opens` starts a new ad, which also sets playback to PLAY."""

    to: AdState
    closes: str | None = None
    opens: bool = False
    opens_break: bool = False
    flag: str | None = None


class ChapterStep(NamedTuple):
    """A transition of the chapter table."""

    to: ChapterState
    closes: str | None = None
    opens: bool = False
    flag: str | None = None


_SETS_PLAYBACK: Final[dict[Kind, Playback]] = {
    Kind.SESSION_START: Playback.INIT,
    Kind.PLAY: Playback.PLAY,
    Kind.PAUSE_START: Playback.PAUSE,
    Kind.BUFFER_START: Playback.BUFFER,
}

PLAYBACK: Final[dict[Playback, dict[Kind, Playback]]] = {
    state: {kind: _SETS_PLAYBACK.get(kind, state) for kind in Kind} for state in Playback
}
"""The playback state after an event. An accepted adStart sets PLAY too (`AdStep.opens`)."""

_BREAK: Final = AdStep(AdState.BREAK, opens_break=True)
_OUTSIDE: Final = AdStep(AdState.CONTENT, flag="ad_outside_break_ignored")
_NO_AD: Final = "adComplete_without_ad_ignored"

_AD_STEPS: Final[dict[AdState, dict[Kind, AdStep]]] = {
    AdState.CONTENT: {
        Kind.AD_BREAK_START: _BREAK,
        Kind.AD_START: _OUTSIDE,
        Kind.AD_COMPLETE: AdStep(AdState.CONTENT, flag=_NO_AD),
        Kind.AD_SKIP: AdStep(AdState.CONTENT, flag=_NO_AD),
        Kind.AD_BREAK_COMPLETE: AdStep(AdState.CONTENT),
    },
    AdState.BREAK: {
        Kind.AD_BREAK_START: _BREAK,
        Kind.AD_START: AdStep(AdState.AD, opens=True),
        Kind.AD_COMPLETE: AdStep(AdState.BREAK, flag=_NO_AD),
        Kind.AD_SKIP: AdStep(AdState.BREAK, flag=_NO_AD),
        Kind.AD_BREAK_COMPLETE: AdStep(AdState.CONTENT),
    },
    AdState.AD: {
        Kind.AD_BREAK_START: AdStep(AdState.BREAK, closes="adBreakStart", opens_break=True),
        Kind.AD_START: AdStep(AdState.AD, closes="adStart", opens=True),
        Kind.AD_COMPLETE: AdStep(AdState.BREAK, closes="complete"),
        Kind.AD_SKIP: AdStep(AdState.BREAK, closes="skip"),
        Kind.AD_BREAK_COMPLETE: AdStep(AdState.CONTENT, closes="adBreakComplete"),
    },
}

AD: Final[dict[AdState, dict[Kind, AdStep]]] = {
    state: {kind: steps.get(kind, AdStep(state)) for kind in Kind} for state, steps in _AD_STEPS.items()
}
"""The ad state after an event, and which ad is closed by what."""

_NO_CHAPTER: Final = ChapterStep(ChapterState.NONE, flag="chapterComplete_without_chapter_ignored")

_CHAPTER_STEPS: Final[dict[ChapterState, dict[Kind, ChapterStep]]] = {
    ChapterState.NONE: {
        Kind.CHAPTER_START: ChapterStep(ChapterState.CHAPTER, opens=True),
        Kind.CHAPTER_COMPLETE: _NO_CHAPTER,
        Kind.CHAPTER_SKIP: _NO_CHAPTER,
    },
    ChapterState.CHAPTER: {
        Kind.CHAPTER_START: ChapterStep(ChapterState.CHAPTER, closes="chapterStart", opens=True),
        Kind.CHAPTER_COMPLETE: ChapterStep(ChapterState.NONE, closes="complete"),
        Kind.CHAPTER_SKIP: ChapterStep(ChapterState.NONE, closes="skip"),
    },
}

CHAPTER: Final[dict[ChapterState, dict[Kind, ChapterStep]]] = {
    state: {kind: steps.get(kind, ChapterStep(state)) for kind in Kind}
    for state, steps in _CHAPTER_STEPS.items()
}
"""The chapter state after an event, and which chapter is closed by what."""

AD_KINDS: Final = frozenset(_AD_STEPS[AdState.CONTENT])
"""The kinds that can change the ad state."""

CHAPTER_KINDS: Final = frozenset(_CHAPTER_STEPS[ChapterState.NONE])
"""The kinds that can change the chapter state."""
