"""Transactions that fail say whether a record is to blame, on librdkafka's mock cluster and a fake."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from confluent_kafka import KafkaError, KafkaException

from pipeline.contract.ports import Fenced, NeverTaken, Unavailable
from pipeline.contract.record import Record
from pipeline.contract.topics import load_topics
from pipeline.kafka import transactions as transactions_module
from pipeline.kafka.transactions import Transactions
from pipeline.settings import load
from pipeline.topology import UPLOADS
from tests.kafka.mock import MockCluster

RECORDS = [Record(UPLOADS, n, b"k", b"v", 1_700_000_000_000) for n in range(3)]


@pytest.fixture
def cluster() -> Iterator[MockCluster]:
    with MockCluster(UPLOADS, load_topics()[UPLOADS].partitions) as mock:
        yield mock


def transactions_of(bootstrap: str, data_dir: Path) -> Transactions:
    return Transactions(load({}, kafka_bootstrap=bootstrap, data_dir=data_dir), "worker-3")


def produced_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the broker answer to a record before the next one is produced."""
    produce = Transactions._produce

    def slow(self: Transactions, record: Record, **more: Any) -> None:
        produce(self, record, **more)
        time.sleep(0.3)

    monkeypatch.setattr(Transactions, "_produce", slow)


@pytest.mark.parametrize("is_slow", [False, True], ids=["at the commit", "while more is produced"])
def test_a_record_that_the_broker_refuses_is_named_whenever_its_answer_comes(
    cluster: MockCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_slow: bool
) -> None:
    lane = transactions_of(cluster.bootstrap, tmp_path)
    lane.commit(RECORDS)
    if is_slow:
        produced_slowly(monkeypatch)
    cluster.refuse_produce(KafkaError.MSG_SIZE_TOO_LARGE)
    with pytest.raises(NeverTaken, match="size too large"):
        lane.commit(RECORDS)
    monkeypatch.undo()
    assert lane.commit(RECORDS) > 0, "the lane goes on"


def test_a_wrong_clock_is_no_fault_of_a_record_and_is_told(
    cluster: MockCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions_module, "MOST_REDONE", 2)
    produced_slowly(monkeypatch)
    lane = transactions_of(cluster.bootstrap, tmp_path)
    cluster.refuse_produce(*[KafkaError.INVALID_TIMESTAMP] * 6)
    with pytest.raises(Unavailable, match=r"2 transactions were aborted.*[Ii]nvalid timestamp"):
        lane.commit(RECORDS)


class Report(NamedTuple):
    """A delivered record, as its report has it."""

    at: int | None

    def offset(self) -> int | None:
        return self.at


class FakeProducer:
    """A producer whose records get this offset, and whose commits and aborts fail with these errors."""

    at: int | None = 7
    error: KafkaError | None = None
    abort_error: KafkaError | None = None

    def __init__(self, _config: object) -> None:
        self._reports: list[Any] = []

    def init_transactions(self, _timeout_s: float) -> None: ...

    def begin_transaction(self) -> None: ...

    def produce(self, _topic: str, *, on_delivery: Any, **_more: object) -> None:
        self._reports.append(on_delivery)

    def commit_transaction(self, _timeout_s: float) -> None:
        for report in self._reports:
            report(None, Report(self.at))
        if self.error is not None:
            raise KafkaException(self.error)

    def abort_transaction(self, _timeout_s: float) -> None:
        if self.abort_error is not None:
            raise KafkaException(self.abort_error)


@pytest.fixture
def lane_on_a_fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Transactions:
    monkeypatch.setattr(transactions_module, "Producer", FakeProducer)
    return transactions_of("nowhere:1", tmp_path)


def test_a_commit_of_which_kafka_does_not_say_where_it_is_is_no_commit_at_the_start_of_the_index(
    lane_on_a_fake: Transactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lane_on_a_fake.commit(RECORDS) == 8
    monkeypatch.setattr(FakeProducer, "at", None)
    with pytest.raises(Unavailable, match="did not say at which offset"):
        lane_on_a_fake.commit(RECORDS)


def test_a_commit_that_brokers_never_answer_to_comes_to_an_end(
    lane_on_a_fake: Transactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions_module, "GIVEN_UP_S", 0.05)
    timed_out = KafkaError(KafkaError._TIMED_OUT, "no answer", retriable=True)
    monkeypatch.setattr(FakeProducer, "error", timed_out)
    with pytest.raises(Unavailable, match="whether a transaction was committed: no answer"):
        lane_on_a_fake.commit(RECORDS)


@pytest.mark.parametrize(("is_fatal", "kind"), [(False, Unavailable), (True, Fenced)])
def test_an_abort_that_brokers_never_answer_to_is_no_other_owner(
    lane_on_a_fake: Transactions, monkeypatch: pytest.MonkeyPatch, is_fatal: bool, kind: type[Exception]
) -> None:
    late = KafkaError(KafkaError._MSG_TIMED_OUT, "late", txn_requires_abort=True)
    monkeypatch.setattr(FakeProducer, "error", late)
    monkeypatch.setattr(
        FakeProducer, "abort_error", KafkaError(KafkaError._TIMED_OUT, "away", fatal=is_fatal)
    )
    with pytest.raises(kind, match="failed, too: away"):
        lane_on_a_fake.commit(RECORDS)
