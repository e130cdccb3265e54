"""Decoder, explanation and JSON Schemas give one verdict; any bytes give a session or a rejection."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.session.datastream import OPEN_DATASTREAM
from pipeline.session.model import Session
from pipeline.wire import media_collection, media_edge, schemas
from pipeline.wire.encode import to_media_collection, to_media_edge
from pipeline.wire.problems import RULES, Problem, Rejected
from tests.session.test_properties import sessions
from tests.stories import story

PATH = "/api/v1/downloaded"
GOOD: list[Any] = json.loads(
    to_media_collection(
        story(
            "0 start bitrate=900, 0 play, 5 break 1, 5 ad 15, 20 adcomplete, 20 endbreak, 21 chapter 1, "
            "30 on mute, 40 off mute, 50 error e1, 60 bitrate bitrate=1200, 70 chaptercomplete, 80 complete"
        )
    )
)
EDGE_GOOD: Any = json.loads(
    to_media_edge(story("0 start, 0 play, 5 break, 5 ad, 20 adcomplete, 30 error, 80 end"))
)
VALIDATORS = {
    (name, strict): jsonschema_rs.Draft7Validator(schemas.schema(name, strict=strict))
    for name in schemas.EVENT_TYPES
    for strict in (False, True)
}
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**60), 2**60),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.just([]),
    st.just({}),
    st.sampled_from(["player", "vod", 23.0, 23.5, -1, 2**53, 0, "", {"media.state.name": "x"}]),
)
NAMES = st.one_of(
    st.sampled_from(
        [
            *sorted(
                {key for event in GOOD for part in event.values() if isinstance(part, dict) for key in part}
            ),
            *("visitor.customerIDs", "statesStart", "media.resume", "media.qoe.errorSource", "extra"),
        ]
    ),
    st.text(max_size=5),
)


def problems(body: bytes, *, strict: bool = False) -> tuple[Problem, ...]:
    try:
        media_collection.decode(body, PATH, strict=strict)
    except Rejected as rejected:
        return rejected.problems
    return ()


@st.composite
def mutated(draw: st.DrawFn) -> list[Any]:
    """A good body with a few values replaced, added or removed."""
    body = copy.deepcopy(GOOD)
    for _ in range(draw(st.integers(1, 3))):
        event = draw(st.sampled_from(body))
        part = draw(st.sampled_from(["playerTime", "params", "qoeData", "customMetadata", None]))
        target = event if part is None else event.setdefault(part, {})
        if not isinstance(target, dict):
            continue
        name = draw(NAMES)
        if part is None:
            name = draw(st.sampled_from(["playerTime", "params", "qoeData", "customMetadata", "extra"]))
        if draw(st.booleans()):
            target.pop(name, None)
        else:
            target[name] = draw(JUNK)
    return body


@settings(max_examples=400, deadline=None)
@given(mutated(), st.booleans())
def test_the_decoder_and_the_schemas_give_the_same_verdict(body: list[Any], strict: bool) -> None:
    found = problems(json.dumps(body).encode(), strict=strict)
    by_schema = {
        (index, "".join(f"/{_token(part)}" for part in (index, *error.instance_path)))
        for index, event in enumerate(body)
        for error in VALIDATORS[event["eventType"], strict].iter_errors(event)
    }
    # downloaded_flag concerns the path, not the event, and is no matter of the schemas.
    assert {(p.index, p.pointer) for p in found if p.rule != "downloaded_flag"} == by_schema, found
    assert {p.rule for p in found} <= set(RULES)


def _token(part: str | int) -> str:
    return str(part).replace("~", "~0").replace("/", "~1")


@settings(max_examples=100, deadline=None)
@given(sessions(steps_back=True), st.booleans())
def test_a_good_body_is_good_for_both(session: Session, strict: bool) -> None:
    body = to_media_collection(session)
    assert problems(body, strict=strict) == ()
    for event in json.loads(body):
        assert VALIDATORS[event["eventType"], strict].is_valid(event)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=100).map(str.encode)))
def test_any_bytes_are_a_rejection_and_never_another_error(body: bytes) -> None:
    assert problems(body)
    with pytest.raises(Rejected):
        media_edge.split(body)
    with pytest.raises(Rejected):
        media_edge.decode(body, OPEN_DATASTREAM)


@st.composite
def mutated_edge(draw: st.DrawFn) -> Any:
    """A good Edge item with one value somewhere replaced."""
    item = copy.deepcopy(EDGE_GOOD)
    at, path = item, []
    for _ in range(draw(st.integers(1, 7))):
        keys = list(at) if isinstance(at, dict) else list(range(len(at))) if isinstance(at, list) else []
        if not keys:
            break
        path.append((at, draw(st.sampled_from(keys))))
        at = path[-1][0][path[-1][1]]
    parent, key = path[-1]
    parent[key] = draw(JUNK)
    return item


@settings(max_examples=400, deadline=None)
@given(mutated_edge(), st.booleans())
def test_a_changed_edge_item_is_a_session_or_a_rejection(item: Any, strict: bool) -> None:
    found: tuple[Session | None, tuple[Problem, ...]]
    try:
        found = (media_edge.decode(json.dumps(item).encode(), OPEN_DATASTREAM, strict=strict), ())
    except Rejected as rejected:
        found = (None, rejected.problems)
    session, all_problems = found
    assert (session is None) == bool(all_problems)
    assert {p.rule for p in all_problems} <= set(RULES)
    assert all(p.pointer.startswith("$") for p in all_problems)


HOSTILE = [
    b"",
    b"null",
    b"[NaN]",
    b"[Infinity]",
    b'["\xff\xfe"]',
    b'["\\ud800"]',
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"\xef\xbb\xbf[]",
    b"[1e999]",
]


@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_body_is_a_rejection(body: bytes) -> None:
    assert problems(body)


@pytest.mark.parametrize("where", ["playhead", "ts"])
def test_a_huge_number_is_a_rejection(where: str) -> None:
    body = json.dumps(GOOD)
    for huge in ("1" * 400, "9" * 18, "1e300"):
        changed = body.replace(
            f'"{where}": {json.dumps(GOOD[1]["playerTime"][where])}', f'"{where}": {huge}', 1
        )
        assert changed != body
        assert problems(changed.encode())[0].pointer.endswith(where)


@pytest.mark.parametrize("spaced", [False, True])
def test_a_key_that_stands_twice_is_a_rejection(spaced: bool) -> None:
    body = json.dumps(GOOD, separators=(",", " : ") if spaced else (",", ":")).encode()
    colon = b" : " if spaced else b":"
    assert problems(body) == ()
    twice = body.replace(b'"media.id"' + colon, b'"media.id"' + colon + b'"other","media.id"' + colon, 1)
    assert [p.rule for p in problems(twice)] == ["duplicate_key"]


def test_a_string_that_looks_like_a_key_is_no_duplicate() -> None:
    body = copy.deepcopy(GOOD)
    body[0]["customMetadata"] = {"k": ':a":b', "l": '"media.id":'}
    assert problems(json.dumps(body).encode()) == ()


def test_an_event_without_its_time_is_still_looked_through() -> None:
    body = copy.deepcopy(GOOD)
    body[1] = {"eventType": "play", "customMetadata": {"k": 1}}
    found = [(p.pointer, p.rule) for p in problems(json.dumps(body).encode())]
    assert found == [("/1", "required"), ("/1/customMetadata/k", "type")]


def test_all_problems_of_a_body_are_reported_in_order() -> None:
    body = copy.deepcopy(GOOD)
    del body[0]["params"]["media.id"]
    body[1]["playerTime"]["ts"] = "soon"
    body[3]["params"]["media.ad.length"] = None
    found = problems(json.dumps(body).encode())
    assert [(p.index, p.pointer, p.rule) for p in found] == [
        (0, "/0/params", "required"),
        (1, "/1/playerTime/ts", "type"),
        (3, "/3/params/media.ad.length", "type"),
    ]


@pytest.mark.parametrize("kind", ["stateStart", "stateEnd"])
def test_lists_of_states_are_documented_of_states_updates_only(kind: str) -> None:
    body = copy.deepcopy(GOOD)
    params = {"media.state.name": "mute", "statesStart": [{"anything": [1, 2]}], "statesEnd": 5}
    body.insert(1, {"eventType": kind, "playerTime": body[0]["playerTime"], "params": params})
    sent = json.dumps(body).encode()
    session = media_collection.decode(sent, "/api/v1/downloaded")
    assert "unknown_param" in session.flags
    assert session.events[1].unknown == {"params": {k: params[k] for k in ("statesStart", "statesEnd")}}
    with pytest.raises(Rejected) as refused:
        media_collection.decode(sent, "/api/v1/downloaded", strict=True)
    assert [problem.rule for problem in refused.value.problems] == ["additionalProperties"] * 2
