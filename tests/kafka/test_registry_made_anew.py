"""A registry that was made anew gives other ids: the file of ids yields to it, and to nothing less."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import pytest
from structlog.testing import capture_logs

from deploy.process import free_port
from pipeline.kafka import registry as registry_module
from pipeline.kafka.registry import HttpRegistry
from tests.answering import answered_by

SCHEMAS = ("a", "b", "c")


class _Registry(BaseHTTPRequestHandler):
    """Has the schemas of `ids`."""

    ids: ClassVar[dict[str, int]] = {}
    status: ClassVar[int] = 200

    def do_POST(self) -> None:
        schema = json.loads(self.rfile.read(int(self.headers["content-length"])))["schema"]
        body = json.dumps({"id": self.ids[schema]} if schema in self.ids else {"error_code": 40403}).encode()
        self.send_response(self.status if schema in self.ids else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: Any) -> None:
        pass


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(registry_module, "CHECK_TIMEOUT_S", 60.0)
    _Registry.ids, _Registry.status = {"a": 1, "b": 2, "c": 3}, 200
    with answered_by(_Registry) as url:
        yield url


def ids_of(url: str, cache: Path) -> list[int]:
    """Return the ids that a process which starts now works with."""
    registry = HttpRegistry(url, cache)
    return [registry.id_of(f"{schema}-value", schema) for schema in SCHEMAS]


def connections(listener: socket.socket) -> int:
    """Return how many clients have connected, whether or not they are still there."""
    listener.setblocking(False)
    found = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            found += 1
    return found


def test_ids_that_the_registry_gives_no_more_are_replaced_with_an_error(url: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    assert ids_of(url, cache) == [1, 2, 3]
    for given in ({"a": 2, "b": 1, "c": 7}, {"a": 1, "b": 2, "c": 3}):
        _Registry.ids = given
        with capture_logs() as logged:
            assert ids_of(url, cache) == list(given.values())
        assert {(line["log_level"], line["event"]) for line in logged} == {("error", "schema_id_changed")}
        with capture_logs() as logged:
            assert ids_of(url, cache) == list(given.values())
        assert logged == [], "the file says the same now"


def test_records_with_ids_of_before_can_still_be_read(url: str, tmp_path: Path) -> None:
    ids_of(url, tmp_path / "cache.json")
    _Registry.ids = {"a": 11, "b": 12, "c": 13}
    again = HttpRegistry(url, tmp_path / "cache.json")
    assert again.id_of("a-value", "a") == 11
    assert [again.schema_of(number) for number in (1, 11)] == ["a", "a"]


def test_a_registry_that_has_lost_its_schemas_is_an_error_and_stops_nothing(url: str, tmp_path: Path) -> None:
    ids_of(url, tmp_path / "cache.json")
    _Registry.ids = {}
    with capture_logs() as logged:
        assert ids_of(url, tmp_path / "cache.json") == [1, 2, 3]
    assert {line["event"] for line in logged} == {"schema_not_registered"}


@pytest.mark.parametrize("status", [401, 403, 500, 503])
def test_an_answer_that_is_none_changes_nothing(url: str, tmp_path: Path, status: int) -> None:
    ids_of(url, tmp_path / "cache.json")
    _Registry.ids, _Registry.status = {"a": 7, "b": 8, "c": 9}, status
    with capture_logs() as logged:
        assert ids_of(url, tmp_path / "cache.json") == [1, 2, 3]
    assert logged == []


def test_a_registry_that_is_away_or_hangs_delays_a_start_once(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_module, "CHECK_TIMEOUT_S", 0.3)
    ids_of(url, tmp_path / "cache.json")
    known = (tmp_path / "cache.json").read_text()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for port in (silent.getsockname()[1], free_port()):
            elsewhere = f"http://127.0.0.1:{port}"
            (tmp_path / "cache.json").write_text(known.replace(url, elsewhere))
            assert ids_of(elsewhere, tmp_path / "cache.json") == [1, 2, 3]
        assert connections(silent) == 1, "asked for one schema, it is not waited for with the others"
