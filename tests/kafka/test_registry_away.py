"""A registry that is away changes nothing for devices: records are framed when they are forwarded."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import ClassVar

import pytest

from deploy.process import free_port
from pipeline.commands.ingest import RAN_BEFORE
from pipeline.contract.codec import schema_text
from pipeline.contract.topics import load_schema, load_topics
from pipeline.settings import load
from pipeline.topology import UPLOADS
from tests.answering import answered_by
from tests.kafka.home import made_topics, settings_of
from tests.kafka.mock import MockCluster
from tests.kafka.running import Ingest, Worker, command, records
from tests.kafka.test_pitfalls import await_outcomes, put, sessions, upload
from tests.lender import LentKafka
from tests.load import Senders

pytestmark = pytest.mark.slow

SCHEMA_ID = 77
MANY = 20
"""Many more than can be spooled and not answered yet."""


class _Answering(BaseHTTPRequestHandler):
    """Answers with JSON."""

    def log_message(self, *_arguments: object) -> None:
        pass

    def _answer(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Registry(_Answering):
    """Knows one schema."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._answer({"id": SCHEMA_ID})

    def do_GET(self) -> None:
        self._answer({"schema": schema_text(load_schema(UPLOADS))})


class _AllKnown(_Answering):
    """Registers what it is asked for."""

    known: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        schema = json.loads(self.rfile.read(int(self.headers["content-length"])))["schema"]
        if schema not in self.known:
            self.known.append(schema)
        self._answer({"id": self.known.index(schema) + 1})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._answer({"compatibility": "FULL_TRANSITIVE"})


@pytest.mark.kafka
def test_a_worker_that_is_killed_while_the_registry_is_away_comes_back_and_counts_once(
    kafka: LentKafka, tmp_path: Path
) -> None:
    port = free_port()
    settings = settings_of(kafka, tmp_path / "data", registry_url=f"http://127.0.0.1:{port}")
    with made_topics(settings), ExitStack() as running:
        with answered_by(_AllKnown, port):
            assert command(settings, "topics", "apply").returncode == 0
            worker = running.enter_context(Worker(settings, tmp_path / "worker.log"))
            worker.await_assignment()
        put(settings, [upload(settings, number) for number in range(3)])
        await_outcomes(settings, 3)
        worker.signal(signal.SIGKILL)
        again = [upload(settings, number) for number in range(3)]
        put(settings, [*again, *(upload(settings, number) for number in range(3, 6))])
        worker.await_assignment(times=2)
        assert Counter(str(one["outcome"]) for one in await_outcomes(settings, 9)) == {
            "accepted": 6,
            "duplicate": 3,
        }
        assert sessions(settings) == {f"film-{number}": 1 for number in range(6)}
        assert worker.codes == [-signal.SIGKILL]


def test_an_ingest_that_never_reached_the_registry_spools_and_frames_later(tmp_path: Path) -> None:
    port = free_port()
    with MockCluster(UPLOADS, load_topics()[UPLOADS].partitions) as cluster:
        settings = load(
            {}, kafka_bootstrap=cluster.bootstrap, data_dir=tmp_path, registry_url=f"http://localhost:{port}"
        )
        (tmp_path / RAN_BEFORE).write_text(f"{cluster.bootstrap} ")
        with Ingest(settings) as ingest:
            senders = Senders()
            try:
                senders.to(ingest)
                senders.await_acknowledged(1)
                assert ingest.metric("pipeline_spooled_total") > 0
                assert ingest.metric("pipeline_forwarded_total") == 0
                with answered_by(_Registry, port):
                    ingest.await_forwarded()
                    end = time.monotonic() + 120
                    spooled = -1.0
                    while spooled != (spooled := ingest.metric("pipeline_spooled_total")):
                        assert time.monotonic() < end, "new uploads do not go to Kafka"
                        senders.await_acknowledged(len(senders.acknowledged) + MANY)
                    senders.stop()
                    ingest.await_forwarded()
                    stored = records(settings, UPLOADS)
            finally:
                senders.stop()
            assert set(senders.statuses) == {201}
            assert senders.acknowledged <= {row["value"]["session_id"] for row in stored}, "lost"
            assert ingest.stop() == 0
