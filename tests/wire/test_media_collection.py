"""What only the Media Collection form has: two places for one value, and the library that sent it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.session.model import Session
from pipeline.wire import media_collection
from pipeline.wire.encode import to_media_collection
from tests.stories import story


def decoded(text: str, *, strict: bool = False, **members: Any) -> Session:
    """Return the session of this story whose second event has these members."""
    body = json.loads(to_media_collection(story(text)))
    body[1].update(members)
    return media_collection.decode(json.dumps(body).encode(), "/api/v1/downloaded", strict=strict)


@pytest.mark.parametrize("strict", [False, True])
def test_of_two_values_for_one_thing_the_one_that_loses_is_kept(strict: bool) -> None:
    error = decoded(
        "0 start, 1 error, 9 end",
        strict=strict,
        params={"media.errorId": "wins", "media.errorSource": "player"},
        qoeData={"media.qoe.errorID": "loses", "media.qoe.errorSource": "external", "media.qoe.bitrate": 1},
    )
    assert error.events[1].details == {"name": "wins", "source": "player"}
    assert error.events[1].unknown == {
        "qoeData": {"media.qoe.errorID": "loses", "media.qoe.errorSource": "external"}
    }
    bitrate = decoded(
        "0 start, 1 bitrate, 9 end",
        strict=strict,
        params={"media.qoe.bitrate": 1, "media.qoe.droppedFrames": 3},
        qoeData={"media.qoe.bitrate": 2},
    )
    assert bitrate.events[1].qoe is not None
    assert (bitrate.events[1].qoe.bitrate, bitrate.events[1].qoe.dropped_frames) == (2, 3)
    assert bitrate.events[1].unknown == {"params": {"media.qoe.bitrate": 1}}
    assert error.flags == bitrate.flags == {"unknown_param"}


def test_what_loses_is_kept_beside_what_is_unknown() -> None:
    session = decoded(
        "0 start, 1 bitrate, 9 end",
        params={"media.qoe.bitrate": 1, "media.new": "x"},
        qoeData={"media.qoe.bitrate": 2},
    )
    assert session.events[1].unknown == {"params": {"media.new": "x", "media.qoe.bitrate": 1}}


def test_the_same_value_in_both_places_is_no_doubt() -> None:
    session = decoded(
        "0 start, 1 error, 9 end", params={"media.errorId": "e"}, qoeData={"media.qoe.errorID": "e"}
    )
    assert (session.events[1].unknown, session.flags) == (None, frozenset())


def test_the_version_of_what_sent_it_is_that_of_the_media_library() -> None:
    named = story("0 start, 9 end", libraryVersion="android-media-3.1.2")
    for session, version in ((named, "android-media-3.1.2"), (story("0 start, 9 end"), "0.0.0")):
        implementation = media_collection.decode(
            to_media_collection(session), "/api/v1/downloaded"
        ).implementation
        assert implementation == ("media-collection-api", version, "server")
