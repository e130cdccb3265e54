"""The HTTP service over a real ASGI transport, on a fake log: statuses, headers, durability, limits."""

from __future__ import annotations

import gzip
import json
import re
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import zstandard

from pipeline.contract.codec import Codec
from pipeline.contract.positions import position_maker
from pipeline.contract.topics import load_topics
from pipeline.ingest.app import App, Door
from pipeline.ingest.body import decompress
from pipeline.ingest.clientip import ClientIp
from pipeline.ingest.limits import Limits
from pipeline.metrics import Meters
from pipeline.stages import receive
from pipeline.stages.datastreams import OPEN_DIRECTORY, Directory
from pipeline.topology import Topology
from pipeline.wire.encode import to_media_collection, to_media_edge
from pipeline.wire.problems import MOST_ITEMS
from pipeline.wire.schemas import EVENT_TYPES
from tests.fakes import FakeLog, FakeSchemaIds
from tests.homes.uploading import make_pipeline
from tests.stories import story

GOOD = to_media_collection(story("0 start, 0 play, 9 end"))
LIMIT = 20_000


class Asked:
    """The service with what it stored; requests run on a loop of their own."""

    def __init__(
        self,
        directory: Directory = OPEN_DIRECTORY,
        *,
        quota: int = 10_000_000,
        client_ip: ClientIp = ClientIp.NONE,
    ) -> None:
        self.codec = Codec(FakeSchemaIds())
        self.log = FakeLog(position_maker(self.codec))
        self.meters = Meters()
        topology = Topology(self.codec, load_topics(), directory)
        self.now = 1_000.0
        self.limits = Limits({d.id: d for d in directory.datastreams}, quota, 3)
        self.door = Door(
            topology,
            self.log,
            self.meters,
            LIMIT,
            1.0,
            "/first-party",
            limits=self.limits,
            client_ip=client_ip,
            monotonic=lambda: self.now,
        )
        self.app = App(self.door)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
                return await client.request(method, path, **options)

        return anyio.run(ask)

    def post(self, body: bytes, path: str = receive.DOWNLOADED, **headers: str) -> httpx.Response:
        return self.request(
            "POST",
            path,
            content=body,
            headers={"content-type": "application/json"}
            | {k.replace("_", "-"): v for k, v in headers.items()},
        )

    def uploads(self) -> list[dict[str, Any]]:
        rows = [
            r for (topic, _), rows in self.log.disk.records.items() if topic == "media.uploads" for r in rows
        ]
        return [self.codec.decode(row.value) for row in rows]


@pytest.fixture
def door() -> Asked:
    return Asked()


def test_a_good_upload_is_created_with_its_location_and_cors(door: Asked) -> None:
    answer = door.post(GOOD)
    assert (answer.status_code, answer.content) == (201, b"")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert len(answer.headers["location"].removeprefix("/api/v1/sessions/")) == 64
    assert answer.headers["access-control-expose-headers"] == "Location"
    assert "deprecation" not in answer.headers


def test_the_deprecated_array_is_accepted_and_says_so(door: Asked) -> None:
    body = json.loads(GOOD)
    body[0]["params"]["media.downloaded"] = True
    answer = door.post(json.dumps(body).encode(), receive.SESSIONS)
    assert answer.status_code == 201
    assert "deprecation" in answer.headers
    assert 'rel="successor-version"' in answer.headers["link"]


def test_the_configured_prefix_serves_the_same_paths(door: Asked) -> None:
    assert door.post(GOOD, "/first-party" + receive.DOWNLOADED).status_code == 201
    assert door.post(GOOD, "/other" + receive.DOWNLOADED).status_code == 404


@pytest.mark.parametrize("path", ["/ee/va/v1/downloaded", "/ee/irl1/va/v1/downloaded"])
def test_an_edge_upload_gets_its_handles_and_its_request_id(door: Asked, path: str) -> None:
    body = b'{"events": [' + to_media_edge(story("0 start, 9 end")) + b"]}"
    answer = door.post(body, f"{path}?configId=any&requestId=4e7c")
    assert answer.status_code == 200
    found = answer.json()
    assert found["requestId"].startswith("4e7c-")
    assert [handle["type"] for handle in found["handle"]] == ["locationHint:result", "state:store"]
    assert "errors" not in found


@pytest.mark.parametrize(
    ("coding", "pack"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("zstd", zstandard.ZstdCompressor().compress),
    ],
)
def test_a_compressed_upload_is_read_and_stored_plain(
    door: Asked, coding: str, pack: Callable[[bytes], bytes]
) -> None:
    assert door.post(pack(GOOD), content_encoding=coding).status_code == 201
    (upload,) = door.uploads()
    assert (upload["body"], upload["content_encoding"]) == (GOOD, coding)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
def test_a_bomb_is_413_with_bounded_bytes_kept(door: Asked, coding: str) -> None:
    plain = b" " * (200 * LIMIT)
    pack: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.compress,
        "deflate": zlib.compress,
        "zstd": zstandard.ZstdCompressor().compress,
    }
    answer = door.post(pack[coding](plain), content_encoding=coding)
    assert answer.status_code == 413
    (upload,) = door.uploads()
    assert (upload["truncated"], upload["reason"]) == (True, "body_too_large")
    assert len(upload["body"]) <= LIMIT


def test_a_zstd_frame_that_declares_little_and_never_ends_takes_bounded_memory() -> None:
    limit = 4 * 1024 * 1024
    # A window of 128 KiB, and blocks of so many equal bytes, none of them the last.
    start = zstandard.MAGIC_NUMBER.to_bytes(4, "little") + b"\x80\x38" + limit.to_bytes(4, "little")
    block = ((128 * 1024) << 3 | 1 << 1).to_bytes(3, "little") + b" "
    tracemalloc.start()
    body = decompress(start + block * 2_000, "zstd", limit)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (body.truncated, len(body.data)) == (True, limit)
    assert most < 4 * limit


REFUSED: dict[str, tuple[bytes, dict[str, str], int, str]] = {
    "not JSON": (b"nonsense", {}, 400, "invalid"),
    "another content type": (GOOD, {"content_type": "application/xml"}, 415, "content_type"),
    "an unknown coding": (GOOD, {"content_encoding": "br"}, 415, "content_encoding"),
    "cut off gzip": (gzip.compress(GOOD)[:-9], {"content_encoding": "gzip"}, 400, "content_encoding"),
    "too large": (b"[" + b" " * LIMIT, {}, 413, "body_too_large"),
    "an empty body": (b"", {}, 400, "invalid"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_upload_is_kept_with_its_verdict_before_the_answer(door: Asked, name: str) -> None:
    body, headers, status, reason = REFUSED[name]
    answer = door.post(body, **headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["errors"]
    (upload,) = door.uploads()
    assert (upload["verdict"], upload["reason"], upload["status"]) == ("rejected", reason, status)
    assert upload["body"] == body[:LIMIT]
    assert door.log.actions == ["stored media.uploads"]


BAD_JSON: dict[str, tuple[bytes, str]] = {
    "NaN": (GOOD.replace(b'"playhead":0', b'"playhead":NaN', 1), "json"),
    "Infinity": (GOOD.replace(b'"playhead":0', b'"playhead":Infinity', 1), "json"),
    "1e400": (GOOD.replace(b'"playhead":0', b'"playhead":1e400', 1), "json"),
    "10^5000": (GOOD.replace(b'"playhead":0', b'"playhead":1' + b"0" * 5_000, 1), "json"),
    "2^64": (GOOD.replace(b'"playhead":0', b'"playhead":18446744073709551616', 1), "maximum"),
    "a key twice": (GOOD.replace(b'"playhead":', b'"playhead":9,"playhead":', 1), "duplicate_key"),
    "a key twice, once escaped": (
        GOOD.replace(b'"playhead":', b'"pl\\u0061yhead":9,"playhead":', 1),
        "duplicate_key",
    ),
    "bytes that are not UTF-8": (GOOD.replace(b"film-1", b"film\xff"), "json"),
    "bytes that are not UTF-8, in what nobody reads": (
        GOOD.replace(b'"media.id"', b'"unheard":"\xff","media.id"'),
        "json",
    ),
    "half a surrogate pair": (GOOD.replace(b"film-1", b"\\ud800"), "json"),
    "a byte order mark": (b"\xef\xbb\xbf" + GOOD, "json"),
    "UTF-16": (GOOD.decode().encode("utf-16"), "json"),
    "a tail": (GOOD + b"x", "json"),
    "deep": (b"[" * 9_000 + b"]" * 9_000, "json"),
    "deep, in what nobody reads": (
        GOOD.replace(b'"media.id"', b'"unheard":' + b"[" * 8_000 + b"]" * 8_000 + b',"media.id"'),
        "json",
    ),
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_json_that_parsers_disagree_about_is_a_durable_refusal(door: Asked, name: str) -> None:
    body, rule = BAD_JSON[name]
    assert body != GOOD
    answer = door.post(body)
    assert (answer.status_code, answer.json()["errors"][0]["rule"]) == (400, rule)
    (upload,) = door.uploads()
    assert (upload["reason"], upload["body"]) == ("invalid", body)
    item = b'{"events": [' + body + b"]}"
    answer = door.post(item, receive.EDGE + "?configId=any")
    assert answer.status_code in (207, 400)
    assert b"pipeline_internal_errors_total{" not in door.meters.text()


def test_a_key_that_stands_twice_is_named_with_its_place(door: Asked) -> None:
    body = json.dumps(json.loads(GOOD)).encode().replace(b'"ts":', b'"ts": 1, "ts":', 2)
    assert door.post(body).json()["errors"][0]["pointer"] == "/0/playerTime/ts"
    item = to_media_edge(story("0 start, 9 end")).replace(b'"playhead":', b'"playhead":1,"playhead":', 1)
    answer = door.post(b'{"events": [' + item + b"]}", receive.EDGE + "?configId=any")
    assert answer.status_code == 207
    (detail,) = answer.json()["errors"][0]["report"]["details"]
    assert detail["name"] == "$.xdm.mediaDownloadedEvents[0].mediaCollection.playhead"


@pytest.mark.parametrize("around", [b'"meta":1,"meta":{"a":2},', b'"meta":{"a":1,"a":2},'])
def test_an_edge_request_with_a_key_twice_beside_its_items_is_refused_whole(
    door: Asked, around: bytes
) -> None:
    item = to_media_edge(story("0 start, 9 end"))
    for fine in (b"", b'"meta":{"a":1},"more":[{"a":1}],'):
        body = b"{" + fine + b'"events": [' + item + b', {"a":1,"a":2} ]}'
        assert door.post(body, receive.EDGE + "?configId=any").status_code == 207
    answer = door.post(b"{" + around + b'"events":[' + item + b"]}", receive.EDGE + "?configId=any")
    assert (answer.status_code, answer.json()["type"].rsplit("/", 1)[1]) == (400, "EXEG-0101-400")
    assert door.uploads()[-1]["reason"] == "invalid"


@pytest.mark.parametrize("key", [b"events", b"\\u0065vents"])
def test_sessions_cannot_hide_behind_a_second_list_of_events(door: Asked, key: bytes) -> None:
    item = to_media_edge(story("0 start, 9 end"))
    body = b'{"' + key + b'": [' + item + b'], "events": [' + item + b"]}"
    answer = door.post(body, receive.EDGE + "?configId=any")
    assert (answer.status_code, answer.json()["type"].rsplit("/", 1)[1]) == (400, "EXEG-0101-400")
    assert door.uploads()[0]["body"] == body


def test_a_request_of_too_many_items_is_refused_and_kept_as_one_upload() -> None:
    codec = Codec(FakeSchemaIds())
    pipeline = make_pipeline(FakeLog(position_maker(codec)), codec)
    bodies = [b'{"events":[' + b",".join([b"{}"] * (MOST_ITEMS + more)) + b"]}" for more in (0, 1)]
    assert pipeline.send(bodies[0], receive.EDGE).status == 207
    refused = pipeline.send(bodies[1], receive.EDGE)
    found = json.loads(refused.body)
    assert (refused.status, found["type"].rsplit("/", 1)[1]) == (400, "EXEG-0102-400")
    assert found["report"]["errors"][0]["name"] == "$.events"
    pipeline.carry()
    letters = pipeline.values("media.uploads.dlq")
    assert len(letters) == MOST_ITEMS + 1
    (whole,) = [letter for letter in letters if letter["event_index"] is None]
    assert (whole["reason"], bytes(whole["body"])) == ("invalid", bodies[1])
    assert [problem["rule"] for problem in whole["problems"]] == ["too_many_items"]


def test_when_nothing_can_be_stored_the_answer_is_503_with_retry_after(door: Asked) -> None:
    door.log.broken = True
    for path in (receive.DOWNLOADED, receive.EDGE + "?configId=any"):
        answer = door.post(GOOD, path)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0


def test_a_log_that_never_acknowledges_is_503_before_the_device_gives_up(door: Asked) -> None:
    async def never(_records: object) -> None:
        await anyio.sleep(60)

    door.log.store = never  # type: ignore[method-assign,assignment]  # a log that hangs
    answer = door.post(GOOD)
    assert answer.status_code == 503


def test_an_unexpected_exception_is_kept_and_answered_with_success(
    door: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object) -> str:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(receive, "visitor_key_of", broken)
    assert door.post(GOOD).status_code == 201
    (upload,) = door.uploads()
    assert (upload["verdict"], upload["reason"], upload["body"]) == ("rejected", "internal_error", GOOD)
    assert b'pipeline_internal_errors_total{part="ingest"} 1.0' in door.meters.text()


def test_preflight_is_answered_as_documented(door: Asked) -> None:
    answer = door.request("OPTIONS", receive.DOWNLOADED)
    assert answer.status_code == 200
    assert {name: value for name, value in answer.headers.items() if name.startswith("access-control")} == {
        "access-control-allow-origin": "*",
        "access-control-allow-methods": "OPTIONS,POST,PUT",
        "access-control-allow-headers": "Content-Type",
        "access-control-expose-headers": "Location",
    }
    assert door.log.actions == []


def test_a_page_may_send_the_headers_that_edge_knows(door: Asked) -> None:
    answer = door.request("OPTIONS", receive.EDGE)
    assert answer.headers["access-control-allow-headers"] == "Content-Type,x-api-key,x-request-id"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", [receive.DOWNLOADED, receive.SESSIONS, receive.EDGE])
def test_other_methods_are_405_with_allow_and_keep_nothing(door: Asked, method: str, path: str) -> None:
    answer = door.request(method, path, content=GOOD)
    assert (answer.status_code, answer.headers["allow"]) == (405, "OPTIONS, POST")
    assert answer.headers["content-type"] == "application/problem+json"
    assert door.log.actions == []


@pytest.mark.parametrize("path", ["/schemas", "/schemas/ping"])
def test_other_methods_on_pages_are_405_with_allow(door: Asked, path: str) -> None:
    answer = door.request("POST", "/api/v1" + path)
    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api/v1/nothing",
        "/api/v1/downloaded/",
        "/api/v1/sessions/",
        "//api/v1/sessions",
        "/api/v1/sessions/abc/events",
        "/ee//va/v1/downloaded",
        "/ee/a/b/va/v1/downloaded",
        "/ee/va/v1/downloaded/",
        "/api/v1/schemas/nothing",
    ],
)
def test_other_paths_are_404_without_redirect_and_keep_nothing(door: Asked, path: str) -> None:
    answer = door.request("GET" if "schemas" in path else "POST", path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.json()["status"] == 404
    assert door.log.actions == []


@pytest.mark.parametrize("hint", ["or2", "va6", "irl1", "ind1", "jpn3", "sgp3", "aus3"])
def test_every_location_hint_is_served_and_told_back(door: Asked, hint: str) -> None:
    body = b'{"events": [' + to_media_edge(story("0 start, 9 end")) + b"]}"
    answer = door.post(body, f"/ee/{hint}/va/v1/downloaded?configId=any")
    assert answer.status_code == 200
    hints = {entry["hint"] for entry in answer.json()["handle"][0]["payload"]}
    assert hints == {hint}


def test_the_request_id_is_the_given_one_with_a_suffix(door: Asked) -> None:
    body = b'{"events": [' + to_media_edge(story("0 start, 9 end")) + b"]}"
    path = receive.EDGE + "?configId=any"
    by_header = door.post(body, path, x_request_id="by-header").json()["requestId"]
    by_query = door.post(body, path + "&requestId=by-query", x_request_id="by-header").json()["requestId"]
    by_none = door.post(body, path).json()["requestId"]
    assert re.fullmatch(r"by-header-[0-9a-f]{16}", by_header)
    assert re.fullmatch(r"by-query-[0-9a-f]{16}", by_query)
    assert re.fullmatch(r"[0-9a-f-]{36}-[0-9a-f]{16}", by_none)


def test_an_empty_edge_request_is_408_and_keeps_nothing(door: Asked) -> None:
    answer = door.post(b"", receive.EDGE + "?configId=any")
    assert answer.status_code == 408
    assert answer.json()["type"].endswith("EXEG-0109-408")
    assert door.log.actions == []


def test_an_unknown_coding_is_told_which_are_known(door: Asked) -> None:
    answer = door.post(GOOD, content_encoding="br")
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "gzip, deflate, zstd")
    assert "accept-encoding" not in door.post(GOOD, content_type="application/xml").headers


def test_a_live_session_is_refused_with_its_own_rule(door: Asked) -> None:
    start = json.loads(GOOD)[0]
    answer = door.post(json.dumps(start).encode(), receive.SESSIONS)
    assert (answer.status_code, answer.json()["errors"][0]["rule"]) == (400, "live_sessions_not_supported")
    assert "deprecation" not in answer.headers


def test_logs_hold_no_body_and_no_identity(door: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    secrets = ("secret-viewer", "secret-film", "secret-request", "secret-suite", "203.0.113.7")
    body = json.loads(GOOD)
    body[0]["params"] |= {
        "visitor.marketingCloudUserId": secrets[0],
        "media.id": secrets[1],
        "analytics.reportSuite": secrets[3],
    }
    sent = json.dumps(body).encode()
    edge = receive.EDGE + f"?configId={secrets[3]}&requestId={secrets[2]}"

    def broken(*_arguments: object) -> str:
        raise ValueError(sent.decode())

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(receive, "visitor_key_of", broken)
        assert door.post(sent, x_request_id=secrets[2]).status_code == 201
    door.log.broken = True
    for path in (receive.DOWNLOADED, edge):
        assert door.post(sent, path, x_request_id=secrets[2], x_forwarded_for=secrets[4]).status_code == 503
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pipeline.ingest.app.read_body", broken)
        assert door.post(sent, edge).status_code == 503
    said = "".join(capsys.readouterr())
    assert all(word in said for word in ("internal_error", "not_stored", "not_answered"))
    assert [secret for secret in secrets if secret in said] == []


def test_the_schemas_are_served_by_name(door: Asked) -> None:
    assert door.request("GET", "/api/v1/schemas").json() == list(EVENT_TYPES)
    found = door.request("GET", "/api/v1/schemas/adStart")
    assert found.json()["$id"] == "/api/v1/schemas/adStart"
    assert door.request("GET", "/api/v1/schemas/nothing").status_code == 404


def test_health_and_metrics_store_nothing(door: Asked) -> None:
    assert door.request("GET", "/health/live").status_code == 200
    assert door.request("GET", "/health/ready").status_code == 200
    door.post(GOOD)
    text = door.request("GET", "/metrics").text
    assert 'pipeline_requests_total{path="/api/v1/downloaded",status="201"} 1.0' in text
    assert door.log.actions == ["stored media.uploads"]


def test_the_time_of_a_request_begins_before_its_body(door: Asked) -> None:
    sent: list[Any] = []

    async def slow() -> dict[str, Any]:
        await anyio.sleep(0.05)
        return {"type": "http.request", "body": GOOD}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"path": receive.DOWNLOADED, "method": "POST", "headers": headers, "query_string": b""}
    anyio.run(door.app, scope, slow, send)
    took = door.meters.registry.get_sample_value("pipeline_request_seconds_sum", {"path": receive.DOWNLOADED})
    assert (sent[0]["status"], (took or 0.0) >= 0.05) == (201, True)


def test_a_report_suite_that_no_datastream_claims_is_kept_and_answered_201() -> None:
    from pipeline.session.datastream import Datastream

    door = Asked(Directory((Datastream(id="known", report_suites=("other",)),)))
    answer = door.post(GOOD)
    assert answer.status_code == 201
    (upload,) = door.uploads()
    assert upload["reason"] == "unknown_datastream"


def test_every_example_is_answered_as_its_table_says() -> None:
    from pipeline.device.examples import load_examples

    for example in load_examples(Path(__file__).resolve().parents[2] / "examples"):
        assert Asked().post(example.body, example.path).status_code == example.status, example.name


@pytest.mark.parametrize("strange", [[], {}, [None], {"a": []}, 1, None, True, 1.5])
@pytest.mark.parametrize("path", [receive.DOWNLOADED, receive.SESSIONS])
def test_an_event_type_of_any_json_type_is_a_refusal_and_no_fault_of_ours(
    door: Asked, path: str, strange: Any
) -> None:
    body = json.loads(GOOD)
    body[0]["eventType"] = strange
    answer = door.post(json.dumps(body).encode(), path)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["pointer"] == "/0/eventType"
    assert door.uploads()[0]["reason"] == "invalid"
