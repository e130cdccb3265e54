"""Every row of the shared tables is built, or listed here with the rule that says why not."""

from __future__ import annotations

import csv
from functools import cache
from typing import Any, Final

import pytest

from pipeline.session.calls import analytics_calls
from pipeline.session.datastream import OPEN_DATASTREAM
from pipeline.session.fields import AD, CHAPTER, POD, SESSION
from pipeline.session.measure import measure
from pipeline.session.model import Call, CallKind, Form, Identity, Kind, Row, Session, Visitor
from pipeline.session.rows import reporting_rows
from pipeline.stages.records_of import row_records, visitor_record
from pipeline.wire.tables import (
    BACK_END,
    CUSTOMER_IDS,
    EDGE_DETAILS,
    EDGE_KINDS,
    EDGE_QOE,
    EVENTS,
    STATE_LISTS,
)
from tests.shared import SHARED, needs_shared
from tests.stories import BASE_MS, story

pytestmark = needs_shared

FULL: Final = (
    "0 start bitrate=900 dropped_frames=3 time_to_start_ms=800 frames_per_second=24, 0 play, 5 break 1, "
    "5 ad 15, 20 adcomplete, 20 endbreak, 20 play, 21 chapter 1, 30 on fullscreen, 30 on closedCaptioning, "
    "30 on mute, 30 on pictureInPicture, 30 on inFocus, 31 on custom.state, 40 pause, 45 buffer, "
    "50 play @40, 55 error e1, 56 error e2 source=external, 57 bitrate bitrate=1200, 60 play @46, "
    "70 ping @46, 80 ping @46, 81 ping @47, 90 chaptercomplete @56, 200 complete @99"
)
"""One viewing in which everything happens, but for a drop before start, which excludes the rest."""

_ON_ROWS: Final = "xdm.mediaReporting."
NEVER: Final = {
    "a.media.federated": "spec/metrics.csv: never set in this pipeline",
    "a.media.qoe.mediaSdkErrors": "spec/metrics.csv: no input for it, never set here",
    f"{_ON_ROWS}sessionDetails.isFederated": "spec/metrics.csv: never set in this pipeline",
    f"{_ON_ROWS}sessionDetails.scheduleTimePlayed": "comes from schedule uploads (spec/media-edge.md 1.3)",
    f"{_ON_ROWS}sessionDetails.dataIngestionSource": "values unpublished (spec/media-edge.md 6, open)",
    f"{_ON_ROWS}qoeDataDetails.bitrate": "absent from the published close row: the average is reported",
    f"{_ON_ROWS}qoeDataDetails.mediaSdkErrors": "spec/metrics.csv: no input for it, never set here",
    f"{_ON_ROWS}advertisingPodDetails.index": "spec/media-edge.md 3: rows have ID and offset, no index",
}
"""What is not produced, with the rule."""

_HITS: Final = {
    "media start": CallKind.MEDIA_START,
    "ad start": CallKind.AD_START,
    "ad close": CallKind.AD_CLOSE,
    "chapter close": CallKind.CHAPTER_CLOSE,
    "media close": CallKind.MEDIA_CLOSE,
}


def table(name: str) -> list[dict[str, str]]:
    path = SHARED / "spec" / name
    if not path.exists():
        return []
    with path.open(newline="") as rows:
        return list(csv.DictReader(rows))


@cache
def full_session(form: Form = Form.MEDIA_COLLECTION) -> Session:
    details: dict[str, Any] = {row.member: f"a {row.member}" for row in SESSION if row.type == "string"}
    details |= {"streamType": "audio", "hasResume": True, "authorized": "TRUE", "isDownloaded": True}
    session = story(FULL, form=form, **details)
    events = list(session.events)
    parts = {Kind.AD_START: AD, Kind.CHAPTER_START: CHAPTER, Kind.AD_BREAK_START: POD}
    for index, event in enumerate(events):
        filled = {row.member: "x" for row in parts.get(event.kind, ())}
        custom = {"of": event.kind.value} if event.kind in {*parts, Kind.SESSION_START} else None
        if custom and event.kind is Kind.SESSION_START:
            custom |= {"whole": "session", "_acme.crew.lead": "x"}
        events[index] = event._replace(details={**filled, **event.details}, custom_metadata=custom)
    visitor = Visitor(
        "1" * 38, "1" * 38, aid="a", vid="v", location_hint=6, identities=(Identity("crm", "7", 1),)
    )
    routing = session.routing._replace(opt_out_forwarding=True, opt_out_share=True)
    return session._replace(events=tuple(events), visitor=visitor, routing=routing)


def _calls(session: Session) -> dict[CallKind, Call]:
    made = analytics_calls(session, measure(session, OPEN_DATASTREAM.rules), "f" * 64, OPEN_DATASTREAM)
    return {call.call: call for call in made}


@cache
def calls() -> dict[CallKind, Call]:
    return _calls(full_session())


@cache
def dropped() -> dict[CallKind, Call]:
    return _calls(story("0 start, 9 end"))


@cache
def rows() -> dict[str, Row]:
    session = full_session(Form.MEDIA_EDGE)
    made = reporting_rows(session, measure(session, OPEN_DATASTREAM.rules), "f" * 64, OPEN_DATASTREAM)
    dropped_rows = reporting_rows(
        story("0 start, 9 end"),
        measure(story("0 start, 9 end"), OPEN_DATASTREAM.rules),
        "f" * 64,
        OPEN_DATASTREAM,
    )
    return {row.event_type: row for row in made} | {"dropped": dropped_rows[-1]}


@pytest.mark.parametrize(
    "row", table("analytics-hits.csv"), ids=lambda row: f"{row['hit']}-{row['variable']}"
)
def test_a_call_carries_the_variables_of_its_table(row: dict[str, str]) -> None:
    variable = row["variable"]
    if row["hit"] not in _HITS:
        assert variable == "<customMetadata key>"
        narrower = {CallKind.AD_START: "adStart", CallKind.AD_CLOSE: "adStart"}
        narrower[CallKind.CHAPTER_CLOSE] = "chapterStart"
        for kind, call in calls().items():
            assert call.context["whole"] == "session"
            assert call.context["of"] == narrower.get(kind, "sessionStart")
        return
    kind = _HITS[row["hit"]]
    call = calls()[kind]
    if variable in NEVER:
        assert all(variable not in made.context for made in [*calls().values(), *dropped().values()])
    elif variable == "a.media.qoe.dropBeforeStart":
        assert dropped()[kind].context[variable] == "true"
        assert variable not in call.context
    elif variable.startswith("page_event"):
        assert (row["source"] == "(not documented)") == (call.page_event is None)
        assert call.page_event is None or str(call.page_event) == row["source"]
    elif variable.startswith("query:"):
        _check_query(variable.removeprefix("query:"), row, call)
    elif "<name>" in variable:
        assert {f"a.media.states.custom.state.{part}" for part in ("set", "count", "time")} <= set(
            call.context
        )
    else:
        assert call.context[variable], variable


def _check_query(name: str, row: dict[str, str], call: Call) -> None:
    if name == "ts":
        assert call.ts == call.ts_ms // 1000
        assert call.ts_ms >= BASE_MS
    elif name == "pe":
        assert (call.pe or "(not documented)") == row["source"]
    elif name == "pev3":
        assert call.pev3 == row["source"].split(" | ")[1]  # the story is audio
    elif name == "ms_a":
        assert call.query["ms_a"] == "1"
        assert "ms_a" not in dropped()[CallKind.MEDIA_START].query
    elif name == "vid":
        # spec/media-collection.md 4.4: not with mid or aid; alone it is sent and flagged.
        assert "vid" not in call.query
        alone = _calls(full_session()._replace(visitor=Visitor(vid="v")))[call.call]
        assert (alone.query["vid"], "vid_with_ts" in alone.flags) == ("v", True)
    elif name == "cid.<name>.id/.as":
        assert (call.query["cid.crm.id"], call.query["cid.crm.as"]) == ("7", "1")
    else:
        expected = {"mid": "1" * 38, "aid": "a", "mcorgid": "ORG@AdobeOrg", "aamlh": "6"}
        assert call.query[name] == expected[name]


def test_no_call_carries_a_variable_that_its_table_does_not_have() -> None:
    allowed: dict[CallKind, set[str]] = {kind: set() for kind in CallKind}
    for row in table("analytics-hits.csv"):
        if row["hit"] in _HITS:
            allowed[_HITS[row["hit"]]].add(row["variable"])
    for kind, call in calls().items():
        standard = {key for key in call.context if key.startswith("a.") and ".states." not in key}
        assert standard <= allowed[kind], standard - allowed[kind]


@pytest.mark.parametrize("row", table("params.csv"), ids=lambda row: row["name"])
def test_every_documented_param_is_read_with_its_type(row: dict[str, str]) -> None:
    param, place = row["mc_param_key"], row["mc_location"]
    if place.startswith("root"):
        assert param.split(".")[0] in {"eventType", "playerTime", "customMetadata"}
        return
    if param.startswith("("):  # made by the back end: then it comes out
        variables = row["aa_context_variable"].split(" ")[0]
        made = {name for call in calls().values() for name in call.context}
        assert variables in made or variables in NEVER
        return
    if param == CUSTOMER_IDS or param.removesuffix("[]") in STATE_LISTS:
        return  # objects and arrays with rules of their own: tests/wire
    rules = {**EVENTS["sessionStart"].params, **{k: v for e in EVENTS.values() for k, v in e.params.items()}}
    rules |= {name: rule for event in EVENTS.values() for name, rule in event.qoe.items()}
    assert rules[param].type.value == row["json_type"]
    is_required = row["required_mc"].split(" ")[0] == "yes" and not param.endswith("downloaded")
    assert rules[param].required == is_required


@pytest.mark.parametrize("row", table("events.csv"), ids=lambda row: row["event_type"])
def test_every_event_type_has_its_required_and_optional_params(row: dict[str, str]) -> None:
    event = EVENTS[row["event_type"]]
    required, optional = set(row["required_params"].split()), set(row["optional_params"].split())
    assert set(event.params.required) == required
    known = set(event.params) | ({CUSTOMER_IDS} if event.kind is Kind.SESSION_START else set())
    known |= set(STATE_LISTS) if row["event_type"] == "statesUpdate" else set()
    assert known == required | optional
    assert event.carries_metadata == (row["customMetadata"] == "yes")
    assert row["xdm_event"] == f"media.{event.kind.value}"
    assert row["xdm_event"] in EDGE_KINDS


_DETAILS: Final = {details.member: details.members for details in EDGE_DETAILS.values()}
_DETAILS_PATH: Final = "xdm.mediaDownloadedEvents[].mediaCollection."


@pytest.mark.parametrize(
    "row",
    [r for r in table("edge-xdm-fields.csv") if r["path"].startswith(_DETAILS_PATH)],
    ids=lambda row: row["path"].removeprefix(_DETAILS_PATH),
)
def test_every_collected_xdm_member_is_read_with_its_type(row: dict[str, str]) -> None:
    group, _, member = row["path"].removeprefix(_DETAILS_PATH).partition(".")
    if not member or "[]" in group:
        # Members of mediaCollection itself and of its lists: rules of their own, in tests/wire.
        assert group.removesuffix("[]") in {
            "playhead",
            "sessionID",
            "statesStart",
            "statesEnd",
            "customMetadata",
        }
        return
    rules = EDGE_QOE if group == "qoeDataDetails" else _DETAILS[group]
    assert rules[member].type.value == row["json_type"]
    assert rules[member].required == (": yes" in row["required_in_request"].split(";")[0] or _is_error(group))


def _is_error(group: str) -> bool:
    return group == "errorDetails"


_KINDS_OF_ROWS: Final = {
    "all rows": (
        "media.sessionStart",
        "media.adStart",
        "media.adComplete",
        "media.chapterComplete",
        "media.sessionComplete",
    ),
    "sessionStart": ("media.sessionStart",),
    "adStart": ("media.adStart",),
    "adComplete": ("media.adComplete",),
    "chapterComplete": ("media.chapterComplete",),
    "sessionComplete": ("media.sessionComplete",),
}


@pytest.mark.parametrize(
    "row",
    [r for r in table("edge-xdm-fields.csv") if r["path"].startswith("xdm.mediaReporting.")],
    ids=lambda row: row["path"].removeprefix("xdm.mediaReporting."),
)
def test_every_reporting_member_is_on_the_rows_that_it_belongs_to(row: dict[str, str]) -> None:
    path = row["path"].removeprefix("xdm.mediaReporting.")
    emitted = row["emitted_on"].split(" (")[0].removesuffix(" when genre is set")
    kinds = [kind for part in emitted.split(", ") for kind in _KINDS_OF_ROWS.get(part.strip(), ())]
    if row["path"] in NEVER:
        assert all(_found(made.media_reporting, path) is None for made in rows().values())
        return
    if path == "qoeDataDetails.isDroppedBeforeStart":
        assert _found(rows()["dropped"].media_reporting, path) is True
        return
    assert kinds, row
    for kind in kinds:
        assert _found(rows()[kind].media_reporting, path) not in (None, (), ""), kind


def _found(value: Any, path: str) -> Any:
    for part in path.split("."):
        if value is None:
            return None
        value = value.get(part.removesuffix("[]"))
        if isinstance(value, (list, tuple)) and part.endswith("[]"):
            value = value[0] if value else None
    return value


def test_custom_metadata_of_a_tenant_is_unfolded_at_the_root_of_a_row() -> None:
    assert all(
        made.tenant_fields == {"_acme.crew.lead": "x"} for kind, made in rows().items() if kind != "dropped"
    )


def test_a_row_loses_nothing_on_its_way_into_a_record() -> None:
    session = full_session(Form.MEDIA_EDGE)
    made = tuple(row for kind, row in rows().items() if kind != "dropped")
    from pipeline.contract import records as r
    from pipeline.stages.prepare import Identified

    upload: Any = r.Upload._make([None] * len(r.Upload._fields))._replace(upload_id="u")
    identified = Identified(session, OPEN_DATASTREAM, "f" * 64, "v")
    for row, record in zip(
        made, row_records(identified, upload, made, visitor_record(session, "f" * 64)), strict=True
    ):
        assert _members(record.media_reporting.to_avro()) == _members(row.media_reporting)


def _members(value: Any) -> Any:
    """Values by place, without what is absent; names are in XDM's form or in Avro's, so only values count."""
    if isinstance(value, dict):
        return sorted((str(_members(v)) for v in value.values() if v is not None), key=str)
    return [_members(v) for v in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("row", table("metrics.csv"), ids=lambda row: row["metric"])
def test_every_session_metric_comes_out_on_a_call_and_a_row(row: dict[str, str]) -> None:
    if row["kind"] == "calculated":
        # Ratios over the sums of many sessions: made at report time (spec/metrics.csv, call).
        assert row["call"] == "report time"
        return
    variable = row["aa_context_variable"].replace("<name>", "custom.state").split("/")[0]
    everywhere = [*calls().values(), *dropped().values()]
    if variable in NEVER:
        assert all(variable not in call.context for call in everywhere)
    elif not variable.startswith("none"):  # frames per second have no variable, only a member
        assert any(variable in call.context for call in everywhere), variable
    path = row["xdm_reporting_field"].split("/")[0].removeprefix("xdm.mediaReporting.")
    name = path.partition("[name=")[2].partition("]")[0].replace("<name>", "custom.state")
    if f"xdm.mediaReporting.{path}" in NEVER:
        return
    if name:
        states: Any = rows()["media.sessionComplete"].media_reporting["states"]
        (state,) = [state for state in states if state["name"] == name]
        assert state[path.rpartition(".")[2]]
        return
    assert any(_found(made.media_reporting, path) is not None for made in rows().values()), path


def test_every_param_of_a_back_end_is_of_the_start_only() -> None:
    assert all(name in EVENTS["sessionStart"].params for name in BACK_END)
    others = [event for name, event in EVENTS.items() if name != "sessionStart"]
    assert not any(set(BACK_END) & set(event.params) for event in others)
