"""Bodies that real clients and the vendor's own pages produce, against our verdict."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import pytest

from pipeline.session.datastream import Datastream, Rules
from pipeline.session.measure import measure
from pipeline.session.model import Session
from pipeline.wire import media_collection, media_edge
from pipeline.wire.problems import Problem, Rejected
from tests.shared import SHARED, load, needs_shared

_LOADED: Any = load("corpus/cases.json") or []
_ALL: Final = _LOADED if isinstance(_LOADED, list) else _LOADED["cases"]
CASES: Final = [case for case in _ALL if case["form"] in {"mc", "edge"}]
ONLINE: Final = [case for case in _ALL if case["form"].startswith("online/")]
"""Single live events: not for these paths, whatever their verdict on the live ones is."""

DECIDED: Final[dict[str, tuple[bool, str]]] = {
    "mc/android-report-proper-state.json": (
        True,
        "an SDK sends it: SDK traffic is never refused for its form",
    ),
    "mc/android-report-end-appended.json": (
        True,
        "spec/media-collection.md 2.3: sessionEnd is 'not finished'",
    ),
    "mc/android-neg-no-end-event.json": (True, "spec/media-collection.md 2.3: sessionComplete is added"),
    "mc/android-report-after-dropping-early-hits.json": (True, "an SDK sends it"),
    "mc/android-neg-events-after-complete.json": (
        True,
        "spec/media-collection.md 6.4: kept, no content time",
    ),
    "mc/android-report-very-short.json": (True, "an SDK sends it"),
    "mc/android-report-short-ping-complete.json": (True, "an SDK sends it"),
    "mc/android-report-short-play-complete.json": (True, "an SDK sends it"),
    "mc/docs-timeline-2.json": (True, "DESIGN.md 6.1: the undocumented qoeData key is kept and flagged"),
    "mc/docs-timeline-3.json": (True, "spec/media-collection.md 6.37: podFriendlyName on adStart is known"),
    "mc/derived-no-end-event.json": (True, "spec/media-collection.md 2.3 for both APIs"),
    "mc/derived-playhead-at-length.json": (True, "spec/media-collection.md 6.9"),
    "edge/docs-downloaded-page-start-only.json": (True, "spec/media-edge.md 3: sessionComplete is added"),
    "edge/docs-downloaded-page-with-session-id.json": (False, "spec/media-edge.md 6.5: sessionID is refused"),
    "edge/docs-flag-page-with-isdownloaded.json": (True, "spec/media-edge.md 6.5: isDownloaded is ignored"),
    "edge/xdm-field-group-example-with-reporting.json": (
        True,
        "spec/media-edge.md 6.5: unknown members kept",
    ),
    "edge/xdm-media-event-example.json": (
        True,
        "spec/media-edge.md 6.5: other details are ignored and flagged",
    ),
    "edge/xdm-media-details-example.json": (
        True,
        "spec/media-edge.md 6.5: other details are ignored and flagged",
    ),
    "edge/derived-session-end-instead.json": (True, "spec/media-edge.md 6.7"),
    "edge/derived-no-identity.json": (True, "spec/media-edge.md 6.8"),
}
"""Our decision where the sources disagree or are silent, with the rule that decides."""

pytestmark = needs_shared


def _problems(case: dict[str, Any]) -> tuple[Problem, ...]:
    body = (SHARED / "corpus" / case["file"]).read_bytes()
    try:
        if case["form"] in {"mc", "online/mc"}:
            media_collection.decode(body, _path(case))
        else:
            for item in media_edge.split(body):
                media_edge.decode(item, Datastream())
    except Rejected as rejected:
        return rejected.problems
    return ()


@pytest.mark.parametrize(
    "case", [c for c in CASES if c["expect"]["valid"] != "ambiguous"], ids=lambda c: str(c["file"])
)
def test_a_real_body_gets_the_verdict_of_its_source(case: dict[str, Any]) -> None:
    assert (not _problems(case)) == case["expect"]["valid"], _problems(case)


@pytest.mark.parametrize(
    "case", [c for c in CASES if c["expect"]["valid"] == "ambiguous"], ids=lambda c: str(c["file"])
)
def test_an_ambiguous_body_gets_the_verdict_that_we_decided(case: dict[str, Any]) -> None:
    is_valid, why = DECIDED[case["file"]]
    assert (not _problems(case)) == is_valid, (why, _problems(case))


def test_a_real_body_keeps_what_its_source_states_about_it() -> None:
    for case in CASES:
        if case["expect"]["valid"] is not True:
            continue
        expected = case["expect"]
        sessions = _sessions(case)
        assert len(sessions[0].events) == expected["events"] or len(sessions) > 1, case["file"]
        for session in sessions:
            viewing = measure(session, Rules())
            assert viewing.events[-1].kind.value in {"sessionComplete", "sessionEnd"}
        if len(sessions) == 1:
            viewing = measure(sessions[0], Rules())
            assert viewing.metrics.is_completed == expected["session_complete"], case["file"]
            counts = Counter(event.kind.value for event in sessions[0].events)
            sent = Counter[str]()
            for name, count in expected["type_counts"].items():
                short = name.removeprefix("media.")
                sent["statesUpdate" if short in {"stateStart", "stateEnd"} else short] += count
            assert counts == sent, case["file"]


def _sessions(case: dict[str, Any]) -> list[Session]:
    body = (SHARED / "corpus" / case["file"]).read_bytes()
    if case["form"] == "mc":
        return [media_collection.decode(body, _path(case))]
    return [media_edge.decode(item, Datastream()) for item in media_edge.split(body)]


def _path(case: dict[str, Any]) -> str:
    return "/api/v1/sessions" if "/sessions" in str(case["endpoint"]) else "/api/v1/downloaded"


@pytest.mark.parametrize("case", ONLINE, ids=lambda c: str(c["file"]))
def test_a_live_event_is_no_downloaded_session(case: dict[str, Any]) -> None:
    rules = {problem.rule for problem in _problems(case)}
    assert rules
    if case["expect"]["valid"] is False:
        assert rules == {"downloaded_flag_on_live"}


def test_every_ambiguous_body_has_a_decision_and_no_other() -> None:
    assert {case["file"] for case in CASES if case["expect"]["valid"] == "ambiguous"} == set(DECIDED)
