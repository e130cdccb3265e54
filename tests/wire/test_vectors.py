"""Every case of the shared vectors, for both APIs, in the default and in a strict datastream."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.session.datastream import Datastream, Rules
from pipeline.session.measure import measure
from pipeline.session.rows import reporting_rows
from pipeline.stages import receive
from pipeline.stages.datastreams import Directory
from pipeline.wire import media_collection, media_edge
from pipeline.wire.moments import format_moment
from pipeline.wire.problems import RULES, Rejected
from tests.shared import load, needs_shared

MC = load("vectors/media-collection-cases.json") or {"cases": []}
EDGE = load("vectors/media-edge-cases.json") or {"cases": []}

pytestmark = needs_shared


def _mc_verdict(case: dict[str, Any], *, strict: bool) -> tuple[int, list[tuple[str, str]], set[str]]:
    body = json.dumps(case["body"]).encode()
    try:
        session = media_collection.decode(body, case["path"], strict=strict)
    except Rejected as rejected:
        return 400, [(p.pointer, p.rule) for p in rejected.problems], set()
    return 201, [], set(session.flags)


@pytest.mark.parametrize("case", MC["cases"], ids=lambda case: str(case["id"]))
def test_a_media_collection_case_gets_the_expected_status_pointers_and_flags(case: dict[str, Any]) -> None:
    status, errors, flags = _mc_verdict(case, strict=False)
    expected = case["expect"]
    assert status == expected["status"]
    assert errors == [(e["pointer"], e["rule"]) for e in expected["errors"]]
    assert set(expected.get("flags", ())) <= flags


@pytest.mark.parametrize("case", MC["cases"], ids=lambda case: str(case["id"]))
def test_a_strict_datastream_refuses_what_the_closed_schema_refuses(case: dict[str, Any]) -> None:
    status, errors, _ = _mc_verdict(case, strict=True)
    expected = case.get("expect_strict", case["expect"])
    assert status == expected["status"]
    assert errors == [(e["pointer"], e["rule"]) for e in expected["errors"]]


@pytest.mark.parametrize("case", EDGE["cases"], ids=lambda case: str(case["id"]))
def test_a_media_edge_case_gets_the_expected_answer(case: dict[str, Any]) -> None:
    expected = case["expect"]
    body = case.get("raw_body")
    if body is None:
        body = json.dumps(case.get("request", case.get("request_fatal", {"events": [{}]})))
    query = case.get("query", {"configId": "known"})
    headers = case.get("headers", {})
    request = receive.Request(
        path=receive.EDGE,
        body=body.encode(),
        received_at_ms=1_760_000_000_000,
        request_id="r",
        content_type=headers.get("Content-Type", "application/json"),
        config_id=query.get("configId"),
        truncated=case["id"] == "fatal-too-large",
    )
    known = Datastream(id="known", report_suites=("suite",), disabled=case["id"] == "fatal-disabled")
    directory = Directory((known,))
    reception = receive.receive(request, directory, lambda: "upload")
    assert reception.answer.status == expected["status"]
    answer = json.loads(reception.answer.body)
    if "problem_type" in expected:
        assert answer["type"] == expected["problem_type"]
    for error in expected.get("errors", ()):
        found = next(e for e in answer["errors"] if e["report"]["eventIndex"] == error["eventIndex"])
        assert (found["type"], found["status"]) == (error["type"], error["status"])
        assert [detail["name"] for detail in found["report"]["details"]] == error["names"]


@pytest.mark.parametrize(
    "case", [c for c in EDGE["cases"] if "reporting" in c["expect"]], ids=lambda case: str(case["id"])
)
def test_a_media_edge_case_gives_the_expected_row(case: dict[str, Any]) -> None:
    session = media_edge.decode(json.dumps(case["request"]["events"][0]).encode(), Datastream())
    rows = reporting_rows(session, measure(session, Rules()), "f" * 64, Datastream())
    for name, value in case["expect"]["reporting"].items():
        kind, _, member = name.partition(".")
        (row,) = [row for row in rows if row.event_type == f"media.{kind}"]
        details: Any = row.media_reporting["sessionDetails"]
        assert (format_moment(row.timestamp_ms) if member == "timestamp" else details[member]) == value


def test_every_rule_that_a_vector_expects_is_in_the_closed_list() -> None:
    expected = {case["expect"]["rule"] for case in MC["cases"]} - {None}
    assert expected <= set(RULES)


def test_an_edge_item_keeps_the_bytes_that_were_sent() -> None:
    one, two = b'{ "xdm" : {"a":1.0} }', b'{"xdm":{}}'
    assert media_edge.split(b'{"events": [' + one + b", " + two + b"]}") == (one, two)
