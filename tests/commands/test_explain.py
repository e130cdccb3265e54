"""`pipeline explain`: the pure core on a body, without any log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands.serving import ROOT, run
from tests.shared import SHARED, needs_shared

EXAMPLES = ROOT / "examples"


def explained(*arguments: str, stdin: bytes = b"") -> dict[str, Any]:
    done = run("explain", *arguments, "--json", stdin=stdin)
    assert not done.stderr, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_good_body_gives_its_session_calls_and_rows() -> None:
    found = explained(str(EXAMPLES / "film-completed.json"))
    assert (found["status"], found["problem"]) == (201, None)
    (session,) = found["sessions"]
    assert session["outcome"] == "accepted"
    assert len(session["session_id"]) == 64
    assert [call["call"] for call in session["analytics_calls"]] == ["mediaStart", "mediaClose"]
    assert {"ts", "ts_ms", "context"} <= set(session["analytics_calls"][0])
    assert all(isinstance(value, str) for value in session["analytics_calls"][0]["context"].values())
    assert session["reporting_rows"][0]["eventType"] == "media.sessionStart"
    assert session["reporting_rows"][0]["timestamp"] == "2018-06-26T07:25:23.478Z"
    assert session["reporting_rows"][0]["mediaReporting"]["sessionDetails"]["isDownloaded"] is True
    assert session["record"]["metrics"]["content_time_spent_s"] == 32


def test_a_refused_body_gives_every_problem_with_its_pointer() -> None:
    found = explained(str(EXAMPLES / "refused.json"))
    assert found["status"] == 400
    assert len(found["problem"]["errors"]) == 4
    assert all({"pointer", "rule", "message"} <= set(error) for error in found["problem"]["errors"])


def test_an_edge_request_gives_each_session_or_its_errors() -> None:
    body = json.loads((EXAMPLES / "edge-two-songs.json").read_text())
    body["events"].append({"xdm": {"eventType": "media.downloaded"}})
    found = explained("-", "--path", "/ee/va/v1/downloaded", stdin=json.dumps(body).encode())
    assert found["status"] == 207
    assert [session["outcome"] for session in found["sessions"]] == ["accepted", "accepted", "rejected"]
    assert found["sessions"][2]["errors"][0]["pointer"] == "$.xdm.mediaDownloadedEvents"


def test_lines_gives_one_object_per_body() -> None:
    good = json.dumps(json.loads((EXAMPLES / "film-completed.json").read_text()))
    done = run("explain", "-", "--lines", stdin=f"{good}\n[]\nnot json\n{good}\n".encode())
    statuses = [json.loads(line)["status"] for line in done.stdout.splitlines()]
    assert statuses == [201, 400, 400, 201]
    assert done.returncode == 1


@pytest.mark.parametrize(
    "metric",
    ["content_time_spent_ms", "ad_time_spent_ms", "pause_time_ms", "buffer_time_ms", "media_time_spent_ms"],
)
@pytest.mark.parametrize("example", ["film-completed", "sdk-android-sessions", "film-abandoned"])
def test_the_intervals_of_an_explanation_add_up_to_the_metric(metric: str, example: str) -> None:
    path = "/api/v1/sessions" if "sessions" in example else "/api/v1/downloaded"
    (session,) = explained(str(EXAMPLES / f"{example}.json"), "--path", path)["sessions"]
    because = next(b for b in session["explanation"]["metrics"] if b["metric"] == metric)
    assert sum(interval["took_ms"] for interval in because["intervals"]) == because["value"]


def test_a_person_sees_a_timeline_and_why_each_number_is_what_it_is() -> None:
    done = run(
        "explain",
        str(EXAMPLES / "sdk-android-sessions.json"),
        "--path",
        "/api/v1/sessions",
        environ={"COLUMNS": "120"},
    )
    shown = done.stdout.decode()
    for words in ("playback", "ads", "chapters", "content_time_spent_ms", "because", "Analytics calls"):
        assert words in shown


def test_a_person_sees_what_is_wrong_and_where() -> None:
    shown = run("explain", str(EXAMPLES / "refused.json")).stdout.decode()
    assert "400" in shown
    assert "required" in shown


@needs_shared
def test_the_seed_session_is_explained_as_the_vector_says(tmp_path: Path) -> None:
    (session,) = explained(str(SHARED / "vectors/timelines/timeline-3.request.json"))["sessions"]
    assert session["record"]["metrics"]["content_time_spent_s"] == 45
    assert len(session["analytics_calls"]) == 10
