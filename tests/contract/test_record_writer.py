"""Records are written value by value as fastavro writes them whole, whatever was written before."""

from __future__ import annotations

import io
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.contract import records
from pipeline.contract.record_writer import Writer
from pipeline.contract.records import SessionEvent
from pipeline.contract.topics import load_schema, load_topics
from pipeline.session.model import Details
from tests.contract.test_bytes import datum_of

pytestmark = pytest.mark.slow

LONG = "long " * 40
SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "string": st.sampled_from(["", "a", "film-1", "ü", LONG]) | st.text(st.characters(codec="utf-8")),
    "int": st.sampled_from([0, 1, -1, 2**31 - 1]) | st.integers(-(2**31), 2**31 - 1),
    "long": st.sampled_from([0, 1, 1_760_000_000_000]) | st.integers(-(2**63), 2**63 - 1),
    "double": st.sampled_from([0.0, -0.0, 1.0, 0.1, float("inf")]) | st.floats(allow_nan=False),
    "boolean": st.booleans(),
    "bytes": st.binary(max_size=200),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Return values of a type as our records hold them."""
    match kind:
        case str():
            return SCALARS[kind]
        case ["null", branch]:
            return st.none() | values(branch)
        case list():
            return st.one_of([values(branch) for branch in kind])
        case {"type": "array", "items": items}:
            return st.lists(values(items), max_size=3).map(tuple)
        case {"type": "map", "values": held}:
            return st.dictionaries(SCALARS["string"], values(held), max_size=3)
    fields = {field["name"]: values(field["type"]) for field in kind["fields"]}
    made = getattr(records, kind["name"])
    return st.builds(made, **fields) | st.fixed_dictionaries(
        {name: held for name, held in fields.items() if name not in made._field_defaults},
        optional={name: held for name, held in fields.items() if name in made._field_defaults},
    ).map(lambda given_: made(**given_))


@cache
def schema_of(topic: str) -> Any:
    """Return the schema of a topic as fastavro keeps it once it has parsed it."""
    return fastavro.parse_schema(load_schema(topic))


@cache
def values_of(topic: str) -> st.SearchStrategy[Any]:
    """Return records of a topic; they are described once, which takes longer than drawing one."""
    return values(load_schema(topic))


def whole(schema: Any, record: Any) -> bytes:
    """Return what fastavro makes of the record."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), datum_of(record), strict=True)
    return out.getvalue()


@pytest.mark.parametrize("topic", load_topics())
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_every_record_is_what_fastavro_writes(topic: str, data: st.DataObject) -> None:
    written = WRITER.of(load_schema(topic))
    record = data.draw(values_of(topic))
    expected = whole(schema_of(topic), record)
    for _ in range(2):  # the second time of what is kept
        assert written[record] == expected


WRITER = Writer()


@given(st.lists(values({"type": "array", "items": "string"}) | SCALARS["long"], min_size=10, max_size=60))
@settings(deadline=None)
def test_what_is_kept_is_bounded_and_forgotten(items: list[Any]) -> None:
    writer = Writer(most=3)
    for item in (*items, *items):
        kind = "long" if isinstance(item, int) else {"type": "array", "items": "string"}
        assert writer.of(kind)[item] == whole(kind, item)
        for held in (writer.of("long"), writer.of(["null", "long"])):
            assert isinstance(held, dict)
            assert len(held) <= 3


def test_threads_that_make_each_other_forget_write_the_same() -> None:
    writer = Writer(most=3)
    kind = ["null", "string"]
    held = writer.of(kind)
    assert isinstance(held, dict)
    texts = [None, *(str(number) for number in range(200))]
    expected = [whole(kind, text) for text in texts]

    def write_all() -> bool:
        return all([held[text] for text in texts] == expected for _ in range(50))

    with ThreadPoolExecutor(4) as pool:
        pause_s = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            assert all(done.result() for done in [pool.submit(write_all) for _ in range(4)])
        finally:
            sys.setswitchinterval(pause_s)


def test_equal_values_of_other_types_and_signs_are_told_apart() -> None:
    schema = load_schema("media.events")
    item = next(field for field in schema["fields"] if field["name"] == "events")["type"]["items"]
    written = Writer().of(item)
    details: list[Details] = [
        {"x": 1},
        {"x": 1.0},
        {"x": True},
        {"x": "1"},
        {"x": 0},
        {"x": False},
        {"x": -0.0},
    ]
    events = [SessionEvent(0, "play", 0, playhead, held) for held in details for playhead in (0.0, -0.0, 1.0)]
    assert [written[event] for event in (*events, *events)] == [whole(item, e) for e in (*events, *events)]
    assert len({written[event] for event in events}) == len(events)


def test_a_value_of_another_type_is_refused_also_when_an_equal_one_is_kept() -> None:
    writer = Writer()
    assert writer.of("string")["1"]
    with pytest.raises(TypeError):
        writer.of("string")[1]
    with pytest.raises(TypeError):
        writer.of("long")[None]
    with pytest.raises(ValueError, match="no record of ours holds"):
        writer.of({"type": "fixed", "size": 3})
