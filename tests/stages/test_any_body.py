"""Whatever a client sends, the stages end it in one outcome, and no fault of ours shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.contract.codec import Codec
from pipeline.contract.record import StoredRecord
from pipeline.contract.topics import load_topics
from pipeline.session.datastream import AdBreakGap, BitrateUnit, Datastream, MarkerRule, Rules, VidRule
from pipeline.session.model import Session
from pipeline.stages.datastreams import Directory
from pipeline.stages.receive import DOWNLOADED, EDGE, SESSIONS, Request
from pipeline.topology import Topology
from pipeline.wire.body import MOST_DEPTH
from pipeline.wire.encode import to_media_collection, to_media_edge
from tests.fakes import FakeSchemaIds
from tests.session.test_properties import sessions
from tests.stories import story
from tests.wire.test_properties import mutated, mutated_edge

CODEC = Codec(FakeSchemaIds())
RULES = Rules(
    MarkerRule.REACHED, 5, False, BitrateUnit.BPS, AdBreakGap.NONE, VidRule.ALWAYS, 1.0, 0, 1_000, True
)
OPEN, STRICT, OTHER = (
    Topology(CODEC, load_topics(), Directory((datastream,), b"key"))
    for datastream in (
        Datastream(),
        Datastream(strict=True),
        Datastream(rules=RULES, tenant="acme", time_zone="Asia/Kolkata", pseudonymise=("ecid", "identities")),
    )
)
TOPOLOGIES = st.sampled_from([OPEN, STRICT, OTHER])
PATHS = st.sampled_from([DOWNLOADED, SESSIONS, EDGE])
GOOD = story("0 start, 9 end")
RECEIPTS = st.sampled_from([0, 1_700_000_000_000, 4_000_000_000_000])


def outcomes(topology: Topology, path: str, body: bytes, received_at_ms: int) -> list[str]:
    """Return how each upload of one request ended, or fail on a fault."""
    numbers = iter(range(1_000))
    request = Request(path, body, received_at_ms, "request", config_id="default")
    reception = topology.receive(request, lambda: f"upload-{next(numbers)}")
    assert reception.faults == ()
    stored = [
        StoredRecord(record.topic, 0, offset, record.key, record.value, record.timestamp_ms)
        for offset, record in enumerate(topology.upload_records(reception))
    ]
    processed = topology.process(stored, lambda keys: {}, received_at_ms + 1)
    assert processed.faults == ()
    ended = [CODEC.decode(r.value) for r in processed.records if r.topic == "media.outcomes"]
    assert {outcome["reason"] for outcome in ended} <= {None, "invalid"}
    assert len(ended) == len(stored)
    return [outcome["outcome"] for outcome in ended]


@settings(max_examples=200, deadline=None)
@given(
    TOPOLOGIES, st.sampled_from([DOWNLOADED, SESSIONS, EDGE]), st.binary(min_size=1, max_size=200), RECEIPTS
)
def test_any_bytes_end_as_rejected(topology: Topology, path: str, body: bytes, received: int) -> None:
    assert set(outcomes(topology, path, body, received)) == {"rejected"}


@settings(max_examples=200, deadline=None)
@given(TOPOLOGIES, mutated(), RECEIPTS)
def test_a_changed_body_ends_in_one_outcome(topology: Topology, body: list[Any], received: int) -> None:
    (outcome,) = outcomes(topology, DOWNLOADED, json.dumps(body).encode(), received)
    assert outcome in {"accepted", "rejected"}


@settings(max_examples=200, deadline=None)
@given(TOPOLOGIES, st.lists(mutated_edge(), min_size=1, max_size=3), RECEIPTS)
def test_every_item_of_a_changed_request_ends_in_one_outcome(
    topology: Topology, items: list[Any], received: int
) -> None:
    found = outcomes(topology, EDGE, json.dumps({"events": items}).encode(), received)
    assert set(found) <= {"accepted", "duplicate", "rejected"}


@settings(max_examples=100, deadline=None)
@given(TOPOLOGIES, sessions(steps_back=True, whole=True), RECEIPTS)
@pytest.mark.parametrize("form", [DOWNLOADED, EDGE])
def test_any_viewing_is_accepted(form: str, topology: Topology, session: Session, received: int) -> None:
    edge = b'{"events":[' + to_media_edge(session) + b"]}"
    body = edge if form == EDGE else to_media_collection(session)
    nobody_is_named = topology is STRICT and form == EDGE
    assert outcomes(topology, form, body, received) == ["rejected" if nobody_is_named else "accepted"]


@pytest.mark.parametrize("form", [DOWNLOADED, EDGE])
@pytest.mark.parametrize(
    ("more", "ends"),
    [(0, "accepted"), (1, "rejected"), (200, "rejected"), (900, "rejected"), (960, "rejected")],
)
def test_how_deep_a_body_may_be_does_not_depend_on_who_looks(form: str, more: int, ends: str) -> None:
    good = to_media_edge(GOOD) if form == EDGE else to_media_collection(GOOD)
    place, levels = (b'"mediaDownloadedEvents"', 2) if form == EDGE else (b'"params"', 2)
    deep = MOST_DEPTH - levels + more
    item = good.replace(place, b'"unheard":' + b"[" * deep + b"]" * deep + b"," + place, 1)
    body = b'{"events":[' + item + b"]}" if form == EDGE else item
    for frames in (0, 100, 400):
        assert deeper(frames, lambda: outcomes(OPEN, form, body, 0)) == [ends]


def deeper(frames: int, call: Callable[[], list[str]]) -> list[str]:
    """Return what the call gives where so much of the stack is in use."""
    return deeper(frames - 1, call) if frames else call()
