"""What only the Media Edge form has: moments, identities, what is kept beside, switches."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.session.datastream import OPEN_DATASTREAM, Datastream
from pipeline.session.measure import measure
from pipeline.session.model import Form, Session
from pipeline.stages import receive
from pipeline.stages.datastreams import Directory
from pipeline.wire import media_edge
from pipeline.wire.encode import to_media_edge
from pipeline.wire.moments import Moment, format_moment, parse_moment
from pipeline.wire.problems import Problem, Rejected
from tests.stories import story

GOOD: dict[str, Any] = json.loads(to_media_edge(story("0 start, 1 play, 9 end", form=Form.MEDIA_EDGE)))


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    item: dict[str, Any] = json.loads(json.dumps(GOOD))
    change(item)
    return item


def decoded(change: Callable[[dict[str, Any]], object], datastream: Datastream = OPEN_DATASTREAM) -> Session:
    item = json.dumps(changed(change)).encode()
    return media_edge.decode(item, datastream, strict=datastream.strict)


def problems(
    change: Callable[[dict[str, Any]], object], datastream: Datastream = OPEN_DATASTREAM
) -> tuple[Problem, ...]:
    with pytest.raises(Rejected) as refused:
        decoded(change, datastream)
    return refused.value.problems


def collection(item: dict[str, Any], index: int = 1) -> dict[str, Any]:
    found: dict[str, Any] = item["xdm"]["mediaDownloadedEvents"][index]["mediaCollection"]
    return found


def answered(*items: dict[str, Any], datastream: Datastream) -> tuple[int, Any, int]:
    """Return status, body and number of uploads of one request."""
    request = receive.Request(
        receive.EDGE, json.dumps({"events": items}).encode(), 1, "r", config_id=datastream.id
    )
    numbers = iter(range(99))
    reception = receive.receive(request, Directory((datastream,)), lambda: str(next(numbers)))
    return reception.answer.status, json.loads(reception.answer.body), len(reception.uploads)


@pytest.mark.parametrize("namespaces", [("crm", "email"), ("email", "crm")])
def test_of_several_primary_identities_their_order_does_not_decide(namespaces: tuple[str, str]) -> None:
    given = {name: [{"id": f"someone-{name}", "primary": True}] for name in namespaces}
    session = decoded(lambda item: item["xdm"].update(identityMap=given))
    assert session.visitor.key_value == "crm:someone-crm"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-09-26T15:52:24Z", Moment(1_758_901_944_000, 0)),
        ("2025-09-26t15:52:24.5z", Moment(1_758_901_944_500, 0)),
        ("2025-09-26T15:52:24.123999999+02:00", Moment(1_758_894_744_123, 120)),
        ("2025-09-26T15:52:24-05:30", Moment(1_758_921_744_000, -330)),
        ("2016-12-31T23:59:60Z", Moment(1_483_228_800_000, 0)),
        ("0001-01-01T00:00:00Z", Moment(-62_135_596_800_000, 0)),
        ("9999-12-31T23:59:59.999Z", Moment(253_402_300_799_999, 0)),
    ],
)
def test_a_moment_is_read_to_the_millisecond_with_its_offset(text: str, expected: Moment) -> None:
    assert parse_moment(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "2025-09-26T15:52:24",
        "2025-09-26T15:52:24+0000",
        "2025-09-26T15:52:24+24:00",
        "2025-09-26T15:52:61Z",
        "2025-02-30T00:00:00Z",
        "2025-09-26 15:52:24Z",
        "2025-09-26T15:52:24.1234567890Z",
        "2025-09-26T15:52:24,5Z",
        "\u0662025-09-26T15:52:24Z",
        "2025-09-26T15:52:24Z\n",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "1758901944000",
    ],
)
def test_what_is_no_moment_of_the_calendar_with_an_offset_is_refused(text: str) -> None:
    assert parse_moment(text) is None
    (problem,) = problems(
        lambda item: item["xdm"]["mediaDownloadedEvents"][1].update(mediaEventTimestamp=text)
    )
    assert problem.pointer == "$.xdm.mediaDownloadedEvents[1].mediaEventTimestamp"


@pytest.mark.parametrize("at_ms", [-62_135_596_800_000, -1, 0, 1_483_228_800_000, 253_402_300_799_999])
def test_the_ends_of_the_calendar_can_be_written_again(at_ms: int) -> None:
    assert parse_moment(format_moment(at_ms)) == Moment(at_ms, 0)


def test_an_identity_needs_an_id_that_is_not_empty() -> None:
    (problem,) = problems(lambda item: item["xdm"].update(identityMap={"email": [{"id": ""}]}))
    assert (problem.pointer, problem.rule) == ("$.xdm.identityMap.email[0].id", "minLength")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda item: collection(item, 0)["sessionDetails"].update(name="a\nb"), "sessionDetails.name"),
        (lambda item: item["xdm"].update(identityMap={"x": [{"id": "a\n"}]}), "identityMap.x[0].id"),
    ],
)
def test_a_name_has_one_line(change: Callable[[dict[str, Any]], object], place: str) -> None:
    (problem,) = problems(change)
    assert (problem.rule, problem.pointer.endswith(place)) == ("pattern", True)


def test_what_no_api_documents_is_kept_with_its_place_and_flagged() -> None:
    def change(item: dict[str, Any]) -> None:
        item["meta"] = 1
        item["xdm"]["device"] = {"type": "tv"}
        item["xdm"]["mediaDownloadedEvents"][1]["extra"] = 2
        collection(item, 0)["sessionDetails"]["future"] = "x"
        collection(item)["chapterDetails"] = {"index": 1}
        collection(item)["statesStart"] = [{"name": "mute"}]

    session = decoded(change)
    assert session.events[0].unknown == {
        "$.xdm.device": {"type": "tv"},
        "$.meta": 1,
        "mediaCollection.sessionDetails.future": "x",
    }
    assert session.events[1].unknown == {
        "mediaCollection.chapterDetails": {"index": 1},
        "mediaCollection.statesStart": [{"name": "mute"}],
        "extra": 2,
    }
    assert {"unknown_member", "details_ignored"} <= session.flags
    assert measure(session, OPEN_DATASTREAM.rules).metrics.states == ()


def test_a_strict_datastream_refuses_what_no_api_documents() -> None:
    def change(item: dict[str, Any]) -> None:
        item["xdm"]["identityMap"] = {"ECID": [{"id": "1"}]}
        item["xdm"]["device"] = {}
        collection(item, 0)["sessionDetails"]["future"] = "x"
        collection(item)["chapterDetails"] = {"index": 1}

    assert [(p.pointer, p.rule) for p in problems(change, Datastream(strict=True))] == [
        ("$.xdm.device", "additionalProperties"),
        ("$.xdm.mediaDownloadedEvents[0].mediaCollection.sessionDetails.future", "additionalProperties"),
        ("$.xdm.mediaDownloadedEvents[1].mediaCollection.chapterDetails", "not_allowed"),
    ]


def test_custom_metadata_on_another_event_is_kept_there_and_nowhere_else() -> None:
    session = decoded(lambda item: collection(item).update(customMetadata=[{"name": "k", "value": "v"}]))
    assert session.events[1].custom_metadata == {"k": "v"}
    assert session.events[0].custom_metadata is None
    assert "custom_metadata_ignored" in session.flags


def test_the_delivery_network_is_a_value_of_this_form_only() -> None:
    session = decoded(lambda item: collection(item, 0)["sessionDetails"].update(cdn="edge-7"))
    assert session.details["cdn"] == "edge-7"
    assert session.flags == frozenset()


def test_context_data_that_is_no_text_is_kept_aside() -> None:
    sent = {"__adobe": {"analytics": {"contextData": {"a": "x", "n": 1}}}}
    session = decoded(lambda item: item.update(_data=sent))
    assert session.context_data == {"a": "x"}
    assert session.events[0].unknown == {"$._data.__adobe.analytics.contextData.n": 1}


def test_of_several_ecids_the_primary_one_is_the_visitors() -> None:
    def session(*primary: bool) -> Session:
        given = [{"id": str(number), "primary": is_primary} for number, is_primary in enumerate(primary)]
        return decoded(lambda item: item["xdm"].update(identityMap={"ECID": given}))

    assert session(False, True, True).visitor.ecid == "1"
    assert session(False, False).visitor.ecid == "0"


@pytest.mark.parametrize(
    ("sent", "unknown"),
    [
        (None, {"$._data": None}),
        ([1], {"$._data": [1]}),
        ({"other": {"a": 1}}, {"$._data.other": {"a": 1}}),
        ({"__adobe": "text"}, {"$._data.__adobe": "text"}),
        (
            {"__adobe": {"target": {}, "analytics": 1}},
            {"$._data.__adobe.target": {}, "$._data.__adobe.analytics": 1},
        ),
        ({"__adobe": {"analytics": {"eVar1": "x"}}}, {"$._data.__adobe.analytics.eVar1": "x"}),
        (
            {"__adobe": {"analytics": {"contextData": "text"}}},
            {"$._data.__adobe.analytics.contextData": "text"},
        ),
    ],
)
def test_what_lies_beside_the_context_data_or_in_its_place_is_kept(
    sent: Any, unknown: dict[str, Any]
) -> None:
    session = decoded(lambda item: item.update(_data=sent))
    assert session.context_data is None
    assert session.events[0].unknown == unknown
    assert "unknown_member" in session.flags
    named = {"ECID": [{"id": "1"}]}
    refused = problems(
        lambda item: item.update(_data=sent) or item["xdm"].update(identityMap=named), Datastream(strict=True)
    )
    assert [(p.pointer, p.rule) for p in refused] == [(place, "additionalProperties") for place in unknown]


@pytest.mark.parametrize("strict", [False, True])
def test_the_context_data_alone_is_nothing_unknown(strict: bool) -> None:
    def change(item: dict[str, Any]) -> None:
        item["_data"] = {"__adobe": {"analytics": {"contextData": {"a": "x"}}}}
        item["xdm"].update(identityMap={"ECID": [{"id": "1"}]}, mediaCollection={})

    session = decoded(change, Datastream(strict=strict))
    assert (session.context_data, session.flags) == ({"a": "x"}, frozenset())


@pytest.mark.parametrize(
    ("sent", "unknown"),
    [
        (
            {"playhead": 1, "new": "x"},
            {"$.xdm.mediaCollection.playhead": 1, "$.xdm.mediaCollection.new": "x"},
        ),
        ("text", {"$.xdm.mediaCollection": "text"}),
    ],
)
def test_a_media_collection_beside_the_events_is_kept_where_it_says_something(
    sent: Any, unknown: dict[str, Any]
) -> None:
    def change(item: dict[str, Any]) -> None:
        item["xdm"].update(identityMap={"ECID": [{"id": "1"}]}, mediaCollection=sent)

    for strict in (False, True):
        session = decoded(change, Datastream(strict=strict))
        assert session.events[0].unknown == unknown
        assert "unknown_member" in session.flags


def test_of_a_custom_key_that_is_there_twice_the_replaced_value_is_kept() -> None:
    pairs = [{"name": "k", "value": value} for value in ("one", "two", "two", "three")]
    session = decoded(lambda item: collection(item, 0).update(customMetadata=pairs))
    assert session.events[0].custom_metadata == {"k": "three"}
    assert session.events[0].unknown == {
        "mediaCollection.customMetadata[0]": pairs[0],
        "mediaCollection.customMetadata[2]": pairs[2],
    }
    assert session.flags == {"custom_metadata_ignored"}


def test_a_session_id_is_refused_or_ignored_by_a_switch() -> None:
    def change(item: dict[str, Any]) -> None:
        collection(item)["sessionID"] = "x" * 64

    (problem,) = problems(change)
    assert (problem.rule, problem.pointer[-9:]) == ("not_allowed", "sessionID")
    session = decoded(change, Datastream(ignore_session_id=True))
    assert session.events[1].unknown == {"mediaCollection.sessionID": "x" * 64}
    assert "session_id_ignored" in session.flags


def test_a_strict_datastream_answers_the_fatal_problem_when_nobody_is_named() -> None:
    named = changed(lambda item: item["xdm"].update(identityMap={"ECID": [{"id": "1", "primary": True}]}))
    status, body, uploads = answered(named, GOOD, datastream=Datastream(strict=True))
    assert (status, body["type"].rpartition("/")[2], uploads) == (400, "EXEG-0306-400", 1)
    assert answered(named, datastream=Datastream(strict=True))[0] == 200
    assert answered(named, GOOD, datastream=Datastream())[0] == 200


def test_the_new_session_handle_names_every_accepted_session_by_a_switch() -> None:
    bad = changed(lambda item: item["xdm"].update(eventType="media.other"))
    _, body, _ = answered(GOOD, bad, datastream=Datastream(new_session_handle=True))
    handles = [h for h in body["handle"] if h["type"] == "media-analytics:new-session"]
    assert [(h["eventIndex"], len(h["payload"][0]["sessionId"])) for h in handles] == [(0, 64)]
    _, without, _ = answered(GOOD, bad, datastream=Datastream())
    assert [h["type"] for h in without["handle"]] == ["locationHint:result", "state:store"]
