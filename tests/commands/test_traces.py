"""One trace from the HTTP request to every record that comes of it; nothing when tracing is off."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.settings import SettingError, load
from pipeline.topology import UPLOADS
from pipeline.traces import OFF, open_traces
from pipeline.wire.encode import to_media_collection
from tests.collector import collecting
from tests.commands.serving import PIPELINE, ROOT, rows, served, settled
from tests.stories import story

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SENT = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "tracestate": "vendor=1"}
BODY = to_media_collection(story("0 start, 0 play, 10 end"))
OUTPUTS = ("media.sessions", "media.events", "media.analytics.calls", "media.reporting", "media.outcomes")


def headers_of(topic: str, data_dir: Path) -> list[dict[str, str]]:
    found = rows("records", topic, "--json", "--data-dir", str(data_dir))
    return [row.get("headers", {}) for row in found if row["value"].get("kind") != "position"]


def test_a_request_and_all_records_that_come_of_it_have_one_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collecting() as collector:
        monkeypatch.setenv("PIPELINE_OTEL_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        with served(tmp_path) as service, service.client() as client:
            sent = {"content-type": "application/json", **SENT}
            assert client.post("/api/v1/downloaded", content=BODY, headers=sent).status_code == 201
            refused = client.post("/api/v1/downloaded", content=b"{}", headers=sent)
            assert refused.status_code == 400
            settled(tmp_path)
            assert service.stop() == 0
        spans = collector.await_names("POST /api/v1/downloaded", "carry upload", "carry batch", "transaction")
    ours = [span for span in spans if span.trace_id == TRACE]
    requests = [span for span in ours if span.name == "POST /api/v1/downloaded"]
    uploads = [span for span in ours if span.name == "carry upload"]
    assert [span.parent_id for span in requests] == ["00f067aa0ba902b7"] * 2
    assert sorted(s.attributes["http.response.status_code"] for s in requests) == [201, 400]
    assert {span.parent_id for span in uploads} == {span.span_id for span in requests}
    assert {span.attributes["messaging.destination.name"] for span in uploads} == {UPLOADS}
    batches = [span for span in spans if span.name == "carry batch"]
    assert {link for batch in batches for link in batch.links} == {span.span_id for span in uploads}
    assert {s.name for s in spans if s.parent_id in {b.span_id for b in batches}} == {
        "stages",
        "transaction",
    }
    assert {span.service for span in spans} == {"pipeline-run"}
    carried = {span.span_id for span in uploads}
    for topic in (*OUTPUTS, "media.uploads.dlq", "media.index"):
        found = headers_of(topic, tmp_path)
        assert found
        for headers in found:
            _, trace_id, span_id, _ = headers["traceparent"].split("-")
            assert (trace_id, headers["tracestate"]) == (TRACE, "vendor=1")
            assert span_id in carried


def test_a_trace_begins_at_the_door_when_the_sender_brings_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collecting() as collector:
        monkeypatch.setenv("PIPELINE_OTEL_ENDPOINT", collector.url)
        with served(tmp_path) as service, service.client() as client:
            sent = {"content-type": "application/json", "traceparent": "not one"}
            assert client.post("/api/v1/downloaded", content=BODY, headers=sent).status_code == 201
            settled(tmp_path)
            assert service.stop() == 0
        collector.await_names("POST /api/v1/downloaded", "carry upload")
        (request,) = [s for s in collector.spans if s.name.startswith("POST")]
        (upload,) = [s for s in collector.spans if s.name == "carry upload"]
    assert request.parent_id == ""
    assert (upload.trace_id, upload.parent_id) == (request.trace_id, request.span_id)
    (headers,) = headers_of("media.sessions", tmp_path)
    assert headers["traceparent"].split("-")[1] == request.trace_id


def test_without_an_exporter_records_carry_nothing_and_nothing_is_imported(tmp_path: Path) -> None:
    with served(tmp_path) as service, service.client() as client:
        sent = {"content-type": "application/json", **SENT}
        assert client.post("/api/v1/downloaded", content=BODY, headers=sent).status_code == 201
        settled(tmp_path)
    for topic in (UPLOADS, *OUTPUTS):
        assert set(map(tuple, headers_of(topic, tmp_path))) == {()}
    assert open_traces(load({}), "test") is OFF
    code = "import sys, pipeline.commands.run; print([m for m in sys.modules if 'opentel' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_collector_that_is_away_delays_nothing_that_was_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE_OTEL_ENDPOINT", "http://127.0.0.1:9")
    with served(tmp_path) as service, service.client() as client:
        headers = {"content-type": "application/json"}
        assert client.post("/api/v1/downloaded", content=BODY, headers=headers).status_code == 201
        assert settled(tmp_path)["accepted"] == 1
        assert service.stop() == 0


def test_a_collector_that_says_nothing_holds_up_the_end_for_a_few_seconds_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.traces.FLUSH_S", 0.5)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "4")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        traces = open_traces(load({}, otel_endpoint=url), "pipeline-test")
        with traces.request("/api/v1/downloaded", {}):
            pass
        traces.close()
        sending = [thread for thread in threading.enumerate() if thread.name == "spans"]
        assert sending, "it waited until the exporter gave up, after 4 s"
    for thread in sending:  # it draws random numbers, which other tests forbid meanwhile
        thread.join(60)
        assert not thread.is_alive()


def test_an_endpoint_without_the_extra_is_one_clear_line(tmp_path: Path) -> None:
    """The installation without the extra is one in which its modules can't be imported."""
    (tmp_path / "opentelemetry.py").write_text("raise ImportError('No module named opentelemetry')")
    for command in ("run", "ingest", "worker"):
        done = subprocess.run(
            [PIPELINE, command],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": str(tmp_path),
                "PIPELINE_DATA_DIR": str(tmp_path / "data"),
                "PIPELINE_OTEL_ENDPOINT": "http://127.0.0.1:4318",
                "PIPELINE_KAFKA_BOOTSTRAP": "127.0.0.1:9",
            },
            timeout=180,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1
        assert "PIPELINE_OTEL_ENDPOINT" in done.stderr
        assert "otel" in done.stderr


def test_an_endpoint_that_is_no_address_is_refused() -> None:
    with pytest.raises(SettingError, match="PIPELINE_OTEL_ENDPOINT must be an http"):
        open_traces(load({}, otel_endpoint="collector:4318"), "test")
