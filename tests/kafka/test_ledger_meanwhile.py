"""The ledger on Kafka while workers go on: it is of one moment, though nothing there is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka import Producer

from pipeline.commands.home import kafka_codec
from pipeline.kafka import clients, lanes, takeover
from pipeline.kafka import reader as reader_module
from pipeline.kafka.reader import OPEN_S, KafkaReader
from pipeline.settings import SettingError, Settings
from tests.homes.meanwhile import check_each_ledger_balances
from tests.homes.uploading import make_pipeline
from tests.kafka.home import PARTITIONS, KafkaHome, made_topics, settings_of
from tests.kafka.running import LONG_SESSION_S, Ingest, Worker, ledger, settled
from tests.lender import LentKafka
from tests.load import Senders

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

SESSIONS = "media.sessions"
PATIENT_S = 120.0
LEDGERS = 8


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing fail in this process for a broker that is slow to answer."""
    for module in (clients, lanes, reader_module, takeover):
        monkeypatch.setattr(module, "REACH_DEADLINE_S", PATIENT_S)


@pytest.fixture
def settings(kafka: LentKafka, tmp_path: Path) -> Iterator[Settings]:
    """Yield settings with their topics made."""
    found = settings_of(kafka, tmp_path / "data")
    with made_topics(found):
        yield found


def test_the_ledger_balances_whatever_is_carried_while_it_is_read(settings: Settings) -> None:
    codec = kafka_codec(settings)
    home = KafkaHome(settings, codec)
    with closing(home), closing(KafkaReader(settings)) as reader:
        check_each_ledger_balances(make_pipeline(home, codec, partitions=PARTITIONS), reader, carried=20)


def test_the_ledger_balances_at_every_moment_while_uploads_are_carried(
    settings: Settings, tmp_path: Path
) -> None:
    with (
        Ingest(settings) as ingest,
        Worker(settings, tmp_path / "worker.log", worker_session_timeout_s=LONG_SESSION_S) as worker,
    ):
        worker.await_assignment()
        senders = Senders()
        try:
            senders.to(ingest)
            senders.await_acknowledged(10)
            found = [ledger(settings)]
            end = time.monotonic() + PATIENT_S
            while len(found) < LEDGERS or found[-1]["accepted"] == found[0]["accepted"]:
                assert time.monotonic() < end, "nothing is carried meanwhile"
                found.append(ledger(settings))
        finally:
            senders.stop()
        off = [[c for c in each["checks"] if not c["balances"]] for each in found]
        assert off == [[]] * len(found)
        ingest.await_forwarded()
        # What was tried in vain when the senders stopped may count, too.
        vain = sum(exchange.status != 201 for exchange in senders.exchanges)
        assert 0 <= settled(settings)["accepted"] - len(senders.acknowledged) <= vain


def test_a_transaction_that_ends_is_waited_for_and_one_that_does_not_is_left_out(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = settings.kafka_topic_prefix + SESSIONS
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap, "transactional.id": name})
    producer.init_transactions(60)

    def begin() -> None:
        producer.begin_transaction()
        producer.produce(name, b"value", b"key", 0)
        assert producer.flush(60) == 0

    with closing(KafkaReader(settings)) as reader:

        def read() -> tuple[int, float]:
            """Return how many records there are, and how long that took."""
            reader.refresh()
            started = time.monotonic()
            found = sum(1 for _ in reader.read(SESSIONS, {0: 0}))
            return found, time.monotonic() - started

        begin()
        monkeypatch.setattr(reader_module, "OPEN_S", PATIENT_S)
        committing = threading.Timer(0.5, producer.commit_transaction, [60])
        committing.start()
        assert read()[0] == 1
        committing.join()
        monkeypatch.setattr(reader_module, "OPEN_S", OPEN_S)
        begin()
        found, took = read()
        assert found == 1
        assert took >= OPEN_S
        monkeypatch.setattr(reader_module, "WHOLE_S", OPEN_S / 2)
        with pytest.raises(SettingError, match=r"media.sessions \[0\]: a transaction is open there"):
            list(reader.read(SESSIONS, {0: 0}, is_whole=True))
        producer.abort_transaction(60)
