"""Whole uploads through all stages: every record is, byte for byte, what fastavro makes of its values."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.contract.codec import Codec
from pipeline.contract.record import StoredRecord
from pipeline.contract.records import Problem, Upload
from pipeline.contract.topics import load_schema, load_topics
from pipeline.contract.upload_writer import UploadWriter
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


def datum_of(value: Any) -> Any:
    """Return a record as fastavro takes it."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {name: datum_of(held) for name, held in value.items()}
    return [datum_of(item) for item in value] if isinstance(value, tuple) else value


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


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=70)
MAYBE = st.none() | TEXTS
UPLOADS = st.builds(
    Upload,
    upload_id=TEXTS,
    request_id=TEXTS,
    received_at_ms=st.integers(0, 2**53),
    form=st.sampled_from(["media_collection", "media_edge"]),
    path=st.sampled_from([DOWNLOADED, EDGE]),
    datastream_id=st.sampled_from(["default", ""]),
    content_type=st.sampled_from(["application/json", ""]),
    verdict=st.sampled_from(["accepted", "rejected"]),
    status=st.sampled_from([200, 201, 207, 400]),
    problems=st.sampled_from([(), (Problem("/0", "type", "must be"),), (Problem("", "x", "y", 0, "play"),)]),
    body=st.binary(max_size=300),
    event_index=st.none() | st.integers(0, 2),
    content_encoding=st.sampled_from([None, "gzip"]),
    user_agent=st.sampled_from([None, "", "Dalvik/2.1", "ü"]),
    client_ip=st.sampled_from([None, "10.0.0.0"]),
    reason=st.sampled_from([None, "", "invalid"]),
    truncated=st.booleans(),
    session_id=MAYBE,
    replay_id=st.sampled_from([None, None, None, "", "replay"]),
)


def test_uploads_go_the_short_way_until_their_schema_has_another_end() -> None:
    schema = load_schema("media.uploads")
    assert UploadWriter.fits(schema)
    campaign = {"name": "campaign", "type": ["null", "string"], "default": None}
    assert not UploadWriter.fits({**schema, "fields": [*schema["fields"], campaign]})


@given(st.lists(UPLOADS, min_size=1, max_size=8))
@settings(max_examples=300, deadline=None)
def test_uploads_that_have_much_alike_are_written_as_each_alone(uploads: list[Upload]) -> None:
    codec = Codec(FakeSchemaIds())
    parsed = fastavro.parse_schema(load_schema("media.uploads"))
    for upload in (*uploads, *uploads):
        out = io.BytesIO()
        fastavro.schemaless_writer(out, parsed, datum_of(upload), strict=True)
        value = codec.encode("media.uploads", upload)
        assert value[5:] == out.getvalue()
        assert codec.decode_record(Upload, value) == upload
