"""The contract: generated records, framing, examples, topics, the partitioner."""

from __future__ import annotations

import io
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import fastavro
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.contract import records
from pipeline.contract.codec import Codec, Undecodable
from pipeline.contract.generate import RECORDS, generated
from pipeline.contract.partition import murmur2, partition_of
from pipeline.contract.topics import SCHEMAS_DIR, load_schema, load_topics
from tests.fakes import FakeSchemaIds

TOPICS = load_topics()
EXAMPLES = SCHEMAS_DIR / "examples"


def example(topic: str) -> dict[str, Any]:
    name = TOPICS[topic].schema_file.removesuffix(".avsc")
    found: dict[str, Any] = json.loads((EXAMPLES / f"{name}.json").read_text(), object_hook=_with_bytes)
    return found


def _with_bytes(value: dict[str, Any]) -> Any:
    return value["bytes"].encode() if set(value) == {"bytes"} else value


def record_class(topic: str) -> Any:
    return getattr(records, load_schema(topic)["name"])


def test_the_records_are_what_the_schemas_give() -> None:
    assert RECORDS.read_text() == generated()


@pytest.mark.parametrize("topic", TOPICS)
def test_the_example_of_a_topic_survives_encoding(topic: str) -> None:
    record = record_class(topic).from_avro(example(topic))
    codec = Codec(FakeSchemaIds())
    value = codec.encode(topic, record)
    assert value[0] == 0
    assert codec.decode_record(record_class(topic), value) == record
    assert codec.decode(value) == example(topic)


def _values(kind: Any, named: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return values of an Avro type, as fastavro reads them."""
    match kind:
        case "null":
            return st.none()
        case "string":
            return st.text(max_size=70)
        case "bytes":
            return st.binary(max_size=9_000)
        case "int":
            return st.integers(-(2**31), 2**31 - 1)
        case "long":
            return st.integers(-(2**63), 2**63 - 1)
        case "double":
            return st.floats(allow_nan=False)
        case "boolean":
            return st.booleans()
        case list():
            return st.one_of([_values(branch, named) for branch in kind])
        case {"type": "record"}:
            named[kind["name"]] = kind
            return st.fixed_dictionaries({f["name"]: _values(f["type"], named) for f in kind["fields"]})
        case {"type": "array"}:
            return st.lists(_values(kind["items"], named), max_size=3)
        case {"type": "map"}:
            return st.dictionaries(st.text(max_size=200), _values(kind["values"], named), max_size=3)
    return _values(named[kind.rpartition(".")[2]], named)


@cache
def values_of(topic: str) -> st.SearchStrategy[Any]:
    """Return records of a topic; they are described once, which takes longer than drawing one."""
    return _values(load_schema(topic), {})


@pytest.mark.parametrize("topic", TOPICS)
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_record_survives_encoding(topic: str, data: st.DataObject) -> None:
    values = data.draw(values_of(topic))
    record = record_class(topic).from_avro(values)
    codec = Codec(FakeSchemaIds())
    value = codec.encode(topic, record)
    assert codec.decode_record(record_class(topic), value) == record
    assert codec.decode(value) == values


def test_another_record_than_the_topics_is_an_error() -> None:
    day = record_class("media.days.changed").from_avro(example("media.days.changed"))
    with pytest.raises(TypeError):
        Codec(FakeSchemaIds()).encode("media.outcomes", day)


def test_every_schema_has_a_topic_and_every_example_a_schema() -> None:
    files = {path.name for path in SCHEMAS_DIR.glob("*.avsc")}
    assert files == {topic.schema_file for topic in TOPICS.values()}
    assert {path.stem for path in EXAMPLES.glob("*.json")} == {name.removesuffix(".avsc") for name in files}


def _docs(schema: Any, place: str) -> list[str]:
    if isinstance(schema, list):
        return [missing for branch in schema for missing in _docs(branch, place)]
    if not isinstance(schema, dict):
        return []
    missing = [] if schema["type"] != "record" or schema.get("doc") else [place]
    for field in schema.get("fields", ()):
        missing += [] if field.get("doc") else [f"{place}.{field['name']}"]
        missing += _docs(field["type"], f"{place}.{field['name']}")
    return missing + _docs(schema.get("items"), place) + _docs(schema.get("values"), place)


@pytest.mark.parametrize("path", sorted(SCHEMAS_DIR.glob("*.avsc")), ids=lambda path: path.name)
def test_every_record_and_field_has_a_doc(path: Path) -> None:
    schema = json.loads(path.read_text())
    fastavro.parse_schema(schema)
    assert _docs(schema, schema["name"]) == []


def test_an_optional_field_can_be_added_without_breaking_old_readers() -> None:
    topic = "media.days.changed"
    newer = json.loads(json.dumps(load_schema(topic)))
    newer["fields"].append({"name": "extra", "type": ["null", "string"], "default": None, "doc": "New."})
    ids = FakeSchemaIds()
    codec = Codec(ids)
    old_value = codec.encode(topic, record_class(topic).from_avro(example(topic)))
    assert codec.decode_record(record_class(topic), old_value) is not None
    new_id = ids.id_of("s", json.dumps(newer))
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(newer), {**example(topic), "extra": "x"})
    framed = b"\x00" + new_id.to_bytes(4, "big") + out.getvalue()
    assert codec.decode_record(record_class(topic), framed) == record_class(topic).from_avro(example(topic))


@pytest.mark.parametrize(
    "value", [None, b"", b"\x00\x00", b"\x01\x00\x00\x00\x01x", b"\x00\x00\x00\x00\x09x"]
)
def test_what_is_no_framed_record_is_undecodable(value: bytes | None) -> None:
    with pytest.raises(Undecodable):
        Codec(FakeSchemaIds()).decode(value)


def test_bytes_after_a_record_are_undecodable() -> None:
    codec = Codec(FakeSchemaIds())
    value = codec.encode(
        "media.days.changed", record_class("media.days.changed").from_avro(example("media.days.changed"))
    )
    for broken in (value + b"x", value[:-1]):
        with pytest.raises(Undecodable):
            codec.decode(broken)


@pytest.mark.parametrize(
    ("key", "expected"),
    # Results of Kafka's own Java client for these keys.
    [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536)],
)
def test_the_partitioner_is_that_of_kafkas_java_clients(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected & 0xFFFFFFFF
    assert 0 <= partition_of(key, 24) < 24


def test_the_index_lives_on_as_many_partitions_as_the_uploads() -> None:
    assert TOPICS["media.index"].partitions == TOPICS["media.uploads"].partitions
    assert TOPICS["media.index"].cleanup == {"compact", "delete"}
    assert TOPICS["media.index"].placed_by == "upload"


def test_what_lies_on_the_partition_of_its_upload_finds_that_partition() -> None:
    follow = {name for name, topic in TOPICS.items() if topic.placed_by == "upload"}
    assert set(TOPICS) - follow == {"media.uploads", "media.days.changed"}
    assert {TOPICS[name].partitions for name in follow} == {TOPICS["media.uploads"].partitions}


def test_every_topic_takes_a_record_as_large_as_the_body_limit_allows() -> None:
    assert TOPICS["media.uploads"].max_record_bytes(4_194_304) > 4_194_304


def test_every_kind_of_index_entry_that_is_written_is_in_the_contract() -> None:
    sources = [path.read_text() for path in (SCHEMAS_DIR.parent / "pipeline").rglob("*.py")]
    kinds = {kind for text in sources for kind in re.findall(r"IndexEntry\(\s*kind=\"(\w+)\"", text)}
    assert kinds >= {"session", "upload", "position", "window", "owner", "rebuilt", "migration"}
    schema = load_schema("media.index")
    said = next(field["doc"] for field in schema["fields"] if field["name"] == "kind")
    assert [kind for kind in sorted(kinds) if kind not in said or f"{kind}:" not in schema["doc"]] == []
