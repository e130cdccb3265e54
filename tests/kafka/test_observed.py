"""The services on Kafka as an operator sees them: one trace through all of them, metrics, logs, health."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from deploy.probe import is_healthy
from deploy.process import free_port
from deploy.services import PIPELINE, Supervised
from pipeline.settings import Settings
from pipeline.wire.encode import to_media_collection
from tests.collector import Collector, Span, collecting
from tests.kafka.checkout import copied, with_text
from tests.kafka.home import PARTITIONS, made_topics, remove_records, settings_of
from tests.kafka.running import (
    LONG_SESSION_S,
    Ingest,
    Worker,
    copies_of,
    environ,
    records,
    settled,
    take_overs,
)
from tests.kafka.test_pitfalls import put, upload
from tests.lender import LentKafka
from tests.stories import story

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = {
    "content-type": "application/json",
    "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
}
ACCEPTED_ONE = r'pipeline_outcomes_total\{outcome="accepted"\} 1\.0'
BODY = to_media_collection(story("0 start, 0 play, 10 end"))
BODIES = (BODY, BODY, b"{}")
"""Accepted, a duplicate, a dead letter."""
PATIENT_S = 180.0


def test_one_trace_goes_through_ingest_kafka_and_worker_and_the_worker_tells_what_it_did(
    kafka: LentKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "worker.log"
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    with collecting() as collector:
        settings = dataclasses.replace(
            settings_of(kafka, tmp_path / "data", worker_port=free_port()), otel_endpoint=collector.url
        )
        with (
            made_topics(settings),
            Ingest(settings) as ingest,
            Worker(
                settings,
                log,
                worker_port=settings.worker_port,
                worker_session_timeout_s=LONG_SESSION_S,
            ) as worker,
        ):
            worker.await_assignment()
            with ingest.client() as client:
                for body in BODIES:
                    client.post("/api/v1/downloaded", content=body, headers=HEADERS)
            ingest.await_forwarded()
            assert settled(settings)["balances"]
            for topic in ("media.uploads", "media.sessions", "media.outcomes", "media.uploads.dlq"):
                found = records(settings, topic)
                assert {r["headers"]["traceparent"].split("-")[1] for r in found} == {TRACE}, topic
            (dead,) = [record["value"] for record in found]  # its key, and so its partition, is a new id
            requests, carried = await_spans(collector, len(BODIES))
            spans = requests + carried
            assert {s.service for s in spans if s.trace_id == TRACE} == {"pipeline-ingest", "pipeline-worker"}
            assert {s.parent_id for s in carried} == {s.span_id for s in requests}
            again = upload(settings, "again")
            put(settings, [again, again])
            see_the_worker(f"http://127.0.0.1:{settings.worker_port}", settings)
            assert listening(worker.process_id) == {settings.worker_port}, "Faust's web server is open"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    letter = next(line for line in lines if line["event"] == "dead_letter")
    assert (letter["topic"], letter["reason"]) == ("media.uploads", "invalid")
    assert (letter["partition"], letter["offset"]) == (dead["source_partition"], dead["source_offset"])
    taken = next(line for line in lines if line["event"] == "taken_over")
    assert (taken["logger"], len(taken["partitions"])) == ("pipeline.worker", PARTITIONS)


def await_spans(collector: Collector, number: int) -> tuple[list[Span], list[Span]]:
    """Return the spans of so many requests and of the uploads carried, once a transaction's is there, too."""
    end = time.monotonic() + PATIENT_S
    while True:
        spans = list(collector.spans)
        requests = [span for span in spans if span.name == "POST /api/v1/downloaded"]
        carried = [span for span in spans if span.name == "carry upload"]
        is_whole = len(requests) >= number and len({span.parent_id for span in carried}) >= number
        if is_whole and any(span.name == "transaction" for span in spans):
            return requests, carried
        assert time.monotonic() < end, [span.name for span in spans]
        time.sleep(0.1)


def listening(process_id: int) -> set[int]:
    """Return the ports that a process listens on."""
    connections = psutil.Process(process_id).net_connections("inet")
    return {one.laddr.port for one in connections if one.status == psutil.CONN_LISTEN}


def see_the_worker(base: str, settings: Settings) -> None:
    """Look at health and metrics of a worker that has carried four uploads, one of them twice at least."""
    assert await_healthy(f"{base}/health/live")
    assert await_healthy(f"{base}/health/ready")
    copies = copies_of(settings)
    assert (len(copies), copies.total() > 4) == (4, True)
    text = await_metrics(
        base,
        rf"pipeline_records_read_total {copies.total()}\.0",
        r"pipeline_lag_records 0\.0",
        *(rf'pipeline_partition_lag_records\{{partition="{number}"\}} 0\.0' for number in range(PARTITIONS)),
        # Two sessions, a duplicate and a rejected upload.
        is_whole=lambda text: sum(index_entries(text)) >= 4,
    )
    assert len(index_entries(text)) == PARTITIONS
    for line in (
        f"pipeline_redelivered_total {copies.total() - 4}.0",
        'pipeline_records_written_total{topic="media.sessions"} 2.0',
        'pipeline_outcomes_total{outcome="duplicate"} 1.0',
        'pipeline_outcomes_total{outcome="rejected"} 1.0',
        'pipeline_dead_letters_total{reason="invalid"} 1.0',
        "pipeline_lateness_seconds_count 2.0",
        "pipeline_lost_offsets_total 0.0",
    ):
        assert line in text, line
    assert re.search(r"^pipeline_transaction_seconds_count [1-9]", text, re.MULTILINE)
    assert re.search(r"^pipeline_batch_seconds_count [1-9]", text, re.MULTILINE)


def index_entries(text: str) -> list[float]:
    """Return how many entries the index of each partition has by these metrics."""
    found = re.findall(r"^pipeline_index_entries\{partition=\"\d+\"\} (\S+)$", text, re.MULTILINE)
    return [float(entries) for entries in found]


def await_metrics(base: str, *lines: str, is_whole: Callable[[str], bool] = lambda _text: True) -> str:
    """Return the metrics once all of these lines, as patterns, are among them."""
    end, text = time.monotonic() + PATIENT_S, ""
    while time.monotonic() < end:
        with contextlib.suppress(httpx.TransportError):  # it starts
            text = httpx.get(f"{base}/metrics", trust_env=False).text
            if all(re.search(f"^{line}$", text, re.MULTILINE) for line in lines) and is_whole(text):
                return text
        time.sleep(0.2)
    raise AssertionError(f"{lines} are not in\n{text}")


def test_uploads_that_retention_removed_unread_are_counted_and_an_alarm(
    kafka: LentKafka, tmp_path: Path
) -> None:
    settings = settings_of(kafka, tmp_path / "data", worker_port=free_port())
    serving = environ(settings, worker_port=settings.worker_port, worker_session_timeout_s=LONG_SESSION_S)
    base, log = f"http://127.0.0.1:{settings.worker_port}", tmp_path / "worker.log"
    with made_topics(settings):
        put(settings, [upload(settings, 0)])
        with Supervised([PIPELINE, "worker"], serving, log) as worker:
            await_metrics(base, ACCEPTED_ONE)
            assert worker.stop() == 0
        late = [upload(settings, number) for number in (1, 2, 3)]
        put(settings, late)
        partition = late[0][0].partition
        remove_records(settings, "media.uploads", partition, 3)
        with Supervised([PIPELINE, "worker"], serving, log):
            await_metrics(
                base, r"pipeline_lost_offsets_total 2\.0", ACCEPTED_ONE, r"pipeline_index_bytes [1-9].*"
            )
    lost = [json.loads(line) for line in log.read_text().splitlines() if '"offsets_lost"' in line]
    assert [(one["level"], one["topic"], one["partition"], one["offsets"]) for one in lost] == [
        ("error", "media.uploads", partition, 2)
    ]


def test_a_worker_without_partitions_is_ready_and_one_that_lost_its_own_lets_go_of_them(
    kafka: LentKafka, tmp_path: Path
) -> None:
    ports = [free_port(), free_port()]
    settings = settings_of(kafka, tmp_path / "data", partitions=1)
    with made_topics(settings), ExitStack() as running:
        for number, port in enumerate(ports):
            log = tmp_path / f"{number}.log"
            running.enter_context(Supervised([PIPELINE, "worker"], environ(settings, worker_port=port), log))
            assert await_healthy(f"http://127.0.0.1:{port}/health/ready"), log.read_text()
        put(settings, [upload(settings, 0)])
        assert settled(settings)["accepted"] == 1
        for port in ports:
            assert await_healthy(f"http://127.0.0.1:{port}/health/ready")
        end = time.monotonic() + PATIENT_S
        logs = [tmp_path / f"{number}.log" for number in (0, 1)]
        while sorted((take_overs(log) or [[]])[-1] for log in logs) != [[], [0]]:
            assert time.monotonic() < end, [take_overs(log) for log in logs]
            time.sleep(0.1)


def await_healthy(url: str, deadline_s: float = PATIENT_S) -> bool:
    """Return whether it is answered with 200 before the deadline."""
    end = time.monotonic() + deadline_s
    while not is_healthy(url):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.parametrize(
    ("file", "before", "hang"),
    [
        ("pipeline/topology.py", "        window_key = ", "        __import__('time').sleep(600)\n"),
        (
            "pipeline/worker/faust_worker.py",
            "            await carrier.take(",
            "            time.sleep(600)\n",
        ),
    ],
    ids=["a stage hangs", "the event loop hangs"],
)
def test_a_worker_that_makes_no_progress_ends_itself(
    kafka: LentKafka, tmp_path: Path, file: str, before: str, hang: str
) -> None:
    hung = with_text(copied(tmp_path / "hung"), file, before, hang + before)
    settings = settings_of(kafka, tmp_path / "data", worker_stall_s=5)
    log = tmp_path / "worker.log"
    session = {"worker_session_timeout_s": LONG_SESSION_S}
    with made_topics(settings), Ingest(settings) as ingest, Worker(settings, log, hung, **session) as worker:
        worker.await_assignment()
        with ingest.client() as client:
            client.post("/api/v1/downloaded", content=BODY, headers=HEADERS)
        end = time.monotonic() + PATIENT_S
        while not worker.codes:
            assert time.monotonic() < end, log.read_text()[-2000:]
            time.sleep(0.2)
        assert worker.codes[0] == 4
    assert '"event": "stuck"' in log.read_text()
