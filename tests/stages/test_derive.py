"""Whole bodies through the stages: what the worker adds, flags and routes, in one commit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.contract.codec import Codec
from pipeline.contract.record import StoredRecord
from pipeline.contract.topics import load_topics
from pipeline.session.datastream import Datastream
from pipeline.session.model import Form, Session
from pipeline.stages.datastreams import OPEN_DIRECTORY, Directory
from pipeline.stages.receive import DOWNLOADED, EDGE, Request
from pipeline.topology import Topology
from pipeline.wire.encode import to_media_collection, to_media_edge
from tests.fakes import FakeSchemaIds
from tests.stories import BASE_MS, story

DAY_MS = 86_400_000
FORMS = [Form.MEDIA_COLLECTION, Form.MEDIA_EDGE]


def body_of(session: Session, form: Form) -> bytes:
    """Return the session as a client would send it that says neither `downloaded` nor completes."""
    if form is Form.MEDIA_EDGE:
        return b'{"events":[' + to_media_edge(session) + b"]}"
    return to_media_collection(session)


def records_of(
    body: bytes,
    form: Form,
    received_at_ms: int = BASE_MS + 60_000,
    directory: Directory = OPEN_DIRECTORY,
    waits_ms: int = 1_000,
    replay_id: str | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Return every record that one upload gives, by topic: one commit."""
    codec = Codec(FakeSchemaIds())
    topology = Topology(codec, load_topics(), directory)
    path = EDGE if form is Form.MEDIA_EDGE else DOWNLOADED
    request = Request(path, body, received_at_ms, "request", config_id="default")
    reception = topology.receive(request, lambda: "upload")
    assert reception.answer.status in (200, 201), reception.answer
    (keyed,) = reception.uploads
    keyed = keyed._replace(value=keyed.value._replace(replay_id=replay_id))
    (upload,) = topology.upload_records(reception._replace(uploads=(keyed,)))
    stored = StoredRecord(upload.topic, 0, 0, upload.key, upload.value, upload.timestamp_ms)
    found: dict[str, list[dict[str, Any]]] = {}
    for record in topology.process([stored], lambda keys: {}, received_at_ms + waits_ms).records:
        found.setdefault(record.topic, []).append(codec.decode(record.value))
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ending", ["", ", 50 end"])
def test_a_missing_session_complete_is_added_and_the_flag_is_set(form: Form, ending: str) -> None:
    session = story(f"0 start, 0 play @0, 50 ping @50{ending}", form=form)
    body = body_of(session, form)
    assert b"ownloaded" not in body.replace(b"media.downloaded", b"").replace(b"mediaDownloadedEvents", b"")
    assert b"essionComplete" not in body
    found = records_of(body, form)
    (record,) = found["media.sessions"]
    assert (record["is_downloaded"], record["complete_added"]) == (True, True)
    assert record["metrics"]["is_completed"] is False
    (events,) = found["media.events"]
    last = events["events"][-1]
    assert (last["event_type"], last["is_added"]) == ("sessionComplete", True)
    assert (last["occurred_at_ms"], last["playhead_s"]) == (BASE_MS + 50_000, 50)
    start, close = found["media.analytics.calls"]
    assert start["context"]["a.media.downloaded"] == close["context"]["a.media.downloaded"] == "true"
    assert "a.media.complete" not in close["context"]
    first, end = (row["media_reporting"]["session_details"] for row in found["media.reporting"])
    assert (first["is_downloaded"], end["is_downloaded"], end["is_completed"]) == (True, None, False)


@pytest.mark.parametrize("form", FORMS)
def test_a_session_complete_that_was_sent_is_kept_as_it_is(form: Form) -> None:
    found = records_of(body_of(story("0 start, 0 play, 50 complete, 60 end", form=form), form), form)
    (record,) = found["media.sessions"]
    assert (record["complete_added"], record["metrics"]["is_completed"]) == (False, True)
    assert [e["event_type"] for e in found["media.events"][0]["events"]][-2:] == [
        "sessionComplete",
        "sessionEnd",
    ]
    assert found["media.analytics.calls"][-1]["context"]["a.media.complete"] == "true"
    assert found["media.analytics.calls"][-1]["ts_ms"] == BASE_MS + 60_000


def test_a_client_that_says_false_on_edge_is_downloaded_all_the_same() -> None:
    item = json.loads(to_media_edge(story("0 start, 9 end", form=Form.MEDIA_EDGE)))
    item["xdm"]["mediaDownloadedEvents"][0]["mediaCollection"]["sessionDetails"]["isDownloaded"] = False
    found = records_of(json.dumps({"events": [item]}).encode(), Form.MEDIA_EDGE)
    assert found["media.sessions"][0]["is_downloaded"] is True
    assert found["media.reporting"][0]["media_reporting"]["session_details"]["is_downloaded"] is True


@pytest.mark.parametrize("form", FORMS)
def test_a_day_that_had_ended_is_announced_in_the_same_commit(form: Form) -> None:
    body = body_of(story("0 start, 50 end", form=form), form)
    late = records_of(body, form, BASE_MS + DAY_MS)
    (day,) = late["media.days.changed"]
    assert (day["datastream_id"], day["viewing_day"]) == ("default", "2023-11-14")
    assert day["session_id"] == late["media.sessions"][0]["session_id"]
    assert late["media.outcomes"][0]["day_changed"] == "default:2023-11-14"
    in_time = records_of(body, form, BASE_MS + 60_000)
    assert "media.days.changed" not in in_time
    assert in_time["media.outcomes"][0]["day_changed"] is None


@pytest.mark.parametrize("form", FORMS)
def test_a_day_that_ended_on_the_way_or_is_changed_by_a_replay_is_announced(form: Form) -> None:
    body = body_of(story("0 start, 50 end", form=form), form)
    waited = records_of(body, form, waits_ms=DAY_MS)
    replayed = records_of(body, form, replay_id="replay-1")
    for found, replay_id in ((waited, None), (replayed, "replay-1")):
        (day,) = found["media.days.changed"]
        assert (day["viewing_day"], day["replay_id"]) == ("2023-11-14", replay_id)
        assert found["media.outcomes"][0]["day_changed"] == "default:2023-11-14"
        assert found["media.sessions"][0]["time_ledger"]["is_late_day"] is False, "it was received in time"


def test_a_zone_decides_which_day_is_announced() -> None:
    tokyo = Directory((Datastream(time_zone="Asia/Tokyo"),))
    body = body_of(story("0 start, 50 end"), Form.MEDIA_COLLECTION)  # 22:13 UTC, the next morning in Tokyo
    found = records_of(body, Form.MEDIA_COLLECTION, BASE_MS + 2 * DAY_MS, tokyo)
    assert found["media.days.changed"][0]["viewing_day"] == "2023-11-15"


def test_a_list_of_report_suites_is_one_call_with_a_route_for_each() -> None:
    session = story("0 start, 9 end")
    routing = session.routing._replace(report_suites=("one", "two"), ssl=False)
    found = records_of(to_media_collection(session._replace(routing=routing)), Form.MEDIA_COLLECTION)
    assert len(found["media.analytics.calls"]) == 2
    for call in found["media.analytics.calls"]:
        assert [(route["report_suite"], route["ssl"]) for route in call["routes"]] == [
            ("one", False),
            ("two", False),
        ]


def test_calls_of_one_visitor_share_a_key_and_a_session_shares_its_own() -> None:
    codec = Codec(FakeSchemaIds())
    topology = Topology(codec, load_topics(), OPEN_DIRECTORY)
    stored = []
    for offset, text in enumerate(("0 start, 9 end", "100 start, 109 end")):
        request = Request(DOWNLOADED, to_media_collection(story(text)), BASE_MS + 200_000, "request")
        (upload,) = topology.upload_records(topology.receive(request, lambda n=offset: f"upload-{n}"))  # type: ignore[misc]
        stored.append(
            StoredRecord(
                upload.topic, upload.partition, offset, upload.key, upload.value, upload.timestamp_ms
            )
        )
    records = topology.process(stored, lambda keys: {}, BASE_MS + 201_000).records
    keys = {topic: {r.key for r in records if r.topic == topic} for topic in {r.topic for r in records}}
    assert len(keys["media.analytics.calls"]) == 1
    assert keys["media.analytics.calls"] == {stored[0].key, stored[1].key}
    assert len(keys["media.sessions"]) == len(keys["media.events"]) == len(keys["media.reporting"]) == 2
    lie = {topic: {r.partition for r in records if r.topic == topic} for topic in keys}
    lie.pop("media.days.changed", None)
    assert set().union(*lie.values()) == {stored[0].partition}


def test_context_data_is_in_the_record_as_it_was_sent() -> None:
    sent = {"campaign": "c", "a.foo": "x", "two words": "y", "long": "z" * 40_000}
    session = story("0 start, 9 end", form=Form.MEDIA_EDGE)._replace(context_data=sent)
    found = records_of(body_of(session, Form.MEDIA_EDGE), Form.MEDIA_EDGE)
    assert found["media.sessions"][0]["context_data"] == sent
    for call in found["media.analytics.calls"]:
        assert sent.keys() & call["context"].keys() == {"campaign"}
        assert {"context_truncated", "context_key_invalid", "metadata_key_reserved"} <= set(call["flags"])


def test_an_installation_is_kept_beside_the_ecid() -> None:
    session = story("0 start, 9 end")
    visitor = session.visitor._replace(app_installation_id="app-1")
    found = records_of(to_media_collection(session._replace(visitor=visitor)), Form.MEDIA_COLLECTION)
    for record in (*found["media.sessions"], *found["media.analytics.calls"]):
        assert (record["visitor"]["ecid"], record["visitor"]["app_installation_id"]) == ("1" * 38, "app-1")


@pytest.mark.parametrize("form", FORMS)
def test_doubts_of_the_clock_are_on_the_calls_too(form: Form) -> None:
    found = records_of(body_of(story("0 start, 50 end", form=form), form), form, BASE_MS + 40_000)
    for record in (*found["media.sessions"], *found["media.analytics.calls"]):
        assert "clock_ahead" in record["flags"]
