"""Kafka first, the spool in time, and everything forwarded once Kafka is back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.contract.partition import partition_of
from pipeline.contract.ports import NeverTaken, Unavailable
from pipeline.contract.record import Record
from pipeline.ingest.spooling import BREAKER_S, Forwarder, SpooledSink
from pipeline.log.spool import Spool
from pipeline.metrics import Meters
from tests.log.test_spool import opened, upload


class FakeKafka:
    """A broker that can be away, hang, or refuse records for good."""

    def __init__(self) -> None:
        self.taken: list[Record] = []
        self.asked = 0
        self.is_away = False
        self.hangs = False
        self.never: set[bytes] = set()
        self.leaderless: set[int] = set()

    async def store(self, records: Sequence[Record]) -> None:
        self.asked += 1
        if self.hangs:
            await asyncio.sleep(3600)
        if self.is_away:
            raise Unavailable("away")
        never = [place for place, record in enumerate(records) if record.key in self.never]
        passing = [place for place, record in enumerate(records) if record.partition in self.leaderless]
        stored = [place for place in range(len(records)) if place not in never + passing]
        self.taken += [records[place] for place in stored]
        if passing:
            raise Unavailable("no leader", stored)
        if never:
            raise NeverTaken("too large", never)


class Bench:
    """A sink and its forwarder on a fake broker and a real spool."""

    def __init__(self, directory: Path) -> None:
        self.now = 100.0
        self.kafka = FakeKafka()
        self.spool: Spool = opened(directory / "own")
        self.meters = Meters()
        self.sink = SpooledSink(self.kafka, self.spool, self.meters, 0.05, lambda: self.now)
        self.forwarder = Forwarder(self.kafka, [self.spool], self.meters)

    def store(self, *records: Record) -> None:
        asyncio.run(self.sink.store(records))

    def forward(self) -> int:
        return asyncio.run(self.forwarder.forward_once())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_what_kafka_acknowledges_is_not_spooled(bench: Bench) -> None:
    bench.store(upload(1))
    assert bench.kafka.taken == [upload(1)]
    assert bench.spool.totals.records == 0


@pytest.mark.parametrize("trouble", ["is_away", "hangs"])
def test_what_kafka_does_not_acknowledge_in_time_is_spooled_and_forwarded_in_order(
    bench: Bench, trouble: str
) -> None:
    setattr(bench.kafka, trouble, True)
    bench.store(upload(1))
    bench.store(upload(2), upload(3))
    assert bench.spool.totals.records == 3
    setattr(bench.kafka, trouble, False)
    assert bench.forward() == 3
    assert bench.kafka.taken == [upload(1), upload(2), upload(3)]
    assert bench.spool.totals.records == 0
    assert bench.forward() == 0


def test_after_a_failure_kafka_is_not_waited_for_until_the_breaker_closes(bench: Bench) -> None:
    bench.kafka.is_away = True
    for number in range(5):
        bench.store(upload(number))
    assert bench.kafka.asked == 1
    bench.now += BREAKER_S
    bench.kafka.is_away = False
    bench.store(upload(9))
    assert bench.kafka.taken == [upload(9)]


def test_while_kafka_is_away_the_spool_keeps_everything(bench: Bench) -> None:
    bench.kafka.is_away = True
    bench.store(upload(1))
    with pytest.raises(Unavailable):
        bench.forward()
    assert bench.spool.totals.records == 1


def test_a_record_that_kafka_never_takes_is_set_aside_and_blocks_nothing(bench: Bench) -> None:
    bench.kafka.never = {upload(2).key}
    bench.store(upload(2))  # spooled: it must not be answered as lost
    bench.kafka.is_away = True
    bench.store(upload(3))
    bench.kafka.is_away = False
    bench.forward()
    assert bench.kafka.taken == [upload(3)]
    assert (bench.spool.totals.records, bench.spool.totals.set_aside) == (0, 1)
    assert b"pipeline_spool_set_aside_records 1.0" in bench.meters.text()


def test_when_neither_can_store_the_door_is_told(bench: Bench) -> None:
    bench.kafka.is_away = True
    bench.spool.close()
    with pytest.raises(Unavailable):
        bench.store(upload(1))


def test_a_partition_without_leader_blocks_no_other_and_nothing_is_sent_twice(bench: Bench) -> None:
    first, stuck, last = (upload(n)._replace(partition=p) for n, p in ((1, 4), (2, 5), (3, 4)))
    bench.kafka.leaderless = {5}
    bench.store(first, stuck)
    assert bench.kafka.taken == [first]
    bench.store(last, stuck)  # the breaker is open: both are spooled
    assert bench.spool.totals.records == 3
    assert bench.forward() == 1
    with pytest.raises(Unavailable):
        bench.forward()
    assert bench.kafka.taken == [first, last]
    bench.kafka.leaderless = set()
    assert bench.forward() == 2
    assert bench.kafka.taken == [first, last, stuck, stuck]


def test_after_a_migration_a_spooled_upload_goes_to_the_partition_that_its_key_has_now(bench: Bench) -> None:
    bench.kafka.is_away = True
    bench.store(*(upload(number)._replace(partition=7) for number in range(9)))
    bench.kafka.is_away = False
    bench.forwarder = Forwarder(bench.kafka, [bench.spool], bench.meters, partitions=5)
    assert bench.forward() == 9
    assert [r.partition for r in bench.kafka.taken] == [partition_of(r.key, 5) for r in bench.kafka.taken]
