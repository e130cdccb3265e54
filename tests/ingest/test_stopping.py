"""How an ingest ends: requests and spool share one time, and its parent waits for longer than that."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from pipeline.commands.ingest import _stop_forwarding
from pipeline.ingest.processes import STOP_MARGIN_S, _stopped
from pipeline.ingest.server import bind, serve
from pipeline.kafka.uploads import FLUSH_S
from pipeline.settings import load
from tests.ingest.serving import AMPLE_S, IN_TIME_S, deadlines, post
from tests.ingest.test_door import GOOD, Asked
from tests.ingest.test_spooling import Bench
from tests.log.test_spool import upload

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"


def test_what_requests_took_of_the_drain_is_told_when_the_server_has_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deadlines(monkeypatch)
    door = Asked()
    settings = load({}, ingest_port=0, ingest_drain_s=1)

    async def run() -> float:
        stops: list[Callable[[], None]] = []

        async def begun(scope: Any, receive: Any, send: Any) -> None:
            stops[0]()
            await door.app(scope, receive, send)

        with bind(settings) as listener, socket.socket() as slow:

            def serving(stop: Callable[[], None]) -> None:
                stops.append(stop)
                slow.connect(listener.getsockname())
                slow.sendall(post(GOOD)[:-10])
                asyncio.get_running_loop().call_later(AMPLE_S, stop)  # should it never begin

            told_at = await serve(begun, settings, listener, door.meters, serving)
            return asyncio.get_running_loop().time() - told_at

    assert 0.9 < uvloop.run(run()) < IN_TIME_S, "the request that never ended had the whole second"


def test_a_spool_has_no_time_of_its_own_when_requests_took_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        slept.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr("asyncio.sleep", noted)
    bench = Bench(tmp_path)
    bench.kafka.is_away = True
    bench.store(upload(1))

    async def stop(drain_s: float) -> float:
        now = asyncio.get_running_loop().time
        began = now()
        forwarding = asyncio.create_task(bench.forwarder.run())
        await _stop_forwarding(forwarding, bench.forwarder, began + drain_s)
        return now() - began

    asyncio.run(stop(-1.0))
    assert slept == []
    assert 0.3 <= asyncio.run(stop(0.3)) < IN_TIME_S
    assert bench.forwarder.waiting == 1, "it is kept for the next process"


def test_a_parent_waits_for_all_its_children_once_and_longer_than_a_producer_flushes() -> None:
    patience_s: list[float] = []

    class Child(subprocess.Popen[bytes]):
        def wait(self, timeout: float | None = None) -> int:
            if timeout is not None:
                patience_s.append(timeout)
            return super().wait(timeout)

    children: list[subprocess.Popen[bytes]] = [
        Child([sys.executable, "-c", DEAF], stdout=subprocess.PIPE) for _ in range(3)
    ]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
        child.stdout.close()
    began = time.monotonic()
    assert _stopped(children, 0.5) == [9, 9, 9]
    assert time.monotonic() - began >= 0.5
    assert patience_s[0] <= 0.5
    assert patience_s[1:] == [0, 0], "the time of the first was everybody's"
    assert STOP_MARGIN_S > FLUSH_S
