"""What a datastream may demand or limit at the door, and what of a person is kept."""

from __future__ import annotations

import json

import pytest

from pipeline.contract.codec import Codec
from pipeline.contract.positions import position_maker
from pipeline.ingest.clientip import ClientIp, shown_ip
from pipeline.session.model import Identity, Visitor
from pipeline.stages import receive
from pipeline.stages.datastreams import DatastreamsError, Directory, parse_datastreams
from pipeline.wire.encode import to_media_collection, to_media_edge
from tests.fakes import FakeLog, FakeSchemaIds
from tests.homes.uploading import make_pipeline
from tests.ingest.test_door import GOOD, Asked
from tests.stories import story

EDGE_BODY = b'{"events": [' + to_media_edge(story("0 start, 9 end")) + b"]}"


def edge(datastream: str) -> str:
    return f"{receive.EDGE}?configId={datastream}"


def directory(options: str = "", suites: str = 'report_suites = ["suite"]') -> Directory:
    return parse_datastreams(f"[datastream.film]\n{suites}\n{options}\n", b"key")


def test_a_datastream_with_a_key_answers_401_without_it_and_keeps_nothing() -> None:
    door = Asked(directory('api_key = "s3cret"', suites=""))
    for body, path in ((GOOD, receive.DOWNLOADED), (EDGE_BODY, edge("film"))):
        for headers in ({}, {"x_api_key": "wrong"}):
            answer = door.post(body, path, **headers)
            assert answer.status_code == 401
            assert answer.headers["content-type"] == "application/problem+json"
    assert door.uploads() == []
    assert door.post(GOOD, x_api_key="s3cret").status_code == 201
    assert door.post(EDGE_BODY, edge("film"), x_api_key="s3cret").status_code == 200


def test_while_a_key_is_changed_the_old_and_the_new_one_are_right() -> None:
    door = Asked(directory('api_key = ["old", "new"]', suites=""))
    answers = {key: door.post(GOOD, x_api_key=key).status_code for key in ("old", "new", "other", "old\nnew")}
    assert answers == {"old": 201, "new": 201, "other": 401, "old\nnew": 401}
    assert door.post(GOOD).status_code == 401


@pytest.mark.parametrize(
    "wrong", ["123456789012", '["good", " 123456789012"]', "[123456789012]", "[]", '[""]']
)
def test_what_is_wrong_with_a_key_is_told_without_it(wrong: str) -> None:
    with pytest.raises(DatastreamsError, match=r"datastream\.film\.api_key") as refused:
        directory(f"api_key = {wrong}")
    assert "123456789012" not in str(refused.value)


def test_a_disabled_datastream_is_422_on_edge_and_201_for_sdks_and_both_are_kept() -> None:
    door = Asked(directory("disabled = true", suites=""))
    answer = door.post(EDGE_BODY, edge("film"))
    assert (answer.status_code, answer.json()["type"].rsplit("/", 1)[1]) == (422, "EXEG-0004-422")
    assert door.post(GOOD).status_code == 201
    kept = door.uploads()
    assert {upload["reason"] for upload in kept} == {"datastream_disabled"}
    assert {bytes(upload["body"]) for upload in kept} == {EDGE_BODY, GOOD}


def test_a_report_suite_that_nobody_claims_is_201_and_kept() -> None:
    door = Asked(directory(suites='report_suites = ["another"]'))
    assert door.post(GOOD).status_code == 201
    (upload,) = door.uploads()
    assert (upload["verdict"], upload["reason"], bytes(upload["body"])) == (
        "rejected",
        "unknown_datastream",
        GOOD,
    )


def test_a_config_id_that_nobody_has_is_the_documented_problem_and_kept() -> None:
    door = Asked(directory())
    answer = door.post(EDGE_BODY, edge("nobody"))
    assert (answer.status_code, answer.json()["type"].rsplit("/", 1)[1]) == (400, "EXEG-0003-400")
    assert bytes(door.uploads()[0]["body"]) == EDGE_BODY


def test_a_datastream_may_have_a_smaller_body_limit() -> None:
    door = Asked(directory("body_limit_bytes = 50", suites=""))
    assert door.post(GOOD).status_code == 413
    assert door.post(EDGE_BODY, edge("film")).status_code == 413
    assert {upload["reason"] for upload in door.uploads()} == {"body_too_large"}


def test_a_strict_datastream_refuses_what_an_open_one_only_flags() -> None:
    body = GOOD.replace(b'"media.id"', b'"media.unheard":1,"media.id"')
    assert Asked(directory(suites="")).post(body).status_code == 201
    answer = Asked(directory("strict = true", suites="")).post(body)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["rule"] == "additionalProperties"


def test_a_datastream_gives_edge_uploads_their_organisation_suites_and_server() -> None:
    options = 'organisation = "ORG@AdobeOrg"\ntracking_server = "track.example"'
    suites = 'report_suites = ["suite-1", "suite-2"]'
    codec = Codec(FakeSchemaIds())
    found = parse_datastreams(f"[datastream.ds]\n{suites}\n{options}\n")
    pipeline = make_pipeline(FakeLog(position_maker(codec)), codec, found)
    answer = pipeline.send(EDGE_BODY, receive.EDGE)
    assert answer.status == 200
    assert b'"kndctr_ORG_AdobeOrg_identity"' in answer.body
    pipeline.carry()
    routes = {
        (route["organisation"], route["report_suite"], route["tracking_server"])
        for call in pipeline.values("media.analytics.calls")
        for route in call["routes"]
    }
    assert routes == {("ORG@AdobeOrg", suite, "track.example") for suite in ("suite-1", "suite-2")}


def test_the_viewing_day_is_that_of_the_datastreams_zone() -> None:
    days = {}
    for zone in ("UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"):
        codec = Codec(FakeSchemaIds())
        pipeline = make_pipeline(
            FakeLog(position_maker(codec)), codec, directory(f'time_zone = "{zone}"', suites="")
        )
        assert pipeline.send(GOOD).status == 201
        pipeline.carry()
        days[zone] = pipeline.values("media.sessions")[0]["time_ledger"]["viewing_day"]
    assert len(set(days.values())) > 1, days


def test_over_the_rate_is_503_with_retry_after_and_the_next_second_is_free() -> None:
    door = Asked(directory("rate_per_s = 2", suites=""))
    assert [door.post(GOOD).status_code for _ in range(4)] == [201, 201, 503, 503]
    assert int(door.post(GOOD).headers["retry-after"]) > 0
    assert len(door.uploads()) == 2
    door.now += 1
    assert door.post(GOOD).status_code == 201
    assert b'pipeline_limited_total{limit="rate"} 3.0' in door.meters.text()


def test_refused_bytes_have_a_quota_that_good_uploads_do_not_touch() -> None:
    bad = b"x" * 400
    door = Asked(quota=1_000)
    assert [door.post(bad).status_code for _ in range(4)] == [400, 400, 503, 503]
    assert door.post(GOOD).status_code == 201
    assert sum(len(upload["body"]) for upload in door.uploads() if upload["verdict"] == "rejected") == 800
    door.now += 3_600
    assert door.post(bad).status_code == 400


def test_refused_bytes_that_could_not_be_stored_count_nowhere() -> None:
    bad = b"x" * 400
    door = Asked(quota=1_000)
    door.log.broken = True
    assert [door.post(bad).status_code for _ in range(4)] == [503] * 4
    assert b"pipeline_limited_total{" not in door.meters.text()
    assert b"pipeline_refused_bytes_total 0.0" in door.meters.text()
    door.log.broken = False
    assert [door.post(bad).status_code for _ in range(3)] == [400, 400, 503]
    assert b"pipeline_refused_bytes_total 800.0" in door.meters.text()


def test_refused_bytes_over_the_rate_do_not_use_up_the_quota() -> None:
    door = Asked(directory(f"rate_per_s = 1\nrefused_bytes_per_hour = {2 * len(BAD)}"))
    assert [door.post(BAD).status_code for _ in range(5)] == [400, 503, 503, 503, 503]
    door.now += 1
    assert door.post(BAD).status_code == 400
    assert b'pipeline_limited_total{limit="rate"} 4.0' in door.meters.text()


BAD = GOOD.replace(b'"ts":', b'"then":')
BAD_START = GOOD.replace(b'"media.id"', b'"media.ID"')
UNREADABLE = b"x" * len(BAD)


@pytest.mark.parametrize("bad", [BAD, BAD_START])
def test_refused_bytes_count_for_the_datastream_whose_report_suite_they_name(bad: bytes) -> None:
    door = Asked(directory(f"refused_bytes_per_hour = {len(bad) * 2}"), quota=10_000_000)
    assert [door.post(bad).status_code for _ in range(4)] == [400, 400, 503, 503]
    assert {upload["datastream_id"] for upload in door.uploads()} == {"film"}
    assert door.post(UNREADABLE).status_code == 400, "what names none has the ingest's own quota"
    assert door.post(GOOD).status_code == 201
    text = door.meters.text()
    assert b'pipeline_limited_total{limit="quota"} 2.0' in text
    assert b"pipeline_refused_bytes_total %.1f" % (2 * len(bad) + len(UNREADABLE)) in text


def test_an_invalid_body_too_needs_the_key_of_the_datastream_that_it_names() -> None:
    door = Asked(directory('api_key = "s3cret"'))
    assert [door.post(bad).status_code for bad in (BAD, BAD_START)] == [401, 401]
    assert door.uploads() == []
    assert door.post(BAD, x_api_key="s3cret").status_code == 400
    assert door.post(UNREADABLE).status_code == 400


def test_what_a_strict_datastream_refuses_is_its_own_and_the_worker_agrees() -> None:
    found = parse_datastreams(
        '[datastream.film]\nreport_suites = ["suite"]\nstrict = true\n[datastream.rest]\n'
    )
    codec = Codec(FakeSchemaIds())
    pipeline = make_pipeline(FakeLog(position_maker(codec)), codec, found)
    assert pipeline.send(GOOD.replace(b'"media.id"', b'"media.unheard":1,"media.id"')).status == 400
    pipeline.carry()
    (letter,) = pipeline.values("media.uploads.dlq")
    assert (letter["reason"], letter["datastream_id"]) == ("invalid", "film")


def test_a_body_that_names_no_datastream_is_nobodys_and_stays_invalid() -> None:
    codec = Codec(FakeSchemaIds())
    pipeline = make_pipeline(FakeLog(position_maker(codec)), codec, directory())
    for body in (UNREADABLE, b"[1]", b'[{"params":[]}]', b'{"params":{}}', BAD.replace(b'"suite"', b"7")):
        assert pipeline.send(body).status == 400
    pipeline.carry()
    letters = pipeline.values("media.uploads.dlq")
    assert {(letter["reason"], letter["datastream_id"]) for letter in letters} == {("invalid", "")}
    assert all(letter["problems"] for letter in letters)


def test_invented_config_ids_share_one_quota() -> None:
    door = Asked(directory(), quota=len(EDGE_BODY) * 2)
    answers = [door.post(EDGE_BODY, edge(f"invented-{n}")).status_code for n in range(4)]
    assert answers == [400, 400, 503, 503]


def test_too_many_faults_of_ours_make_it_not_ready_and_503(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Asked()

    def broken(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(receive, "glance", broken)
        assert [door.post(GOOD).status_code for _ in range(4)] == [201, 201, 201, 503]
        assert door.request("GET", "/health/ready").status_code == 503
    assert {upload["reason"] for upload in door.uploads()} == {"internal_error"}
    door.now += 61
    assert door.post(GOOD).status_code == 201
    assert door.request("GET", "/health/ready").status_code == 200


@pytest.mark.parametrize(
    ("address", "mode", "shown"),
    [
        ("203.0.113.77", ClientIp.NONE, None),
        ("203.0.113.77", ClientIp.TRUNCATED, "203.0.113.0"),
        ("203.0.113.77", ClientIp.FULL, "203.0.113.77"),
        ("2001:db8:1:2::7", ClientIp.TRUNCATED, "2001:db8:1::"),
        ("not an address", ClientIp.FULL, None),
    ],
)
def test_of_a_clients_address_only_what_is_allowed_is_kept(
    address: str, mode: ClientIp, shown: str | None
) -> None:
    assert shown_ip(address, mode) == shown


def test_by_default_no_address_is_stored() -> None:
    door = Asked()
    door.post(GOOD)
    assert door.uploads()[0]["client_ip"] is None
    door = Asked(client_ip=ClientIp.TRUNCATED)
    door.post(GOOD)
    assert door.uploads()[0]["client_ip"] == "127.0.0.0"


def test_pseudonyms_are_in_every_output_and_change_no_identity() -> None:
    people = ["3" * 38, "an-analytics-id", "a-custom-id", "a-customer"]
    visitor = Visitor(people[0], people[0], people[1], people[2], identities=(Identity("crm", people[3], 1),))
    body = to_media_collection(story("0 start, 9 end")._replace(visitor=visitor))
    seen: dict[bool, tuple[str, str]] = {}
    for hidden in (False, True):
        codec = Codec(FakeSchemaIds())
        options = 'pseudonymise = ["ecid", "aid", "vid", "identities"]' if hidden else ""
        pipeline = make_pipeline(FakeLog(position_maker(codec)), codec, directory(options, suites=""))
        assert pipeline.send(body).status == 201
        pipeline.carry()
        text = "".join(
            repr(pipeline.values(topic))
            for topic in ("media.sessions", "media.events", "media.analytics.calls", "media.reporting")
        )
        (session,) = pipeline.values("media.sessions")
        seen[hidden] = (str(session["session_id"]), text)
    assert seen[False][0] == seen[True][0]
    assert [person for person in people if person not in seen[False][1]] == []
    assert [person for person in people if person in seen[True][1]] == []


def test_a_generated_ecid_depends_on_the_key_and_unknown_members_are_left_out() -> None:
    session = story("0 start, 9 end")._replace(visitor=Visitor(app_installation_id="an-installation"))
    sent = json.loads(to_media_collection(session))
    sent[0]["params"]["my.email"] = "alice@example.com"
    found = set()
    for key in (b"one", b"another"):
        codec = Codec(FakeSchemaIds())
        hidden = parse_datastreams('[datastream.film]\npseudonymise = ["ecid"]\n', key)
        pipeline = make_pipeline(FakeLog(position_maker(codec)), codec, hidden)
        assert pipeline.send(json.dumps(sent).encode()).status == 201
        pipeline.carry()
        (outward,) = pipeline.values("media.sessions")
        assert "unknown_param" in str(outward["flags"])
        found.add(str(outward["visitor"]))
        assert "alice" not in repr(pipeline.values("media.events"))
    assert len(found) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[datastream.a]\npseudonymise = ["name"]', "datastream.a.pseudonymise"),
        ("[datastream.a]\nrate_per_s = -1", "datastream.a.rate_per_s"),
        ('[datastream.a]\nrate_per_s = "many"', "datastream.a.rate_per_s"),
        ("[datastream.a]\napi_keys = 1", "datastream.a.api_keys"),
        ('[datastream.a]\napi_key = "schlüssel"', "datastream.a.api_key"),
        ('[datastream.a]\napi_key = " s3cret"', "datastream.a.api_key"),
    ],
)
def test_a_wrong_option_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(DatastreamsError, match=said):
        parse_datastreams(text, b"key")


def test_pseudonyms_without_a_key_are_refused() -> None:
    with pytest.raises(DatastreamsError, match="PIPELINE_PSEUDONYM_KEY"):
        parse_datastreams('[datastream.a]\npseudonymise = ["ecid"]')
