"""A registry that is away changes nothing for devices: records are framed when they are forwarded."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy.servers import free_port
from pipeline.commands.ingest import RAN_BEFORE
from pipeline.contract.codec import schema_text
from pipeline.contract.topics import load_schema, load_topics
from pipeline.settings import load
from pipeline.topology import UPLOADS
from tests.kafka.mock import MockCluster
from tests.kafka.running import Ingest, records
from tests.load import Senders

pytestmark = pytest.mark.slow

SCHEMA_ID = 77


class _Registry(BaseHTTPRequestHandler):
    """Knows one schema."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._answer({"id": SCHEMA_ID})

    def do_GET(self) -> None:
        self._answer({"schema": schema_text(load_schema(UPLOADS))})

    def log_message(self, *_arguments: object) -> None:
        pass

    def _answer(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


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
                time.sleep(2)
                assert ingest.metric("pipeline_spooled_total") > 0
                assert ingest.metric("pipeline_forwarded_total") == 0
                with ThreadingHTTPServer(("127.0.0.1", port), _Registry) as registry:
                    threading.Thread(target=registry.serve_forever).start()
                    try:
                        ingest.await_forwarded()
                        end = time.monotonic() + 20
                        spooled = -1.0
                        while spooled != (spooled := ingest.metric("pipeline_spooled_total")):
                            assert time.monotonic() < end, "new uploads do not go to Kafka"
                            time.sleep(1)
                        senders.stop()
                        ingest.await_forwarded()
                        stored = records(settings, UPLOADS)
                    finally:
                        registry.shutdown()
            finally:
                senders.stop()
            assert set(senders.statuses) == {201}
            assert senders.acknowledged <= {row["value"]["session_id"] for row in stored}, "lost"
            assert ingest.stop() == 0
