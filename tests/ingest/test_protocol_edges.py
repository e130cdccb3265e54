"""What HTTP allows at the edges of a request must not cost an upload: upgrades, surplus bytes, trailers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from pipeline.contract.ports import Unavailable
from pipeline.contract.record import Record
from pipeline.ingest.app import App
from pipeline.ingest.protocol import HEAD_LIMIT_BYTES, HEADERS_LIMIT
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

H2C = (b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: AAMAAABkAAQCAAAA")
"""What curl --http2 and Java's HttpClient send."""
LAST = post(GOOD, b"connection: close")
LIVE = b"GET /health/live HTTP/1.1\r\nhost: door\r\n"
PAUSE_S = 0.1


@pytest.fixture(autouse=True)
def ample_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """End only a connection that a test leaves open by mistake."""
    monkeypatch.setattr("pipeline.ingest.server.KEEP_ALIVE_S", AMPLE_S)
    deadlines(monkeypatch)


@pytest.fixture
def server() -> Iterator[Served]:
    with served(Asked()) as running:
        yield running


def chunked(*chunks: bytes, lines: Sequence[bytes] = (), trailers: bytes = b"") -> bytes:
    """Return a POST of these chunks."""
    head, _, _ = post(b"", *lines, b"transfer-encoding: chunked").partition(b"content-length")
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head + b"\r\n" + body + b"0\r\n" + trailers + b"\r\n"


def statuses(answers: bytes) -> list[int]:
    """Return the status of every answer."""
    return [int(part[:3]) for part in answers.split(b"HTTP/1.1 ")[1:]]


# --- Upgrades ---------------------------------------------------------------------------------------------

UPGRADING = {
    "a length": post(GOOD, *H2C),
    "chunks": chunked(GOOD[:100], GOOD[100:], lines=H2C),
}


@pytest.mark.parametrize("name", UPGRADING)
@pytest.mark.parametrize("first", ["all", "the head", "half the head", "half the body", "a broken line end"])
def test_an_upload_that_offers_an_upgrade_is_stored_and_the_connection_goes_on(
    server: Served, name: str, first: str
) -> None:
    request = UPGRADING[name]
    head = request.index(b"\r\n\r\n") + 4
    at = {
        "all": len(request),
        "the head": head,
        "half the head": head // 2,
        "half the body": head + 150,
        "a broken line end": head - 1,
    }[first]
    answers = server.exchange(request[:at], request[at:], LAST, pause_s=PAUSE_S)
    assert statuses(answers) == [201, 201]
    assert [upload["body"] for upload in server.door.uploads()] == [GOOD, GOOD]


def test_uploads_that_offer_an_upgrade_may_come_in_advance(server: Served) -> None:
    assert statuses(server.exchange(post(GOOD, *H2C) * 3 + UPGRADING["chunks"] + LAST)) == [201] * 5
    assert len(server.door.uploads()) == 5


def test_an_upgrade_with_expect_is_told_to_go_on(server: Served) -> None:
    head, _, body = post(GOOD, *H2C, b"expect: 100-continue").partition(b"\r\n\r\n")
    answers = server.exchange(head + b"\r\n\r\n", body, LAST, pause_s=PAUSE_S)
    assert statuses(answers) == [100, 201, 201]


def test_an_upgrade_on_a_connection_that_closes_closes_it(server: Served) -> None:
    answer = server.exchange(post(GOOD, b"connection: upgrade, close", b"upgrade: h2c"))
    assert statuses(answer) == [201]
    assert b"connection: close" in answer


@pytest.mark.parametrize(("path", "status"), [(b"/health/live", 200), (b"/nothing", 404)])
def test_a_websocket_gets_an_ordinary_answer(server: Served, path: bytes, status: int) -> None:
    asked = LIVE.replace(b"/health/live", path) + b"connection: Upgrade\r\nupgrade: websocket\r\n\r\n"
    assert statuses(server.exchange(asked + LAST)) == [status, 201]


def test_a_head_with_an_upgrade_has_the_same_limits(server: Served) -> None:
    many = [b"x-%d: y" % n for n in range(HEADERS_LIMIT)]
    assert status_of(server.exchange(post(GOOD, *H2C, *many))) == 431
    assert status_of(server.exchange(post(GOOD, *H2C, b"x: " + b"y" * HEAD_LIMIT_BYTES))) == 431
    assert server.door.uploads() == []


def test_a_body_behind_an_upgrade_has_the_same_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    deadlines(monkeypatch, "BODY_DEADLINE_S")
    with served(Asked()) as server:
        assert status_of(server.exchange(post(GOOD, *H2C)[:-5], timeout=IN_TIME_S)) == 408


@pytest.mark.parametrize("target", [b"door:443", b"http://door/health/live", b"/health/live"])
def test_a_tunnel_is_refused(server: Served, target: bytes) -> None:
    answer = server.exchange(b"CONNECT " + target + b" HTTP/1.1\r\nhost: door\r\n\r\n")
    assert statuses(answer) == [400]


# --- Heads ------------------------------------------------------------------------------------------------


def test_a_head_whose_end_is_in_two_packets_may_have_a_large_body(server: Served) -> None:
    body = GOOD + b" " * (LIMIT - len(GOOD))
    assert len(body) > HEAD_LIMIT_BYTES
    request = post(body, b"connection: close")
    at = request.index(b"\r\n\r\n") + 3
    assert status_of(server.exchange(request[:at], request[at:], pause_s=PAUSE_S)) == 201


# --- Surplus bytes ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def slowly_served(*, is_full: bool = False) -> Iterator[Served]:
    """Yield a server whose log stores, or can't, only once all that was sent has come."""
    door = Asked()
    store = door.log.store

    async def slowly(records: Sequence[Record]) -> None:
        while not (running.has_sent.is_set() and running.reads_no_more):  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)  # what had been sent is read meanwhile
        if is_full:
            raise Unavailable("the disk is full")
        await store(records)

    door.log.store = slowly  # type: ignore[method-assign]  # the same promise, later
    door.app = App(door.door._replace(store_deadline_s=AMPLE_S))
    with served(door) as running:
        yield running


SURPLUS = {
    "a letter": (b"}",),
    "two line ends and a letter": (b"\r\n\r\n}",),
    "much": (b"x" * 100_000,),
    "in many packets": (b"}", b"x" * 20_000, b"\r\n\r\n", LAST),
    "a head without end": (b"POST /", b"x" * 20_000),
    "a head too large": (b"G", LIVE[1:] + b"x: " + b"y" * 20_000 + b"\r\n\r\n"),
    "a head of too many lines": (LIVE + b"x: y\r\n" * 150 + b"\r\n",),
    "a URL that is none": (LIVE.replace(b"/health/live", "/é".encode()) + b"\r\n",),
    "a tunnel": (b"CONNECT door:443 HTTP/1.1\r\n\r\n",),
}


@pytest.mark.parametrize(("is_apart", "is_full"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("name", SURPLUS)
def test_bytes_behind_an_upload_do_not_change_its_answer(name: str, is_apart: bool, is_full: bool) -> None:
    first, *more = SURPLUS[name]
    parts = (post(GOOD), first) if is_apart else (post(GOOD) + first,)
    with slowly_served(is_full=is_full) as server:
        answers = server.exchange(*parts, *more, pause_s=PAUSE_S / 2, timeout=IN_TIME_S)
        assert statuses(answers) == [503 if is_full else 201]
        assert b"connection: close" in answers
        assert len(server.door.uploads()) == (0 if is_full else 1)


def test_all_requests_before_surplus_bytes_are_answered() -> None:
    with slowly_served() as server:
        answers = server.exchange(post(GOOD) * 2 + LIVE + b"\r\n" + post(GOOD) + b"}")
        assert statuses(answers) == [201, 201, 200, 201]
        assert answers.count(b"connection: close") == 1
        assert len(server.door.uploads()) == 3


def test_a_half_closed_client_with_surplus_bytes_gets_its_answer() -> None:
    with slowly_served() as server:
        assert statuses(server.exchange(post(GOOD) + b"}", half_close=True)) == [201]


@pytest.mark.parametrize("connection", [b"close", b"keep-alive"])
def test_an_answer_that_nobody_reads_is_cut(connection: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    async def large(_scope: object, _receive: object, send: Any) -> None:
        begun.set()
        size = 8_000_000  # more than the system takes from us
        headers = [(b"content-length", b"%d" % size)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * size})

    if connection == b"close":
        deadlines(monkeypatch, "ANSWER_DEADLINE_S")
    else:
        monkeypatch.setattr("pipeline.ingest.server.KEEP_ALIVE_S", SOON_S)
    door = Asked()
    door.app = large  # type: ignore[assignment]  # any ASGI app does
    with served(door) as server, server.connect() as client:
        client.sendall(LIVE + b"connection: " + connection + b"\r\n\r\n")
        assert begun.wait(AMPLE_S)
        until(lambda: server.connections == 0)


def test_surplus_bytes_after_the_answer_are_400(server: Served) -> None:
    with server.connect() as client:
        client.sendall(post(GOOD))
        assert statuses(client.recv(65_536)) == [201]
        client.sendall(b"}")
        assert statuses(read_to_end(client)) == [400]


def test_a_broken_second_body_is_cut_and_never_400() -> None:
    with slowly_served() as server:
        broken = chunked(b"[").replace(b"1\r\n[\r\n0\r\n", b"1\r\n[nonsense")
        assert 400 not in statuses(server.exchange(post(GOOD) + broken))


# --- Trailers ---------------------------------------------------------------------------------------------


def test_trailers_change_nothing(server: Served) -> None:
    trailers = b"content-type: image/png\r\ncontent-encoding: br\r\nexpect: 100-continue\r\n"
    request = chunked(GOOD, trailers=trailers)
    parts = (request[: -len(trailers) - 2], request[-len(trailers) - 2 :])
    assert statuses(server.exchange(request * 2, *parts, LAST, pause_s=PAUSE_S)) == [201] * 4


def test_as_many_trailers_as_headers_are_taken_for_each_request(server: Served) -> None:
    request = chunked(GOOD, trailers=b"x: y\r\n" * HEADERS_LIMIT)
    assert statuses(server.exchange(request * 2 + LAST)) == [201] * 3


def is_cut(server: Served, *parts: bytes) -> bool:
    """Return whether these parts of a request end in a cut at once, with nothing said and nothing kept."""
    with server.connect(IN_TIME_S) as client:
        got = b""
        with contextlib.suppress(ConnectionError):
            for part in parts:
                client.sendall(part)
                time.sleep(0.005)
            got = client.recv(1_000)
    return got == b"" and server.door.uploads() == []


@pytest.mark.parametrize("pieces", [1, 50])
def test_too_many_trailers_are_cut_and_nothing_is_kept(server: Served, pieces: int) -> None:
    request = chunked(GOOD, trailers=b"x: y\r\n" * 5_000)
    size = -(-len(request) // pieces)
    assert is_cut(server, *(request[at : at + size] for at in range(0, len(request), size)))


ENDLESS = {
    "a name": chunked(GOOD)[:-2],
    "a value": chunked(GOOD)[:-2] + b"x: ",
    "a chunk's extension": chunked(GOOD)[: -len(b"0\r\n\r\n")] + b"3;",
    "a size of noughts": chunked(GOOD)[: -len(b"\r\n\r\n")],
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_grows_beside_the_body_is_cut_and_nothing_is_kept(server: Served, name: str) -> None:
    letter = b"0" if "noughts" in name else b"y"
    assert is_cut(server, ENDLESS[name], *[letter * 1_000] * 50)


def test_a_body_in_many_small_chunks_is_none_of_that(server: Served) -> None:
    request = chunked(*(GOOD[at : at + 1] for at in range(len(GOOD))), lines=[b"connection: close"])
    assert len(request) > 2_000
    assert statuses(server.exchange(*(request[at : at + 7] for at in range(0, len(request), 7)))) == [201]
