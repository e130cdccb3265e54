"""The XDM reporting rows: kinds, fields present and absent, and validity against the XDM schemas."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import jsonschema
import pytest
from referencing import Registry, Resource

from pipeline.session.datastream import OPEN_DATASTREAM, Datastream, Rules
from pipeline.session.measure import measure
from pipeline.session.model import Row, Session
from pipeline.session.rows import reporting_rows
from pipeline.wire import media_collection
from tests.shared import SHARED, needs_shared
from tests.stories import story

FILM = (
    "0 start, 0 play, 10 break 2, 10 ad 15, 25 adcomplete, 25 endbreak, 25 play, 30 chapter 3, "
    "60 on mute, 70 error e1, 80 bitrate bitrate=900 dropped_frames=3, 90 chaptercomplete, 100 complete"
)


def rows_of(session: Session, datastream: Datastream = OPEN_DATASTREAM) -> tuple[Row, ...]:
    return reporting_rows(session, measure(session, datastream.rules), "f" * 64, datastream)


def test_there_are_five_kinds_in_the_order_of_their_events() -> None:
    assert [row.event_type for row in rows_of(story(FILM))] == [
        "media.sessionStart",
        "media.adStart",
        "media.adComplete",
        "media.chapterComplete",
        "media.sessionComplete",
    ]


def test_a_skipped_ad_and_chapter_have_no_complete_row() -> None:
    rows = rows_of(story("0 start, 0 break, 0 ad, 5 adskip, 5 endbreak, 6 chapter, 9 chapterskip, 10 end"))
    assert [row.event_type for row in rows] == [
        "media.sessionStart",
        "media.adStart",
        "media.sessionComplete",
    ]


def test_a_switch_gives_skipped_ads_and_chapters_a_row() -> None:
    skipped = story("0 start, 0 break, 0 ad, 5 adskip, 5 endbreak, 6 chapter, 9 chapterskip, 10 end")
    rows = rows_of(skipped, Datastream(rules=Rules(skip_rows=True)))
    assert [row.event_type for row in rows] == [
        "media.sessionStart",
        "media.adStart",
        "media.adSkip",
        "media.chapterSkip",
        "media.sessionComplete",
    ]
    ad, chapter = rows[2].media_reporting["advertisingDetails"], rows[3].media_reporting["chapterDetails"]
    assert isinstance(ad, dict)
    assert isinstance(chapter, dict)
    assert (ad["timePlayed"], chapter["timePlayed"]) == (5, 3)
    assert not {"isCompleted"} & ({*ad} | {*chapter})
    abandoned = story("0 start, 0 break, 0 ad, 5 end")
    assert len(rows_of(abandoned, Datastream(rules=Rules(skip_rows=True)))) == 3


def test_the_start_row_says_downloaded_and_viewed_and_later_rows_do_not() -> None:
    first, *later = (_details(row) for row in rows_of(story(FILM, hasResume=True, isDownloaded=False)))
    assert (first["isDownloaded"], first["isViewed"], first["hasResume"]) == (True, True, True)
    assert "pccr" not in first
    for details in later:
        assert not {"isDownloaded", "isViewed", "hasResume"} & set(details)
        assert details["pccr"] is True


def test_false_flags_are_left_out_but_is_completed_is_always_there() -> None:
    details = _details(rows_of(story("0 start, 9 end"))[-1])
    assert details["isCompleted"] is False
    assert not {"isPlayed", "hasProgress10", "hasPauseImpactedStreams", "segment"} & set(details)
    assert (details["timePlayed"], details["pauseCount"], details["adCount"]) == (0, 0, 0)


def test_genres_become_a_list() -> None:
    assert _details(rows_of(story(FILM, genre="Drama, Comedy"))[0])["genreList"] == ("Drama", "Comedy")


def test_custom_metadata_of_the_session_is_merged_into_the_ads_row() -> None:
    session = story(FILM)
    events = list(session.events)
    events[0] = events[0]._replace(custom_metadata={"who": "session", "mood": "calm"})
    events[3] = events[3]._replace(custom_metadata={"who": "ad"})
    ad_start = rows_of(session._replace(events=tuple(events)))[1]
    assert ad_start.media_reporting["customMetadata"] == [
        {"name": "who", "value": "ad"},
        {"name": "mood", "value": "calm"},
    ]


def _details(row: Row) -> dict[str, Any]:
    details = row.media_reporting["sessionDetails"]
    assert isinstance(details, dict)
    return details


@cache
def _xdm() -> jsonschema.Draft6Validator:
    """Return a validator of mediaReporting with every upstream schema at hand."""
    schemas = [
        json.loads(path.read_text()) for path in (SHARED / "schemas-upstream/xdm").rglob("*.schema.json")
    ]
    from referencing.jsonschema import DRAFT6

    registry: Registry[Any] = Registry().with_resources(
        [(schema["$id"], Resource.from_contents(schema, default_specification=DRAFT6)) for schema in schemas]
    )
    group = next(s for s in schemas if s["$id"].endswith("experienceevent-media-analytics"))
    return jsonschema.Draft6Validator(group, registry=registry)


def _prefixed(value: Any) -> Any:
    """On the wire the prefix is dropped; the schemas have it."""
    if isinstance(value, dict):
        return {f"xdm:{name}": _prefixed(member) for name, member in value.items()}
    return [_prefixed(item) for item in value] if isinstance(value, (list, tuple)) else value


@needs_shared
@pytest.mark.parametrize("name", ["timeline-1", "timeline-2", "timeline-3", "seeks", "drop-in-preroll"])
def test_rows_of_a_worked_session_are_valid_xdm(name: str) -> None:
    body = (SHARED / f"vectors/timelines/{name}.request.json").read_bytes()
    _assert_valid(rows_of(media_collection.decode(body, "/api/v1/downloaded")))


@needs_shared
def test_rows_with_every_kind_of_value_are_valid_xdm() -> None:
    _assert_valid(rows_of(story(FILM, genre="A,B", streamType="audio", show="S", hasResume=True)))


@needs_shared
def test_the_xdm_check_can_fail() -> None:
    row = rows_of(story(FILM))[0]
    details = {**_details(row), "length": "long"}
    errors = list(_xdm().iter_errors({"xdm:mediaReporting": _prefixed({"sessionDetails": details})}))
    assert errors


def _assert_valid(rows: tuple[Row, ...]) -> None:
    for row in rows:
        errors = list(_xdm().iter_errors({"xdm:mediaReporting": _prefixed(row.media_reporting)}))
        assert not errors, (row.event_type, errors[0].message)
