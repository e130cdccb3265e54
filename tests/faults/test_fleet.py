"""Devices of the fault matrix: each session until it is acknowledged, and some of them again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from faults.fleet import BAD_EVERY, Fleet
from tests.answering import answered_by


class Door(BaseHTTPRequestHandler):
    """Answers 503 to the first try of each session, then 201 with an id of visitor and film."""

    protocol_version = "HTTP/1.1"
    bodies: list[bytes]
    tried: set[str]
    is_fickle = False

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        params = json.loads(body)[0]["params"]
        if params["media.id"].startswith("bad-"):
            self._refuse(params["media.id"])
            return
        self.bodies.append(body)
        seed = f"{params['visitor.marketingCloudUserId']} {params['media.id']}"
        refused = seed not in self.tried
        self.tried.add(seed)
        if self.is_fickle:
            seed += str(len(self.bodies))
        self.send_response(503 if refused else 201)
        self.send_header("content-length", "0")
        if not refused:
            self.send_header("location", f"/api/v1/sessions/{hashlib.sha256(seed.encode()).hexdigest()}")
        self.end_headers()

    def _refuse(self, mark: str) -> None:
        """Answer 503 to the first try of each bad body, then 400."""
        self.send_response(503 if mark.endswith("-1") else 400)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing."""


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[type[Door], str]]:
    monkeypatch.setattr("faults.fleet.RETRY_S", 0.01)
    handler = type("Handler", (Door,), {"bodies": [], "tried": set()})
    with answered_by(handler) as url:
        yield handler, url


def test_every_session_is_sent_until_it_is_acknowledged_and_a_part_of_them_again(
    door: tuple[type[Door], str],
) -> None:
    handler, url = door
    fleet = Fleet(url, "seed")
    try:
        fleet.begin(most=100)
        fleet.join()
        assert fleet.answered == 100
        assert len(fleet.acknowledged) == 100 - fleet.again
        assert 5 < fleet.again < 40
        assert fleet.statuses == {201: 100, 503: len(fleet.acknowledged)}
        assert fleet.sent == len(handler.bodies) == 100 + len(fleet.acknowledged)
        assert len(set(handler.bodies)) == len(handler.bodies), "each try is built anew"
        assert fleet.in_order == list(fleet.acknowledged)
        assert (fleet.given_up, fleet.renamed) == ([], [])
        assert fleet.refused == {f"bad-{turn}-2" for turn in range(BAD_EVERY, 101, BAD_EVERY)}
    finally:
        fleet.close()


def test_a_rate_is_kept_and_chosen_sessions_come_again(door: tuple[type[Door], str]) -> None:
    _, url = door
    fleet = Fleet(url, "seed")
    try:
        began, rate = time.monotonic(), 50
        fleet.begin(rate_per_s=rate)
        while len(fleet.acknowledged) < 25:
            assert time.monotonic() < began + 60
            time.sleep(0.01)
        for number, moment in enumerate(sorted(fleet.acknowledged.copy().values())):
            assert moment - began >= number / rate
        before = fleet.again
        assert fleet.send_again(10) == 10
        while not fleet.is_queue_empty:
            time.sleep(0.01)
        fleet.end()
        assert fleet.again >= before + 10
    finally:
        fleet.close()


def test_a_door_that_gives_a_session_another_id_is_noticed(door: tuple[type[Door], str]) -> None:
    handler, url = door
    handler.is_fickle = True
    fleet = Fleet(url, "seed")
    try:
        fleet.begin(most=60)
        fleet.join()
        assert fleet.renamed
    finally:
        fleet.close()
