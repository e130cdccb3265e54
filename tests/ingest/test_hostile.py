"""Clients that mean no good are answered or cut within a bound, and slow nobody else."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from pipeline.ingest import app
from pipeline.ingest.app import App
from pipeline.ingest.openapi import openapi
from pipeline.ingest.protocol import answered_at_once
from pipeline.stages import receive
from tests.ingest.serving import (
    AMPLE_S,
    IN_TIME_S,
    SOON_S,
    Served,
    deadlines,
    post,
    read_to_end,
    served,
    status_of,
)
from tests.ingest.test_door import GOOD, LIMIT, Asked
from tests.waiting import until


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    deadlines(monkeypatch)
    with served(Asked()) as running:
        yield running
        deadlines(monkeypatch)
        assert status_of(running.exchange(post(GOOD, b"connection: close"))) == 201, "it serves no more"


def assert_described(answer: bytes, status: int) -> None:
    """Assert that an answer of the protocol itself is what the service's own description says."""
    head, _, body = answer.partition(b"\r\n\r\n")
    kind = re.search(rb"\r\ncontent-type: ([^\r]+)", head)
    assert kind is not None
    described = openapi()["paths"][receive.DOWNLOADED]["post"]["responses"][str(status)]["content"]
    assert kind[1].decode() in described
    problem = json.loads(body)
    assert (status_of(answer), problem["status"]) == (status, status)
    assert {"type", "title", "detail"} <= set(problem)


def send_on(client: socket.socket, data: bytes, pause_s: float, seconds: float = IN_TIME_S) -> None:
    """Send this again and again, for so long at most."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        client.sendall(data)
        time.sleep(pause_s)


SILENT = {
    "says nothing": b"",
    "half a head": b"POST /api/v1/downloaded HTTP/1.1\r\nhost: door\r\n",
    "half a request line": b"POST /api",
}


@pytest.mark.parametrize("name", SILENT)
def test_a_client_whose_head_does_not_come_is_cut(
    server: Served, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadlines(monkeypatch, "HEAD_DEADLINE_S")
    assert server.exchange(SILENT[name], timeout=IN_TIME_S) == b""


def test_a_head_that_trickles_is_cut(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    deadlines(monkeypatch, "HEAD_DEADLINE_S")
    with server.connect() as client:
        client.sendall(SILENT["half a head"])
        with pytest.raises(OSError, match=r"reset|[Bb]roken"):
            send_on(client, b"a", 0.02)


@pytest.mark.parametrize("part", [b"", b"["])
def test_a_body_that_does_not_come_is_408_and_nothing_is_kept(
    server: Served, part: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadlines(monkeypatch, "BODY_DEADLINE_S")
    head = post(b"")[: -len(b"content-length: 0\r\n\r\n")]
    answer = server.exchange(head + b"content-length: 500\r\n\r\n" + part, timeout=IN_TIME_S)
    assert_described(answer, 408)
    assert b"connection: close" in answer
    assert server.door.uploads() == []


@pytest.mark.parametrize(
    "lines",
    [[b"x: " + b"y" * 70_000], [b"x-%d: y" % n for n in range(150)], [b"x-%d: y" % n for n in range(5_000)]],
)
def test_too_many_or_too_large_headers_are_431(server: Served, lines: list[bytes]) -> None:
    answer = server.exchange(post(GOOD, *lines))
    assert status_of(answer) in {431, None}  # None: the rest of the head was still being sent when it was cut
    assert answer.count(b"HTTP/1.1 ") <= 1
    assert server.door.uploads() == []


def test_a_small_head_with_too_many_headers_is_told_so(server: Served) -> None:
    answer = server.exchange(post(GOOD, *(b"x-%d: y" % n for n in range(150))))
    assert status_of(answer) == 431


NOT_HTTP = {
    "nonsense": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50 + b"\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "two lengths": b"POST /api/v1/downloaded HTTP/1.1\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n[]",
    "a length and chunks": b"POST /api/v1/downloaded HTTP/1.1\r\ncontent-length: 2\r\n"
    b"transfer-encoding: chunked\r\n\r\n[]",
    "a negative length": b"POST /api/v1/downloaded HTTP/1.1\r\ncontent-length: -1\r\n\r\n[]",
    "a path of other letters": "POST /é HTTP/1.1\r\n\r\n".encode(),
}


@pytest.mark.parametrize("name", NOT_HTTP)
def test_what_is_not_http_is_400_and_closed(server: Served, name: str) -> None:
    answer = server.exchange(NOT_HTTP[name])
    assert status_of(answer) == 400
    assert b"connection: close" in answer
    assert server.door.uploads() == []


def test_a_body_that_breaks_off_in_its_chunks_is_cut_and_never_400(server: Served) -> None:
    head = post(b"")[: -len(b"content-length: 0\r\n\r\n")] + b"transfer-encoding: chunked\r\n\r\n"
    assert server.exchange(head + b"5\r\n[1,2,\r\nnonsense\r\n") == b""
    assert server.door.uploads() == []


def test_a_half_closed_client_gets_its_answer(server: Served) -> None:
    assert status_of(server.exchange(post(GOOD), half_close=True)) == 201


ANSWERED = {
    "accepted": post(GOOD, path=b"/api/v1/sessions"),
    "refused": post(b"]", path=b"/api/v1/sessions"),
    "refused on Edge": post(b"{}", b"x-request-id: mine", path=b"/ee/va/v1/downloaded"),
    "another method": b"OPTIONS /api/v1/sessions HTTP/1.1\r\nhost: door\r\n\r\n",
    "no body wanted": b"HEAD /api/v1/sessions HTTP/1.1\r\nhost: door\r\n\r\n",
}


@pytest.mark.parametrize("name", ANSWERED)
def test_an_answer_in_one_write_is_what_uvicorn_would_write(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer() -> tuple[list[bytes], bytes]:
        head, _, content = closing.exchange(ANSWERED[name]).partition(b"\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if not line.startswith(b"date: ")]
        assert len(lines) == head.count(b"\r\n"), "one date"
        return sorted(lines), re.sub(rb"mine-[0-9a-f]{16}", b"", content)

    at_once: list[bool] = []

    def noted(*arguments: Any) -> bool:
        at_once.append(answered_at_once(*arguments))
        return at_once[-1]

    monkeypatch.setattr("pipeline.ingest.server.KEEP_ALIVE_S", SOON_S)
    with served(Asked()) as closing:
        monkeypatch.setattr(app, "answered_at_once", noted)
        short = answer()
        monkeypatch.setattr(app, "answered_at_once", lambda *_: False)
        assert short == answer()
    assert at_once == [name != "no body wanted"]


def test_a_thousand_requests_in_advance_are_cut(server: Served) -> None:
    answers = server.exchange(b"GET /health/live HTTP/1.1\r\nhost: door\r\n\r\n" * 1_000)
    assert answers.count(b"HTTP/1.1 200") < 100


def test_a_few_requests_in_advance_are_answered_in_order(server: Served) -> None:
    last = post(GOOD, b"connection: close")
    answers = server.exchange(b"GET /health/live HTTP/1.1\r\nhost: door\r\n\r\n" * 3 + last)
    assert answers.count(b"HTTP/1.1 200") == 3
    assert answers.count(b"HTTP/1.1 201") == 1


def test_a_body_without_end_is_413_and_cut(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    deadlines(monkeypatch, "LINGER_S")
    head = post(b"")[: -len(b"content-length: 0\r\n\r\n")] + b"content-length: 1000000000\r\n\r\n"
    with server.connect() as client:
        client.sendall(head + b"[" * LIMIT * 2)
        assert status_of(client.recv(65_536)) == 413
        with pytest.raises(OSError, match=r"reset|[Bb]roken"):
            send_on(client, b"[" * 10_000, 0.01)
    (upload,) = server.door.uploads()
    assert (upload["truncated"], len(upload["body"])) == (True, LIMIT)


def test_one_connection_too_many_is_503_with_retry_after(monkeypatch: pytest.MonkeyPatch) -> None:
    deadlines(monkeypatch)
    with served(Asked(), connections=8) as server:
        held = [server.connect() for _ in range(8)]
        until(lambda: server.connections == 8)
        with server.connect() as one_more:
            answer = read_to_end(one_more)
        assert_described(answer, 503)
        assert b"retry-after: " in answer
        for connection in held:
            connection.close()
        until(lambda: server.connections == 0)
        assert status_of(server.exchange(post(GOOD, b"connection: close"))) == 201


def test_bodies_over_the_memory_are_503_and_give_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    deadlines(monkeypatch)
    door = Asked()
    memory = door.app._memory
    memory.left = LIMIT  # one body and a half
    with served(door) as server:
        head = post(b"")[: -len(b"content-length: 0\r\n\r\n")] + b"content-length: %d\r\n\r\n" % (LIMIT - 1)
        with server.connect() as holder:
            holder.sendall(head + b"[" * (LIMIT - 200))
            until(lambda: memory.left < len(GOOD))
            answer = server.exchange(post(GOOD, b"connection: close"))
            assert status_of(answer) == 503
            assert b"retry-after: " in answer
        until(lambda: memory.left == LIMIT)
        assert status_of(server.exchange(post(GOOD, b"connection: close"))) == 201
        assert memory.left == LIMIT
    assert b'pipeline_limited_total{limit="memory"} 1.0' in door.meters.text()


def test_thousands_of_idle_connections_take_little_memory_and_slow_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deadlines(monkeypatch)
    with served(Asked()) as server:
        here = psutil.Process(os.getpid())
        server.exchange(post(GOOD, b"connection: close"))
        before = here.memory_info().rss
        idle = [server.connect() for _ in range(2_000)]
        try:
            until(lambda: server.connections == len(idle))
            started = time.process_time()
            for _ in range(20):
                assert status_of(server.exchange(post(GOOD, b"connection: close"))) == 201
            assert time.process_time() - started < 3
            assert here.memory_info().rss - before < 100 * 1024 * 1024
        finally:
            for connection in idle:
                connection.close()


MANY_ITEMS = b'{"events":[' + b",".join([b"{}"] * 900) + b"]}"


@pytest.mark.parametrize(
    ("body", "path"),
    [(b"[" * 500_000, receive.DOWNLOADED), (MANY_ITEMS, receive.EDGE + "?configId=any")],
)
def test_a_body_that_takes_long_to_look_into_slows_nobody(
    body: bytes, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, answered = threading.Event(), threading.Event()
    in_time: list[bool] = []

    def slow(*_arguments: object, **_options: object) -> None:
        begun.set()
        in_time.append(answered.wait(IN_TIME_S))
        raise RuntimeError

    deadlines(monkeypatch)
    monkeypatch.setattr(app, "LATEST_ANSWER_S", AMPLE_S)
    door = Asked()
    door.app = App(door.door._replace(body_limit_bytes=2**20))
    monkeypatch.setattr("pipeline.wire.media_collection.decode", slow)
    monkeypatch.setattr("pipeline.wire.media_edge.split", slow)
    with served(door) as server, server.connect() as client:
        client.sendall(post(body, path=path.encode()))
        assert begun.wait(AMPLE_S)
        assert status_of(server.exchange(post(GOOD, b"connection: close"))) == 201
        answered.set()
        assert status_of(client.recv(65_536)) in {200, 201}
    assert all(in_time), "the other was answered while this one was looked into"


def test_a_stop_that_cuts_a_request_answers_503(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Asked()
    begun = threading.Event()

    async def never(_records: object) -> None:
        begun.set()
        await asyncio.sleep(60)

    door.log.store = never  # type: ignore[method-assign,assignment]  # a log that hangs
    door.app = App(door.door._replace(store_deadline_s=60))
    with served(door) as server:
        client = server.connect()
        client.sendall(post(GOOD))
        assert begun.wait(AMPLE_S)
    answer = read_to_end(client)
    client.close()
    assert status_of(answer) == 503
    assert b"retry-after: " in answer


@pytest.mark.parametrize("path", [receive.DOWNLOADED, receive.EDGE + "?configId=a", "/api/v1/schemas"])
def test_no_fault_of_ours_becomes_a_500(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object, **_options: object) -> Any:
        raise RuntimeError("a bug that names a viewer: secret-viewer")

    door = Asked()
    monkeypatch.setattr("pipeline.topology.Topology.upload_records", broken)
    monkeypatch.setattr("pipeline.ingest.app.JSONResponse", broken)
    with served(door) as server:
        request = post(GOOD, b"connection: close", path=path.encode())
        if "schemas" in path:
            request = request.replace(b"POST", b"GET")
        answer = server.exchange(request)
    assert status_of(answer) == 503
    assert b"retry-after: " in answer
    assert b"secret-viewer" not in answer
