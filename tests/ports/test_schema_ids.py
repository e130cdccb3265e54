"""The registry's promise: one id for one schema, for ever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.contract.ports import SchemaIds, Unavailable
from pipeline.log.registry_file import FileRegistry
from tests.fakes import FakeSchemaIds


@pytest.fixture(params=["fake", "file"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], SchemaIds]:
    fake = FakeSchemaIds()
    return (lambda: fake) if request.param == "fake" else (lambda: FileRegistry(tmp_path / "registry.json"))


def test_an_id_stays_the_same_after_a_restart_and_beside_new_ones(opened: Callable[[], SchemaIds]) -> None:
    first = opened()
    ids = {schema: first.id_of("s", schema) for schema in ("a", "b")}
    again = opened()
    again.id_of("s", "c")
    assert {schema: again.id_of("s", schema) for schema in ("a", "b")} == ids
    assert again.schema_of(ids["a"]) == "a"


def test_an_id_that_was_never_given_is_unknown(opened: Callable[[], SchemaIds]) -> None:
    with pytest.raises(KeyError):
        opened().schema_of(99)


def test_two_processes_that_register_at_once_get_different_ids(tmp_path: Path) -> None:
    one, two = FileRegistry(tmp_path / "r.json"), FileRegistry(tmp_path / "r.json")
    assert one.id_of("s", "a") != two.id_of("s", "b")
    assert two.id_of("s", "a") == one.id_of("s", "a")


def test_a_known_schema_needs_no_writable_place_but_a_new_one_does(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "r.json"
    with pytest.raises(Unavailable):
        FileRegistry(path).id_of("s", "a")
