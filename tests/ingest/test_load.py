"""The load of the fault tests sees an answer that does not come."""

from __future__ import annotations

import time

import httpx

from tests.load import Senders


class Silent:
    """An ingest whose first answers do not come in time."""

    def __init__(self) -> None:
        self.asked = 0

    def client(self) -> httpx.Client:
        return httpx.Client(base_url="http://door", transport=httpx.MockTransport(self._answer))

    def _answer(self, _request: httpx.Request) -> httpx.Response:
        self.asked += 1
        if self.asked <= 2:
            time.sleep(0.1)
            raise httpx.ReadTimeout("nothing came")
        return httpx.Response(201, headers={"location": f"/api/v1/sessions/{self.asked}"})


def test_an_answer_that_did_not_come_in_time_is_counted_and_measured() -> None:
    senders = Senders(threads=1)
    try:
        senders.to(Silent())
        senders.await_acknowledged(1)
    finally:
        senders.stop()
    assert senders.late == 2
    assert senders.slowest_s >= 0.1
