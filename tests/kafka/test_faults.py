"""First faults on Apache Kafka: under load, whatever dies, nothing is lost and nothing counted twice."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.servers import LoneBroker
from pipeline.settings import Settings
from tests.kafka.home import PARTITIONS, made_topics, settings_of
from tests.kafka.running import LONG_SESSION_S, QUICK_SESSION_S, Ingest, Worker, rows, settled
from tests.lender import LentKafka
from tests.load import Senders

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

Fault = Callable[[Worker, Settings, Path], None]
LOAD_S = 2.0
LEAST = 100
LONE_KILLS = 2


def worker_is_killed(worker: Worker, _settings: Settings, _path: Path) -> None:
    before = len(worker.take_overs())
    worker.signal(signal.SIGKILL)
    worker.await_share(PARTITIONS, after=before)


def worker_is_terminated(worker: Worker, _settings: Settings, _path: Path) -> None:
    before = len(worker.take_overs())
    worker.signal(signal.SIGTERM)
    worker.await_share(PARTITIONS, after=before)
    assert worker.codes == [0]


def a_second_worker_joins_and_leaves(worker: Worker, settings: Settings, path: Path) -> None:
    with Worker(settings, path / "second.log") as second:
        second.await_share(PARTITIONS // 2)
        worker.await_share(PARTITIONS // 2)
        time.sleep(1)
        assert second.stop() == 0
    worker.await_share(PARTITIONS)


@pytest.mark.parametrize("fault", [worker_is_killed, worker_is_terminated, a_second_worker_joins_and_leaves])
def test_nothing_is_lost_or_doubled_when(kafka: LentKafka, tmp_path: Path, fault: Fault) -> None:
    settings = settings_of(kafka, tmp_path / "data")
    with made_topics(settings):
        # Only one that is told to stop leaves the group at once, and only of that one every end is counted.
        session_s = LONG_SESSION_S if fault is worker_is_terminated else QUICK_SESSION_S
        carry_under(settings, tmp_path, lambda worker: fault(worker, settings, tmp_path), session_s)


@pytest.mark.usefixtures("kafka_can_run")
def test_nothing_is_lost_or_doubled_when_a_lone_broker_is_killed_and_comes_back(tmp_path: Path) -> None:
    with LoneBroker() as broker:
        settings = settings_of(broker, tmp_path / "data")

        def broker_is_killed(_worker: Worker) -> None:
            for _ in range(LONE_KILLS):
                broker.kill()
                broker.start_again()
                time.sleep(LOAD_S)

        with made_topics(settings):
            carry_under(settings, tmp_path, broker_is_killed)


def carry_under(
    settings: Settings, path: Path, fault: Callable[[Worker], None], session_s: int = QUICK_SESSION_S
) -> None:
    """Carry uploads through while a fault happens, then check that each counts exactly once."""
    senders = Senders()
    try:
        with (
            Ingest(settings) as ingest,
            Worker(settings, path / "worker.log", worker_session_timeout_s=session_s) as worker,
        ):
            worker.await_share(PARTITIONS)
            senders.to(ingest)
            time.sleep(LOAD_S)
            fault(worker)
            time.sleep(LOAD_S)
            senders.await_acknowledged(LEAST)
            senders.stop()
            ingest.await_forwarded()
            check_exactly_once(settings, senders.acknowledged, path / "worker.log")
            assert ingest.stop() == 0
    finally:
        senders.stop()


def check_exactly_once(settings: Settings, acknowledged: set[str], log: Path) -> None:
    """Assert one session, one start and one close for each acknowledged upload, read_committed."""
    assert len(acknowledged) >= LEAST, "the load was too small to prove anything"
    ledger = settled(settings)
    said = log.read_text(errors="replace")[-3000:]
    assert ledger["pending"] == 0, (ledger, said)
    assert ledger["balances"], ([c for c in ledger["checks"] if not c["balances"]], said)
    sessions = Counter(str(value["session_id"]) for value in rows(settings, "media.sessions"))
    calls = rows(settings, "media.analytics.calls")
    starts = Counter(str(c["session_id"]) for c in calls if c["call"] == "mediaStart")
    closes = Counter(str(c["session_id"]) for c in calls if c["call"] == "mediaClose")
    assert acknowledged <= set(sessions), "lost"
    assert set(sessions.values()) == {1}, "doubled"
    assert starts == closes == sessions
