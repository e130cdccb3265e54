"""Whole uploads through all stages: every record is, byte for byte, what fastavro makes of its values."""

from __future__ import annotations

import io
from pathlib import Path

import fastavro
import pytest

from pipeline.contract.codec import Codec
from pipeline.contract.record import StoredRecord
from pipeline.contract.topics import load_schema, load_topics
from pipeline.stages.datastreams import OPEN_DIRECTORY
from pipeline.stages.receive import DOWNLOADED, EDGE, SESSIONS, Request
from pipeline.topology import Topology
from tests.fakes import FakeSchemaIds
from tests.shared import SHARED

ROOT = Path(__file__).resolve().parents[2]
BODIES = [
    *sorted((ROOT / "examples").glob("*.json")),
    *sorted((SHARED / "vectors/timelines").glob("*.request.json")),
    *sorted((SHARED / "corpus/mc").glob("*.json")),
    *sorted((SHARED / "corpus/edge").glob("*.json")),
]


def path_of(body: Path) -> str:
    if "edge" in {body.parent.name, body.name.partition("-")[0]}:
        return EDGE
    return SESSIONS if "sessions" in body.name else DOWNLOADED


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.stem)
def test_every_record_of_an_upload_is_what_fastavro_writes(body: Path) -> None:
    codec = Codec(FakeSchemaIds())
    topology = Topology(codec, load_topics(), OPEN_DIRECTORY)
    request = Request(path_of(body), body.read_bytes(), 1_800_000_000_000, "request", config_id="x")
    numbers = iter(range(99))
    uploads = topology.upload_records(topology.receive(request, lambda: f"upload-{next(numbers)}"))
    stored = [
        StoredRecord(r.topic, r.partition, n, r.key, r.value, r.timestamp_ms) for n, r in enumerate(uploads)
    ]
    processed = topology.process(stored, lambda keys: {}, 1_800_000_001_000)
    assert processed.faults == ()
    assert processed.records
    for record in (*uploads, *processed.records):
        assert record.value is not None
        out = io.BytesIO(record.value[:5])
        out.seek(5)
        parsed = fastavro.parse_schema(load_schema(record.topic))
        fastavro.schemaless_writer(out, parsed, codec.decode(record.value), strict=True)
        assert record.value == out.getvalue(), record.topic
