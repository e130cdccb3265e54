"""The same stories through the core, the stages and each home: the same records everywhere."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from pipeline import topology
from pipeline.contract.records import SessionMetrics
from pipeline.session.calls import analytics_calls
from pipeline.session.datastream import OPEN_DATASTREAM
from pipeline.session.identity import session_id
from pipeline.session.measure import measure
from pipeline.settings import PARTITIONS
from pipeline.stages import receive
from pipeline.stages.derive import derive
from pipeline.stages.prepare import Prepared
from pipeline.stages.records_of import metrics_record
from pipeline.wire import media_collection
from pipeline.wire.encode import to_media_collection, to_media_edge
from tests.homes.uploading import NOW_MS, Pipeline
from tests.stories import BASE_MS, story

STORIES: Final = {
    "watched to the end": "0 start, 0 play, 30 pause, 90 play, 100 complete",
    "stopped in the middle": "0 start, 0 play, 50 end",
    "pre-roll and a chapter": (
        "0 start, 0 break, 0 ad 15, 15 adcomplete, 15 endbreak, 15 play, 16 chapter 1, "
        "60 chaptercomplete, 99 complete"
    ),
    "left in the pre-roll": "0 start, 0 break, 0 ad 15, 7 ping",
    "states, errors and bitrates": (
        "0 start, 0 play, 1 on mute, 2 error e, 3 bitrate bitrate=900, 9 off mute, 20 complete"
    ),
    "a clock that steps back": "0 start, 0 play, 30 ping, 20 ping, 40 complete",
}


@pytest.mark.parametrize("name", STORIES)
def test_a_home_gives_the_records_that_the_core_computes(pipeline: Pipeline, name: str) -> None:
    body = to_media_collection(story(STORIES[name]))
    session = media_collection.decode(body, receive.DOWNLOADED)
    viewing = measure(session, OPEN_DATASTREAM.rules)
    identity = session_id(session, OPEN_DATASTREAM)
    answer = pipeline.send(body)
    pipeline.carry()

    assert (answer.status, dict(answer.headers)["location"]) == (201, f"/api/v1/sessions/{identity}")
    (record,) = pipeline.values("media.sessions")
    assert record["session_id"] == identity
    assert SessionMetrics.from_avro(record["metrics"]) == metrics_record(viewing.metrics)
    assert record["is_downloaded"] is True
    assert record["complete_added"] == viewing.complete_added
    assert record["time_ledger"]["lateness_ms"] == NOW_MS - viewing.ended_at_ms
    calls = sorted(pipeline.values("media.analytics.calls"), key=lambda value: int(value["sequence"]))
    expected = analytics_calls(session, viewing, identity, OPEN_DATASTREAM)
    assert [(c["call"], c["ts"], c["context"]) for c in calls] == [
        (c.call.value, c.ts, dict(c.context)) for c in expected
    ]
    (events,) = pipeline.values("media.events")
    assert [e["event_type"] for e in events["events"]] == [e.kind.value for e in viewing.events]
    (outcome,) = pipeline.values("media.outcomes")
    assert (outcome["outcome"], outcome["analytics_calls"]) == ("accepted", len(calls))


def test_stored_comes_before_answered_and_outputs_are_committed_with_their_position() -> None:
    from pipeline.contract.codec import Codec
    from pipeline.contract.positions import position_maker
    from tests.fakes import FakeLog, FakeSchemaIds
    from tests.homes.uploading import make_pipeline

    codec = Codec(FakeSchemaIds())
    log = FakeLog(position_maker(codec))
    pipeline = make_pipeline(log, codec)
    log.actions.append(f"answered {pipeline.send(to_media_collection(story('0 start, 9 end'))).status}")
    pipeline.carry()
    assert log.actions[:2] == ["stored media.uploads", "answered 201"]
    assert len(log.actions) == 3
    assert log.actions[2].startswith("committed 9 records with position")


def test_a_session_sent_again_with_other_params_is_a_duplicate_and_gives_nothing_else(
    pipeline: Pipeline,
) -> None:
    body = to_media_collection(story(STORIES["watched to the end"]))
    again: list[Any] = json.loads(body)
    again[0]["params"] = dict(reversed(again[0]["params"].items()))
    pipeline.send(body)
    pipeline.carry()
    before = {
        topic: len(pipeline.values(topic)) for topic in ("media.sessions", "media.events", "media.reporting")
    }
    first, second = pipeline.send(body), pipeline.send(json.dumps(again).encode())
    pipeline.carry()
    assert first == second
    outcomes = sorted(pipeline.values("media.outcomes"), key=lambda value: str(value["upload_id"]))
    assert [o["outcome"] for o in outcomes] == ["accepted", "duplicate", "duplicate"]
    assert {o["first_upload_id"] for o in outcomes[1:]} == {outcomes[0]["upload_id"]}
    assert {topic: len(pipeline.values(topic)) for topic in before} == before


def test_the_same_session_twice_in_one_batch_counts_once(pipeline: Pipeline) -> None:
    body = to_media_collection(story(STORIES["watched to the end"]))
    for _ in range(3):
        pipeline.send(body)
    pipeline.carry()
    outcomes = [o["outcome"] for o in pipeline.values("media.outcomes")]
    assert sorted(outcomes) == ["accepted", "duplicate", "duplicate"]
    assert len(pipeline.values("media.sessions")) == 1


def test_the_same_upload_id_met_again_is_no_second_outcome(pipeline: Pipeline) -> None:
    import asyncio

    body = to_media_collection(story(STORIES["watched to the end"]))
    for wrong in (body, b"[]"):
        pipeline.send(wrong)
    pipeline.carry()
    from pipeline.contract.record import Record

    again = [
        Record(s.topic, s.partition, s.key, s.value, s.timestamp_ms)
        for partition in range(PARTITIONS)
        for s in pipeline.home.read("media.uploads", partition, 0, 100)
    ]
    asyncio.run(pipeline.home.store(again))
    pipeline.carry()
    assert sorted(o["outcome"] for o in pipeline.values("media.outcomes")) == ["accepted", "rejected"]
    assert len(pipeline.values("media.uploads.dlq")) == 1


def test_a_refused_body_keeps_its_bytes_and_every_reason(pipeline: Pipeline) -> None:
    body = b'[{"eventType": "nonsense"}, 7]'
    answer = pipeline.send(body)
    pipeline.carry()
    assert answer.status == 400
    errors = json.loads(answer.body)["errors"]
    (upload,) = pipeline.values("media.uploads")
    (letter,) = pipeline.values("media.uploads.dlq")
    assert (upload["verdict"], upload["body"], letter["body"]) == ("rejected", body, body)
    assert [p["pointer"] for p in letter["problems"]] == [e["pointer"] for e in errors]
    assert (letter["reason"], letter["upload_id"]) == ("invalid", upload["upload_id"])


def test_a_good_edge_item_counts_beside_a_bad_one(pipeline: Pipeline) -> None:
    good = to_media_edge(story(STORIES["stopped in the middle"]))
    body = b'{"events": [{"xdm": {}}, ' + good + b"]}"
    answer = pipeline.send(body, receive.EDGE)
    pipeline.carry()
    assert answer.status == 207
    assert [e["report"]["eventIndex"] for e in json.loads(answer.body)["errors"]] == [0]
    assert sorted(o["outcome"] for o in pipeline.values("media.outcomes")) == ["accepted", "rejected"]
    (letter,) = pipeline.values("media.uploads.dlq")
    assert (letter["event_index"], letter["body"]) == (0, b'{"xdm": {}}')


def test_two_equal_edge_items_count_once(pipeline: Pipeline) -> None:
    item = to_media_edge(story(STORIES["stopped in the middle"]))
    pipeline.send(b'{"events": [' + item + b"," + item + b"]}", receive.EDGE)
    pipeline.carry()
    assert sorted(o["outcome"] for o in pipeline.values("media.outcomes")) == ["accepted", "duplicate"]


def test_neither_flag_nor_complete_are_needed_in_either_form(pipeline: Pipeline) -> None:
    session = story("0 start, 0 play, 50 ping")
    collection = json.loads(to_media_collection(session))
    assert "media.downloaded" not in collection[0]["params"]
    pipeline.send(json.dumps(collection).encode())
    pipeline.send(b'{"events": [' + to_media_edge(session) + b"]}", receive.EDGE)
    pipeline.carry()
    records = pipeline.values("media.sessions")
    assert len(records) == 2
    for record in records:
        assert (record["is_downloaded"], record["complete_added"]) == (True, True)
        assert record["metrics"]["is_completed"] is False
        assert record["time_ledger"]["ended_at_ms"] == BASE_MS + 50_000
    starts = [
        c for c in pipeline.values("media.analytics.calls") if c["call"] in ("mediaStart", "mediaClose")
    ]
    assert {c["context"]["a.media.downloaded"] for c in starts} == {"true"}


def test_a_late_day_is_announced_once_per_day_and_key(pipeline: Pipeline) -> None:
    pipeline.send(to_media_collection(story("0 start, 9 end")))
    pipeline.send(to_media_collection(story("0 start, 10 end")))
    pipeline.carry()
    days = pipeline.values("media.days.changed")
    assert {(d["datastream_id"], d["viewing_day"]) for d in days} == {("default", "2023-11-14")}
    assert {o["day_changed"] for o in pipeline.values("media.outcomes")} == {"default:2023-11-14"}


def test_an_unreadable_record_is_a_dead_letter_and_stops_nothing(pipeline: Pipeline) -> None:
    import asyncio

    from pipeline.contract.record import Record

    poison = [
        Record("media.uploads", 5, b"k", value, NOW_MS)
        for value in (b"not avro", None, b"\x00\x00\x00\x00\x63")
    ]
    asyncio.run(pipeline.home.store(poison))
    pipeline.send(to_media_collection(story("0 start, 9 end")))
    pipeline.carry()
    letters = pipeline.values("media.uploads.dlq")
    assert sorted(letter["body"] for letter in letters) == [b"", b"\x00\x00\x00\x00\x63", b"not avro"]
    assert {letter["reason"] for letter in letters} == {"undecodable"}
    assert sorted(o["outcome"] for o in pipeline.values("media.outcomes")) == ["accepted"] + ["rejected"] * 3


def test_a_stage_that_fails_is_that_uploads_dead_letter_only(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(step: Prepared, now_ms: int) -> Any:
        if step.identified is not None and step.identified.session.content_id == "boom":
            raise ZeroDivisionError("a fault of ours")
        return derive(step, now_ms)

    monkeypatch.setattr(topology, "derive", failing)
    pipeline.send(to_media_collection(story("0 start, 9 end", name="boom")))
    pipeline.send(to_media_collection(story("0 start, 9 end")))
    pipeline.carry()
    (letter,) = pipeline.values("media.uploads.dlq")
    assert (letter["reason"], letter["fault"]) == ("internal_error", "ZeroDivisionError('a fault of ours')")
    assert len(pipeline.values("media.sessions")) == 1


def test_a_door_and_a_worker_that_disagree_are_told_apart_from_a_plain_rejection(pipeline: Pipeline) -> None:
    import asyncio

    good = to_media_collection(story("0 start, 9 end"))
    for body in (good, b"[]"):
        received = receive.Request(
            path=receive.DOWNLOADED, body=body, received_at_ms=NOW_MS, request_id=f"r{len(body)}"
        )
        reception = pipeline.topology.receive(received, lambda: f"upload-{len(body)}")  # noqa: B023 - used at once
        (upload,) = reception.uploads
        other = "rejected" if upload.value.verdict == "accepted" else "accepted"
        reason = "invalid" if other == "rejected" else None
        flipped = upload._replace(value=upload.value._replace(verdict=other, reason=reason))
        records = pipeline.topology.upload_records(reception._replace(uploads=(flipped,)))
        asyncio.run(pipeline.home.store(records))
    pipeline.carry()
    assert {letter["reason"] for letter in pipeline.values("media.uploads.dlq")} == {"door_disagrees"}
