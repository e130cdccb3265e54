"""`pipeline explain`: the pure core on a body, without any log."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pipeline.session.model import Metrics
from tests.commands.serving import ROOT, run_here
from tests.shared import SHARED, needs_shared

EXAMPLES = ROOT / "examples"


@cache  # the same command prints the same: several tests look at different parts of it
def explained(*arguments: str, stdin: bytes = b"") -> dict[str, Any]:
    done = run_here("explain", *arguments, "--json", stdin=stdin)
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
    assert session["analytics_calls"][0]["routes"] == ["examplefilms"]
    assert {b["metric"] for b in session["explanation"]["metrics"]} == set(Metrics._fields)
    assert all(b["name"] and b["rule"] for b in session["explanation"]["metrics"])
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
    done = run_here("explain", "-", "--lines", stdin=f"{good}\n[]\nnot json\n{good}\n".encode())
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
    done = run_here(
        "explain",
        str(EXAMPLES / "sdk-android-sessions.json"),
        "--path",
        "/api/v1/sessions",
        environ={"COLUMNS": "160"},
    )
    shown = done.stdout.decode()
    for words in ("playback", "ads", "chapters", "fullscreen", "Events", "Calls", "Rows"):
        assert words in shown
    # Each number beside its rule and what made it.
    assert re.search(r"content time +4:02\.540 time in PLAY .* 1→2 0:00\.040, 7→15 2:10, 16→21 1:52", shown)
    assert re.search(r"pauses +1 pauseStart that entered PAUSE +event 15", shown)
    assert re.search(r"average bitrate +3392 kbps 2400 for 75\.04 s, 3800 for 182\.5 s", shown)
    assert re.search(r"16 +2:29\.040 +play +600 +█ content 0:50", shown)
    assert re.search(r"chapterClose +1795285940 2026-11-21 18:32:20 +Arrival, 120 s, complete", shown)


@pytest.mark.parametrize("columns", ["80", "40", "200"])
def test_a_timeline_fits_its_terminal(columns: str) -> None:
    path = ("--path", "/api/v1/sessions")
    done = run_here(
        "explain", str(EXAMPLES / "sdk-android-sessions.json"), *path, environ={"COLUMNS": columns}
    )
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert max(map(len, lines)) <= max(int(columns), 56)
    assert any("█" in line for line in lines)


def test_a_person_sees_what_is_wrong_and_where() -> None:
    shown = run_here("explain", str(EXAMPLES / "refused.json")).stdout.decode()
    assert "400" in shown
    assert "required at /0/params: media.length is missing" in shown
    assert "minimum at /2/playerTime/playhead: must be at least 0" in shown


def test_quality_of_an_event_is_an_object() -> None:
    path = ("--path", "/api/v1/sessions")
    (session,) = explained(str(EXAMPLES / "sdk-android-sessions.json"), *path)["sessions"]
    assert session["events"][0]["qoe"]["time_to_start_ms"] == 870


def test_a_datastream_explains_by_its_rules_and_shows_what_outputs_show(tmp_path: Path) -> None:
    file = tmp_path / "datastreams.toml"
    file.write_text(
        '[datastream.five]\nreport_suites = ["a"]\napi_key = "k"\npseudonymise = ["ecid"]\n'
        "[datastream.five.rules]\nsegment_step_min = 5\n"
    )
    environ = {"PIPELINE_DATASTREAMS_FILE": str(file), "PIPELINE_PSEUDONYM_KEY": "secret-key-of-a-test"}
    done = run_here(
        "explain", str(EXAMPLES / "film-completed.json"), "--datastream", "five", "--json", environ=environ
    )
    assert done.returncode == 0, done.stdout.decode()
    (session,) = json.loads(done.stdout)["sessions"]
    sent = json.loads((EXAMPLES / "film-completed.json").read_text())[0]["params"]
    assert session["record"]["metrics"]["segment"] == "[0-5]"
    assert session["record"]["visitor"]["ecid"] != sent["visitor.marketingCloudUserId"]
    assert session["analytics_calls"][0]["query"]["mid"] == session["record"]["visitor"]["ecid"]
    unknown = run_here(
        "explain", str(EXAMPLES / "film-completed.json"), "--datastream", "no", environ=environ
    )
    assert unknown.returncode == 2  # no datastream is open, so a wrong name is a setting's fault
    assert b"--datastream" in unknown.stderr


@needs_shared
def test_the_seed_session_is_explained_as_the_vector_says(tmp_path: Path) -> None:
    (session,) = explained(str(SHARED / "vectors/timelines/timeline-3.request.json"))["sessions"]
    assert session["record"]["metrics"]["content_time_spent_s"] == 45
    assert len(session["analytics_calls"]) == 10
