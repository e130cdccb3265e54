"""Every row of the shared tables is covered: params, calls with their variables, metrics."""

from __future__ import annotations

import csv
from typing import Any

import pytest

from pipeline.session.calls import analytics_calls
from pipeline.session.datastream import OPEN_DATASTREAM
from pipeline.session.fields import AD, CHAPTER, POD, SESSION
from pipeline.session.measure import measure
from pipeline.session.model import Call, Identity, Visitor
from pipeline.session.rows import reporting_rows
from pipeline.wire.tables import CUSTOMER_IDS, EVENTS
from tests.shared import SHARED, needs_shared
from tests.stories import story

pytestmark = needs_shared

FULL = (
    "0 start bitrate=900 dropped_frames=3 time_to_start_ms=800, 0 play, 5 break 1, 5 ad 15, 20 adcomplete, "
    "20 endbreak, 20 play, 21 chapter 1, 30 on fullscreen, 30 on closedCaptioning, 30 on mute, "
    "30 on pictureInPicture, 30 on inFocus, 31 on custom.state, 40 pause, 45 buffer, 50 play @40, "
    "55 error e1, 56 error e2 source=external, 57 bitrate bitrate=1200, 60 play @46, 70 ping @46, "
    "80 ping @46, 81 ping @47, 90 chaptercomplete @56, 200 complete @99"
)
NEVER = {
    # spec/metrics.csv: never set in this pipeline, or no input for it.
    "a.media.federated",
    "a.media.qoe.mediaSdkErrors",
    # Only when there is no content start, which excludes the rest.
    "a.media.qoe.dropBeforeStart",
}
_HITS = {
    "media start": "mediaStart",
    "ad start": "adStart",
    "ad close": "adClose",
    "chapter close": "chapterClose",
    "media close": "mediaClose",
}


def table(name: str) -> list[dict[str, str]]:
    path = SHARED / "spec" / name
    if not path.exists():
        return []
    with path.open(newline="") as rows:
        return list(csv.DictReader(rows))


def full_session() -> Any:
    details: dict[str, Any] = {row.member: f"a {row.member}" for row in SESSION if row.type == "string"}
    details |= {"streamType": "audio", "hasResume": True, "authorized": "TRUE"}
    session = story(FULL, **details)
    events = list(session.events)
    extra = {"AD": AD, "CHAPTER": CHAPTER, "POD": POD}
    for index, event in enumerate(events):
        rows = {"adStart": extra["AD"], "chapterStart": extra["CHAPTER"], "adBreakStart": extra["POD"]}
        filled = {row.member: "x" for row in rows.get(event.kind.value, ())}
        events[index] = event._replace(details={**filled, **event.details})
    visitor = Visitor(
        "1" * 38, "1" * 38, aid="a", vid="v", location_hint=6, identities=(Identity("crm", "7", 1),)
    )
    return session._replace(events=tuple(events), visitor=visitor)


def calls() -> dict[str, Call]:
    session = full_session()
    made = analytics_calls(session, measure(session, OPEN_DATASTREAM.rules), "f" * 64, OPEN_DATASTREAM)
    return {call.call.value: call for call in made}


@pytest.mark.parametrize(
    "row", table("analytics-hits.csv"), ids=lambda row: f"{row['hit']}-{row['variable']}"
)
def test_a_call_carries_the_variables_of_its_table(row: dict[str, str]) -> None:
    hit, variable = row["hit"], row["variable"]
    if hit not in _HITS or variable in NEVER or variable.startswith("page_event"):
        return
    call = calls()[_HITS[hit]]
    if variable.startswith("query:"):
        name = variable.removeprefix("query:")
        own = {"ts": str(call.ts), "pev3": call.pev3, "pe": call.pe}
        expected = {"cid.<name>.id/.as": "cid.crm.id"}.get(name, name)
        if name == "vid":
            assert "vid" not in call.query  # spec/media-collection.md 4.4: mid and aid exist
        elif name == "pe":
            assert (call.pe or "(not documented)") == row["source"]
        else:
            assert expected in call.query or expected in own
        return
    name = variable.replace("<name>", "custom.state").split("/")[0]
    if name == "c.<key>" or "customMetadata" in row["source"] or name.startswith("("):
        return
    present = name in call.context
    assert present, f"{name} is missing on {hit}"


def test_no_call_carries_a_variable_that_its_table_does_not_have() -> None:
    allowed: dict[str, set[str]] = {}
    for row in table("analytics-hits.csv"):
        if row["hit"] in _HITS:
            allowed.setdefault(_HITS[row["hit"]], set()).add(row["variable"])
    for name, call in calls().items():
        standard = {key for key in call.context if key.startswith("a.") and ".states." not in key}
        assert standard <= allowed[name], standard - allowed[name]


@pytest.mark.parametrize("row", table("params.csv"), ids=lambda row: row["name"])
def test_every_documented_param_is_known(row: dict[str, str]) -> None:
    param = row["mc_param_key"].removesuffix("[]")
    if param.startswith("("):  # derived by the back end: no param
        return
    known = {
        CUSTOMER_IDS,
        "playerTime.playhead",
        "playerTime.ts",
        "playhead",
        "ts",
        "eventType",
        "customMetadata",
    }
    known |= {"statesStart", "statesEnd", "playerTime", "params", "qoeData"}
    for event in EVENTS.values():
        known |= set(event.params) | set(event.qoe)
    assert param in known or any(param.startswith(f"{name}.") for name in known), param


@pytest.mark.parametrize("row", table("metrics.csv"), ids=lambda row: row["metric"])
def test_every_session_metric_comes_out_on_a_call_and_a_row(row: dict[str, str]) -> None:
    variable, member = row["aa_context_variable"], row["xdm_reporting_field"]
    if row["kind"] == "calculated" or variable in NEVER or "<name>" in variable:
        return
    made = calls()
    if variable and not variable.startswith("none"):
        assert any(variable in call.context for call in made.values()), variable
    session = full_session()
    rows = reporting_rows(session, measure(session, OPEN_DATASTREAM.rules), "f" * 64)
    leaf = member.split(".")[-1].split("/")[0]
    if leaf in {"isDroppedBeforeStart", "isFederated", "framesPerSecond"} or not leaf:
        return
    assert any(f"'{leaf}'" in repr(made_row.media_reporting) for made_row in rows), member
