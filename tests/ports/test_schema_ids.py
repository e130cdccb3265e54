"""The registry's promise: one id for one schema, for ever."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from deploy.process import free_port
from pipeline.contract.ports import SchemaIds, Unavailable
from pipeline.kafka.registry import HttpRegistry
from pipeline.log.registry_file import FileRegistry
from pipeline.settings import SettingError
from tests.answering import answered_by
from tests.fakes import FakeSchemaIds
from tests.lender import LentRegistry


@pytest.fixture(params=["fake", "file", pytest.param("http", marks=pytest.mark.registry)])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], SchemaIds]:
    if request.param == "fake":
        fake = FakeSchemaIds()
        return lambda: fake
    if request.param == "file":
        return lambda: FileRegistry(tmp_path / "registry.json")
    url = request.getfixturevalue("registry").url
    return lambda: Registering(url, tmp_path / "cache.json")


class Registering:
    """The HTTP registry, registering what it is asked for as `pipeline topics apply` does before."""

    def __init__(self, url: str, cache: Path) -> None:
        self._registry = HttpRegistry(url, cache)

    def id_of(self, subject: str, schema: str) -> int:
        self._registry.register(f"{subject}-{schema}", schema_named(schema))
        return self._registry.id_of(f"{subject}-{schema}", schema_named(schema))

    def schema_of(self, schema_id: int) -> str:
        return str(json.loads(self._registry.schema_of(schema_id))["name"])


def schema_named(name: str) -> str:
    return json.dumps({"type": "record", "name": name, "fields": []})


def test_an_id_stays_the_same_after_a_restart_and_beside_new_ones(opened: Callable[[], SchemaIds]) -> None:
    first = opened()
    ids = {schema: first.id_of("s", schema) for schema in ("a", "b")}
    again = opened()
    again.id_of("s", "c")
    assert {schema: again.id_of("s", schema) for schema in ("a", "b")} == ids
    assert again.schema_of(ids["a"]) == "a"


def test_an_id_that_was_never_given_is_unknown(opened: Callable[[], SchemaIds]) -> None:
    with pytest.raises(KeyError):
        opened().schema_of(99_999)


def test_two_processes_that_register_at_once_get_different_ids(tmp_path: Path) -> None:
    one, two = FileRegistry(tmp_path / "r.json"), FileRegistry(tmp_path / "r.json")
    assert one.id_of("s", "a") != two.id_of("s", "b")
    assert two.id_of("s", "a") == one.id_of("s", "a")


def test_a_known_schema_needs_no_writable_place_but_a_new_one_does(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "r.json"
    with pytest.raises(Unavailable):
        FileRegistry(path).id_of("s", "a")


@pytest.mark.registry
def test_an_absent_registry_stops_nothing_that_was_known(registry: LentRegistry, tmp_path: Path) -> None:
    schema = schema_named("known")
    given = HttpRegistry(registry.url, tmp_path / "cache.json").register("known-value", schema)
    text = (tmp_path / "cache.json").read_text()
    away = f"http://127.0.0.1:{free_port()}/apis/ccompat/v7"
    (tmp_path / "cache.json").write_text(text.replace(registry.url, away))
    cached = HttpRegistry(away, tmp_path / "cache.json")
    assert cached.id_of("known-value", schema) == given
    assert cached.schema_of(given) == schema
    with pytest.raises(Unavailable, match="PIPELINE_REGISTRY_URL"):
        cached.id_of("new-value", schema_named("new"))


@pytest.mark.registry
def test_an_unregistered_schema_names_the_command_that_mends_it(
    registry: LentRegistry, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match="pipeline topics apply"):
        HttpRegistry(registry.url, tmp_path / "cache.json").id_of("never-value", schema_named("never"))


@pytest.mark.registry
def test_an_incompatible_schema_is_refused_with_what_to_do(registry: LentRegistry, tmp_path: Path) -> None:
    client = HttpRegistry(registry.url, tmp_path / "cache.json")
    field = {"name": "a", "type": "string"}
    client.register("grown-value", json.dumps({"type": "record", "name": "grown", "fields": []}))
    client.require_compatible("grown-value")
    with pytest.raises(SettingError, match="defaults only"):
        client.register("grown-value", json.dumps({"type": "record", "name": "grown", "fields": [field]}))


def test_a_cache_that_is_no_json_is_no_cache(tmp_path: Path) -> None:
    (tmp_path / "cache.json").write_text("{half")
    with pytest.raises(Unavailable):
        HttpRegistry(f"http://127.0.0.1:{free_port()}", tmp_path / "cache.json").schema_of(1)


def test_threads_that_learn_at_once_leave_a_whole_cache(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    one = HttpRegistry(url, tmp_path / "cache.json")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: one._learn(number, schema_named(f"s{number}")), range(50)))
    again = HttpRegistry(url, tmp_path / "cache.json")
    assert [again.schema_of(number) for number in range(50)] == [schema_named(f"s{n}") for n in range(50)]


class Answering(BaseHTTPRequestHandler):
    """Something that listens where the registry should."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        wants_login = self.headers["authorization"] != "Basic bWU6c2VjcmV0"
        status = 401 if self.path.startswith("/login") and wants_login else 200
        body = b'{"id": 7}' if self.path.startswith("/login") else unquote(self.path.split("/")[1]).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def answering() -> Iterator[str]:
    with answered_by(Answering) as url:
        yield url


@pytest.mark.parametrize("answer", ["<html>", "[]", "{}", "7"])
def test_an_address_that_answers_but_is_no_registry_names_the_setting(
    answering: str, tmp_path: Path, answer: str
) -> None:
    with pytest.raises(SettingError, match="PIPELINE_REGISTRY_URL"):
        HttpRegistry(f"{answering}/{answer}", tmp_path / "cache.json").id_of("s", schema_named("a"))


def test_a_registry_that_demands_a_login_gets_it_or_names_the_setting(answering: str, tmp_path: Path) -> None:
    url = f"{answering}/login"
    with pytest.raises(SettingError, match="PIPELINE_REGISTRY_USERNAME"):
        HttpRegistry(url, tmp_path / "cache.json").id_of("s", schema_named("a"))
    let_in = HttpRegistry(url, tmp_path / "cache.json", login=("me", "secret"))
    assert let_in.id_of("s", schema_named("a")) == 7
    assert "secret" not in (tmp_path / "cache.json").read_text()


@pytest.mark.parametrize(
    "url", ["registry:8080", "ftp://registry", "http://", "http://me:secret@registry:8080"]
)
def test_an_address_that_cannot_be_used_names_the_setting_and_shows_no_password(
    tmp_path: Path, url: str
) -> None:
    with pytest.raises(SettingError, match="PIPELINE_REGISTRY_URL") as refused:
        HttpRegistry(url, tmp_path / "cache.json")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("scheme", ["https", "HTTPS"])
def test_a_certificate_is_always_asked_for_where_there_is_one(tmp_path: Path, scheme: str) -> None:
    checked = HttpRegistry(f"{scheme}://registry", tmp_path / "cache.json")._tls
    assert isinstance(checked, ssl.SSLContext)
    assert (checked.verify_mode, checked.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_certificates_that_cannot_be_read_name_the_setting(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for file in ("ca.pem", "none.pem"):
        with pytest.raises(SettingError, match="PIPELINE_REGISTRY_CA_FILE"):
            HttpRegistry("https://registry", tmp_path / "cache.json", ca_file=str(tmp_path / file))
