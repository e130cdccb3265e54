"""Released schemas: what breaks with one is found, and records go both ways between versions."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import fastavro
import pytest

from pipeline.contract import records, released
from pipeline.contract.codec import Codec
from pipeline.contract.topics import SCHEMAS_DIR, load_schema, load_topics
from pipeline.settings import SettingError
from tests.commands.serving import ROOT
from tests.contract.test_contract import example, record_class
from tests.fakes import FakeSchemaIds

UPLOADS = "media_uploads.v1.avsc"
RELEASES = [
    (topic, path) for topic, row in load_topics().items() for path in released.releases(row.schema_file)
]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the schemas that a test may change."""
    shutil.copytree(SCHEMAS_DIR, tmp_path / "schemas")
    return tmp_path / "schemas"


def change(schemas: Path, **changes: Any) -> None:
    """Change fields of the schema of uploads: None takes a field away, a dict updates or adds it."""
    path = schemas / UPLOADS
    schema = json.loads(path.read_text())
    for name, members in changes.items():
        held = next((f for f in schema["fields"] if f["name"] == name), None)
        if members is None:
            schema["fields"].remove(held)
        elif held is None:
            schema["fields"].append({"name": name, "doc": "New.", **members})
        else:
            held.update(members)
    path.write_text(json.dumps(schema))


def test_every_schema_agrees_with_its_released_versions() -> None:
    assert list(released.problems()) == []
    assert len({topic for topic, _ in RELEASES}) == len(load_topics())


def test_an_added_field_with_a_default_and_another_doc_are_no_break(copy: Path) -> None:
    change(copy, campaign={"type": ["null", "string"], "default": None}, status={"doc": "Other words."})
    assert list(released.problems(copy)) == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"campaign": {"type": "string"}}, "reader_field_missing_default_value: campaign"),
        ({"upload_id": None}, "reader_field_missing_default_value: upload_id"),
        ({"status": {"type": "long"}}, "type_mismatch"),
        ({"user_agent": {"type": "string"}}, "type_mismatch"),
        ({"truncated": {"type": "int"}}, "type_mismatch"),
    ],
)
def test_a_change_that_breaks_either_way_is_named(copy: Path, changes: dict[str, Any], why: str) -> None:
    change(copy, **changes)
    found = list(released.problems(copy))
    assert found
    assert all("media_uploads.v1" in problem for problem in found)
    assert any(why in problem for problem in found), found
    with pytest.raises(SettingError, match="next major version"):
        released.require_compatible(copy)


def test_a_schema_that_is_no_schema_or_was_never_released_is_named(copy: Path) -> None:
    (copy / UPLOADS).write_text("{}")
    assert "no Avro schema" in next(released.problems(copy))
    shutil.copy(SCHEMAS_DIR / UPLOADS, copy / UPLOADS)
    (copy / "released" / "media_uploads.v1.r1.avsc").unlink()
    for path in (copy / "released").glob("media_uploads.v1.r*.avsc"):
        path.unlink()
    assert "was never released" in next(released.problems(copy))


def test_only_what_has_changed_is_released_and_under_the_next_number(copy: Path) -> None:
    released.add(copy)
    assert released.add(copy) == []
    before = len(released.releases(UPLOADS, copy))
    change(copy, campaign={"type": ["null", "string"], "default": None})
    (made,) = released.add(copy)
    assert made.name == f"media_uploads.v1.r{before + 1}.avsc"
    assert list(released.problems(copy)) == []


def test_make_check_fails_on_a_schema_that_was_changed_incompatibly(tmp_path: Path) -> None:
    for name in ("pipeline", "schemas"):
        shutil.copytree(ROOT / name, tmp_path / name)
    change(tmp_path / "schemas", upload_id=None)
    (step,) = [
        line.split("python -m ")[1]
        for line in (ROOT / "Makefile").read_text().splitlines()
        if "released" in line and "python -m" in line
    ]
    command = [sys.executable, "-m", step]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "schemas/media_uploads.v1.avsc" in done.stderr
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


def known_to(schema: Any, value: Any) -> Any:
    """Return the value without the fields, at any depth, that this schema does not have."""
    if isinstance(schema, list):
        branches = [branch for branch in schema if branch != "null"]
        return value if value is None or len(branches) > 1 else known_to(branches[0], value)
    match schema:
        case {"type": "record", "fields": fields}:
            return {field["name"]: known_to(field["type"], value[field["name"]]) for field in fields}
        case {"type": "array", "items": items}:
            return [known_to(items, item) for item in value]
        case {"type": "map", "values": values}:
            return {key: known_to(values, item) for key, item in value.items()}
    return value


@pytest.mark.parametrize(("topic", "path"), RELEASES, ids=lambda value: getattr(value, "name", ""))
def test_what_a_released_schema_wrote_is_read_and_it_reads_what_is_written(topic: str, path: Path) -> None:
    ids = FakeSchemaIds()
    codec = Codec(ids)
    theirs = json.loads(path.read_text())
    old_names = {field["name"] for field in theirs["fields"]}
    written = io.BytesIO()
    fastavro.schemaless_writer(written, fastavro.parse_schema(theirs), example(topic))
    framed = b"\x00" + ids.id_of("s", json.dumps(theirs)).to_bytes(4, "big") + written.getvalue()
    read = codec.decode_record(record_class(topic), framed)
    assert codec.decode(framed).keys() == {field["name"] for field in load_schema(topic)["fields"]}
    for name in old_names:
        assert getattr(read, name) == getattr(record_class(topic).from_avro(example(topic)), name)
    now = codec.encode(topic, record_class(topic).from_avro(example(topic)))[5:]
    back = fastavro.schemaless_reader(io.BytesIO(now), load_schema(topic), theirs)
    assert back == known_to(theirs, example(topic))


def test_the_default_of_a_field_that_the_writer_did_not_know_is_filled_in() -> None:
    ids = FakeSchemaIds()
    older = json.loads(json.dumps(load_schema("media.uploads")))
    older["fields"] = [f for f in older["fields"] if f["name"] not in {"client_ip", "replay_id"}]
    written = io.BytesIO()
    fastavro.schemaless_writer(written, fastavro.parse_schema(older), example("media.uploads"))
    framed = b"\x00" + ids.id_of("s", json.dumps(older)).to_bytes(4, "big") + written.getvalue()
    value = Codec(ids).decode(framed)
    assert (value["client_ip"], value["replay_id"]) == (None, None)
    assert Codec(ids).decode_record(records.Upload, framed).replay_id is None


def test_a_record_of_our_own_schema_is_read_without_resolution() -> None:
    codec = Codec(FakeSchemaIds())
    value = codec.encode("media.uploads", record_class("media.uploads").from_avro(example("media.uploads")))
    codec.decode(value)
    ((_, reader),) = codec._readers.values()
    assert reader is None
