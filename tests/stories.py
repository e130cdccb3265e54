"""A small language for sessions: "0 start, 0 play, 30 pause, 90 play, 100 end".

Each step is a time in seconds, an event, and options: `@12` the playhead (else it follows play at
normal speed), `x=…` a value. Words are short forms of the event types; an ad is `ad 15` (its length).
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from pipeline.session.datastream import OPEN_DATASTREAM, Datastream, Rules
from pipeline.session.measure import measure
from pipeline.session.model import (
    Event,
    Form,
    Implementation,
    Kind,
    Qoe,
    Routing,
    Session,
    Viewing,
    Visitor,
)

BASE_MS: Final = 1_700_000_000_000

WORDS: Final[dict[str, Kind]] = {
    "start": Kind.SESSION_START,
    "play": Kind.PLAY,
    "ping": Kind.PING,
    "pause": Kind.PAUSE_START,
    "buffer": Kind.BUFFER_START,
    "bitrate": Kind.BITRATE_CHANGE,
    "break": Kind.AD_BREAK_START,
    "endbreak": Kind.AD_BREAK_COMPLETE,
    "ad": Kind.AD_START,
    "adcomplete": Kind.AD_COMPLETE,
    "adskip": Kind.AD_SKIP,
    "chapter": Kind.CHAPTER_START,
    "chaptercomplete": Kind.CHAPTER_COMPLETE,
    "chapterskip": Kind.CHAPTER_SKIP,
    "on": Kind.STATES_UPDATE,
    "off": Kind.STATES_UPDATE,
    "error": Kind.ERROR,
    "complete": Kind.SESSION_COMPLETE,
    "end": Kind.SESSION_END,
}

_STEP: Final = re.compile(r"(-?[\d.]+) (\w+)((?: [^ ]+)*)")


class _Step(NamedTuple):
    at_s: float
    word: str
    playhead_s: float | None
    options: dict[str, str]
    plain: tuple[str, ...]


def story(text: str, *, length: float = 100, form: Form = Form.MEDIA_COLLECTION, **details: Any) -> Session:
    """Return the session that this story tells."""
    steps = [_step(part) for part in text.replace("\n", " ").split(",") if part.strip()]
    events: list[Event] = []
    playhead, last_at, playing = 0.0, 0.0, False
    for step in steps:
        if playing and step.at_s > last_at:
            playhead += step.at_s - last_at
        if step.playhead_s is not None:
            playhead = step.playhead_s
        last_at = step.at_s
        kind = WORDS[step.word]
        if kind in {Kind.PLAY, Kind.AD_BREAK_COMPLETE}:
            playing = True
        elif kind in {Kind.PAUSE_START, Kind.BUFFER_START, Kind.AD_BREAK_START, Kind.SESSION_COMPLETE}:
            playing = False
        events.append(_event(kind, step, playhead, length, details))
    return Session(
        form=form,
        events=tuple(events),
        visitor=Visitor(ecid="1" * 38, key_value="1" * 38),
        routing=Routing("ORG@AdobeOrg", ("suite",), "example.sc.omtrdc.net"),
        implementation=Implementation(),
    )


def viewing_of(text: str, rules: Rules | None = None, **options: Any) -> Viewing:
    """Return what is measured of this story."""
    return measure(story(text, **options), rules or Rules())


def datastream(**rules: Any) -> Datastream:
    """Return the open datastream with these rules."""
    return OPEN_DATASTREAM._replace(rules=Rules(**rules))


def _step(part: str) -> _Step:
    match = _STEP.fullmatch(part.strip())
    assert match is not None, f"not a step: {part!r}"
    words = match[3].split()
    playhead = next((float(word[1:]) for word in words if word.startswith("@")), None)
    options = dict(word.split("=", 1) for word in words if "=" in word)
    plain = tuple(word for word in words if "=" not in word and not word.startswith("@"))
    return _Step(float(match[1]), match[2], playhead, options, plain)


def _event(kind: Kind, step: _Step, playhead: float, length: float, details: dict[str, Any]) -> Event:
    value = step.plain[0] if step.plain else None
    qoe = {name: float(step.options[name]) for name in Qoe._fields if name in step.options}
    found: dict[str, Any] = {}
    match kind:
        case Kind.SESSION_START:
            found = {
                "name": "film-1",
                "length": length,
                "contentType": "vod",
                "playerName": "player",
                "channel": "app",
                **details,
            }
        case Kind.AD_BREAK_START:
            found = {"index": int(value or 1), "offset": 0}
        case Kind.AD_START:
            found = {
                "name": f"ad-{value or 15}",
                "length": float(value or 15),
                "podPosition": 1,
                "playerName": "player",
            }
        case Kind.CHAPTER_START:
            found = {"index": int(value or 1), "offset": 0, "length": 60}
        case Kind.ERROR:
            found = {"name": value or "e1", "source": step.options.get("source", "player")}
    return Event(
        kind=kind,
        occurred_at_ms=BASE_MS + round(step.at_s * 1000),
        playhead_s=playhead,
        details=found,
        qoe=Qoe(**qoe) if qoe else None,
        states_started=(value,) if step.word == "on" and value else (),
        states_ended=(value,) if step.word == "off" and value else (),
    )
