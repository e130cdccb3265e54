"""First faults on Apache Kafka: under load, whatever dies, nothing is lost and nothing counted twice."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.servers import Kafka
from pipeline.settings import Settings
from tests.kafka.home import made_topics, settings_of
from tests.kafka.running import Ingest, Worker, rows, settled
from tests.load import Senders

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

Fault = Callable[[Kafka, Worker, Settings, Path], None]


def worker_is_killed(_kafka: Kafka, worker: Worker, _settings: Settings, _path: Path) -> None:
    worker.signal(signal.SIGKILL)
    worker.await_assignment(times=2)


def worker_is_terminated(_kafka: Kafka, worker: Worker, _settings: Settings, _path: Path) -> None:
    worker.signal(signal.SIGTERM)
    worker.await_assignment(times=2)
    assert worker.codes == [0]


def a_second_worker_joins_and_leaves(_kafka: Kafka, worker: Worker, settings: Settings, path: Path) -> None:
    with Worker(settings, path / "second.log") as second:
        second.await_assignment()
        time.sleep(1)
    worker.await_assignment(times=3)


def the_broker_is_killed(kafka: Kafka, _worker: Worker, _settings: Settings, _path: Path) -> None:
    kafka.kill()
    time.sleep(2)
    kafka.start_again()


@pytest.mark.parametrize(
    "fault",
    [worker_is_killed, worker_is_terminated, a_second_worker_joins_and_leaves, the_broker_is_killed],
)
def test_nothing_is_lost_or_doubled_when(kafka: Kafka, tmp_path: Path, fault: Fault) -> None:
    settings = settings_of(kafka, tmp_path / "data")
    senders = Senders(threads=3, pause_s=0.01)
    try:
        with (
            made_topics(settings),
            Ingest(settings) as ingest,
            Worker(settings, tmp_path / "worker.log") as worker,
        ):
            worker.await_assignment()
            senders.to(ingest)
            time.sleep(2)
            fault(kafka, worker, settings, tmp_path)
            time.sleep(2)
            senders.stop()
            ledger = settled(settings)
            log = (tmp_path / "worker.log").read_text(errors="replace")[-3000:]
            assert ledger["pending"] == 0, (ledger, log)
            assert ledger["balances"], ([c for c in ledger["checks"] if not c["balances"]], log)
            sessions = Counter(str(value["session_id"]) for value in rows(settings, "media.sessions"))
            calls = rows(settings, "media.analytics.calls")
            starts = Counter(str(c["session_id"]) for c in calls if c["call"] == "mediaStart")
            closes = Counter(str(c["session_id"]) for c in calls if c["call"] == "mediaClose")
            assert len(senders.acknowledged) > 100, "the load was too small to prove anything"
            assert senders.acknowledged <= set(sessions), "lost"
            assert set(sessions.values()) == {1}, "doubled"
            assert starts == closes == sessions
            assert ingest.stop() == 0
    finally:
        senders.stop()
