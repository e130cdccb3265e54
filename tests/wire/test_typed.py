"""The door's quick look takes nothing that the decoder refuses, and gives the same identity."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.session.datastream import OPEN_DATASTREAM
from pipeline.session.identity import session_id, visitor_key, visitor_key_of
from pipeline.wire import media_collection
from pipeline.wire.typed import glance
from tests.wire.test_properties import GOOD, JUNK, NAMES

PATHS = ("/api/v1/downloaded", "/api/v1/sessions")
STATE = {"playerTime": {"playhead": 1, "ts": 1_700_000_070_000}, "params": {"media.state.name": "mute"}}
SENT: list[Any] = [
    *(event for event in GOOD if event["eventType"] != "statesUpdate"),
    {"eventType": "stateStart", **STATE},
    {"eventType": "stateEnd", **STATE},
]
"""As an SDK sends it; `statesUpdate`, which none sends, is left to the decoder."""
BYTES = json.dumps(SENT, separators=(",", ":")).encode()


def check_same(body: bytes, path: str) -> bool:
    """Check that what the quick look says is what the decoder says; return whether it said anything."""
    seen = glance(body, path)
    if seen is None:
        return False
    session = media_collection.decode(body, path)  # raises when the decoder refuses it
    identity = session_id(session, OPEN_DATASTREAM)
    assert seen.session_id(OPEN_DATASTREAM.id) == identity
    assert seen.report_suites == session.routing.report_suites
    key = visitor_key_of(seen.visitor, OPEN_DATASTREAM.id, identity)
    assert key == visitor_key(session, OPEN_DATASTREAM, identity)
    return True


def test_what_an_sdk_sends_is_seen_at_once() -> None:
    assert check_same(BYTES, PATHS[0])


@given(
    st.lists(
        st.tuples(
            st.integers(0, len(SENT) - 1),
            st.sampled_from(["params", "playerTime", "qoeData", "customMetadata", ""]),
            NAMES,
            JUNK,
        ),
        max_size=3,
    ),
    st.sampled_from(PATHS),
    st.sampled_from([(",", ":"), (", ", ": "), (" , ", " : ")]),
    st.booleans(),
)
@settings(max_examples=600, deadline=None)
def test_any_change_gets_the_decoders_verdict(
    changes: list[tuple[int, str, str, Any]], path: str, separators: tuple[str, str], ascii_only: bool
) -> None:
    events = copy.deepcopy(SENT)
    events[0]["params"]["media.downloaded"] = True
    for index, part, name, value in changes:
        place = events[index] if not part else events[index].setdefault(part, {})
        if isinstance(place, dict):
            place[name] = value
    check_same(json.dumps(events, separators=separators, ensure_ascii=ascii_only).encode(), path)


@given(
    st.floats(0, 2**53, allow_nan=False), st.integers(0, 2**53), st.text(max_size=12), st.text(max_size=12)
)
@settings(max_examples=600, deadline=None)
def test_any_playhead_time_and_name_gives_the_same_identity(
    playhead: float, ts: int, name: str, visitor: str
) -> None:
    events = copy.deepcopy(SENT)
    events[0]["params"] |= {"media.id": name or "x", "visitor.marketingCloudUserId": visitor}
    events[1]["playerTime"] = {"playhead": playhead, "ts": min(ts, 253_402_300_799_999)}
    try:
        body = json.dumps(events, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a lone surrogate is not JSON in UTF-8
        return
    check_same(body, PATHS[0])


@pytest.mark.parametrize("playhead", ["1e-5", "0.00001", "1e3", "-0.0", "1.5e2", "9007199254740991", "0.1"])
def test_numbers_of_every_form_give_the_same_identity(playhead: str) -> None:
    body = BYTES.replace(b'"playhead":0,', b'"playhead":' + playhead.encode() + b",", 1)
    assert playhead.encode() in body
    assert check_same(body, PATHS[0]) == (playhead not in {"1e-5", "0.00001", "-0.0"})


@pytest.mark.parametrize(
    "change",
    [
        (b'"eventType":"play"', b'"eventType":"play","eventType":"play"'),
        (b'"media.id":', b'"media.id":"x","media.id" :'),
        (b'"media.id":', b'"media.\\u0069d":"x","media.id":'),
        (b'"media.id":"film-1"', b'"media.id":"\\u003a","media.id":"x"'),
        (b'"ts":', b'"ts":1,"ts":'),
    ],
)
def test_a_key_that_stands_twice_is_left_to_the_decoder(change: tuple[bytes, bytes]) -> None:
    old, new = change
    assert old in BYTES, BYTES
    assert glance(BYTES.replace(old, new, 1), PATHS[0]) is None


@pytest.mark.parametrize("tail", [b"x", b"\xff", b",", b"[]", b"\x00"])
def test_bytes_behind_or_inside_are_left_to_the_decoder(tail: bytes) -> None:
    assert glance(BYTES + tail, PATHS[0]) is None
    assert glance(BYTES.replace(b"film-1", b"film" + tail + b"\xff"), PATHS[0]) is None
