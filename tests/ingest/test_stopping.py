"""How an ingest ends: requests and spool share one time, and its parent waits for longer than that."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import uvloop

from pipeline.commands.ingest import _stop_forwarding
from pipeline.ingest.processes import STOP_MARGIN_S, _stopped
from pipeline.ingest.server import bind, serve
from pipeline.kafka.uploads import FLUSH_S
from pipeline.settings import load
from tests.ingest.serving import post
from tests.ingest.test_door import GOOD, Asked
from tests.ingest.test_spooling import Bench
from tests.log.test_spool import upload

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"


def test_what_requests_took_of_the_drain_is_told_when_the_server_has_stopped() -> None:
    door = Asked()
    settings = load({}, ingest_port=0, ingest_drain_s=1)

    async def run() -> float:
        with bind(settings) as listener, socket.socket() as slow:

            def serving(stop: Callable[[], None]) -> None:
                slow.connect(listener.getsockname())
                slow.sendall(post(GOOD)[:-10])
                asyncio.get_running_loop().call_later(0.2, stop)

            told_at = await serve(door.app, settings, listener, door.meters, serving)
            return asyncio.get_running_loop().time() - told_at

    assert 0.9 < uvloop.run(run()) < 3, "the request that never ended had the whole second"


def test_a_spool_has_no_time_of_its_own_when_requests_took_all(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.kafka.is_away = True
    bench.store(upload(1))

    async def stop(drain_s: float) -> float:
        now = asyncio.get_running_loop().time
        began = now()
        forwarding = asyncio.create_task(bench.forwarder.run())
        await _stop_forwarding(forwarding, bench.forwarder, began + drain_s)
        return now() - began

    assert asyncio.run(stop(-1.0)) < 0.3
    assert 0.3 <= asyncio.run(stop(0.3)) < 1.0
    assert bench.forwarder.waiting == 1, "it is kept for the next process"


def test_a_parent_waits_for_all_its_children_once_and_longer_than_a_producer_flushes() -> None:
    children = [subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE) for _ in range(3)]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
        child.stdout.close()
    began = time.monotonic()
    assert _stopped(children, 0.5) == [9, 9, 9]
    assert 0.5 <= time.monotonic() - began < 1.0
    assert STOP_MARGIN_S > FLUSH_S
