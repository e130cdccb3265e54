"""Kafka first, the spool in time, and everything forwarded once Kafka is back."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pipeline.commands.ingest import SPOOLS, Addresser, Adopter, opened_spool
from pipeline.contract.partition import partition_of
from pipeline.contract.ports import NeverTaken, Unavailable
from pipeline.contract.record import Record
from pipeline.contract.topics import load_topics
from pipeline.ingest.spooling import Forwarder, SpooledSink, Way
from pipeline.log.spool import Spool
from pipeline.metrics import Meters
from pipeline.settings import load
from pipeline.topology import UPLOADS
from tests.fakes import FakeSchemaIds
from tests.log.test_spool import DAMAGES, damaged, opened, upload

UNFRAMED = b"no schema id yet"


class FakeKafka:
    """A broker that can be away, or refuse records for good."""

    def __init__(self) -> None:
        self.taken: list[Record] = []
        self.batches: list[Sequence[Record]] = []
        self.asked = 0
        self.is_away = False
        self.takes_s = 0.0
        self.never: set[bytes] = set()
        self.leaderless: set[int] = set()

    async def store(self, records: Sequence[Record]) -> None:
        self.asked += 1
        self.batches.append(records)
        if self.takes_s:
            await asyncio.sleep(self.takes_s)
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
        self.kafka = FakeKafka()
        self.spool: Spool = opened(directory / "own")
        self.meters = Meters()
        self.sink = SpooledSink(
            self.kafka, self.spool, self.meters, 30.0, lambda record: record.value != UNFRAMED
        )
        self.left_behind: list[Spool] = []
        self.registry_is_away = False
        way = Way(self._adopt, self._readdressed, self.sink.resume)
        self.forwarder = Forwarder(self.kafka, self.spool, self.meters, way)

    def _adopt(self) -> list[Spool]:
        found, self.left_behind = self.left_behind, []
        return found

    def _readdressed(self, record: Record, schema: str) -> Record:
        if record.value != UNFRAMED:
            return record
        if self.registry_is_away:
            raise Unavailable("registry")
        return record._replace(value=b"framed by " + schema.encode())

    def store(self, *records: Record) -> None:
        asyncio.run(self.sink.store(records))

    def forward(self) -> int:
        return asyncio.run(self.forwarder.forward_once())


async def until(holds: Callable[[], bool]) -> None:
    """Wait until this holds, for so long as any machine needs."""
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - what comes has no event
            await asyncio.sleep(0.01)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_what_kafka_acknowledges_is_not_spooled(bench: Bench) -> None:
    bench.store(upload(1))
    assert bench.kafka.taken == [upload(1)]
    assert bench.spool.totals.records == 0


def test_what_kafka_does_not_acknowledge_is_spooled_and_forwarded_in_order(bench: Bench) -> None:
    bench.kafka.is_away = True
    bench.store(upload(1))
    bench.store(upload(2), upload(3))
    assert bench.spool.totals.records == 3
    bench.kafka.is_away = False
    assert bench.forward() == 3
    assert bench.kafka.taken == [upload(1), upload(2), upload(3)]
    assert bench.spool.totals.records == 0
    assert bench.forward() == 0


def test_large_uploads_are_forwarded_in_order_a_bounded_batch_at_a_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.ingest.spooling.FORWARD_BYTES", 2_500)
    uploads = [upload(number, size) for number, size in enumerate([1_000] * 5 + [9_000] + [1_000] * 3)]
    bench.kafka.is_away = True
    bench.store(*uploads)
    bench.kafka.is_away = False
    assert bench.forward() == len(uploads)
    assert bench.kafka.taken == uploads
    sizes = [sum(len(record.value or b"") for record in batch) for batch in bench.kafka.batches]
    assert sizes[1:] == [2_000, 2_000, 1_000, 9_000, 2_000, 1_000], "over the bound only what is so alone"


def test_after_a_stall_kafka_is_not_waited_for_until_the_forwarder_got_through(bench: Bench) -> None:
    bench.kafka.is_away = True
    for number in range(5):
        bench.store(upload(number))
    assert bench.kafka.asked == 1
    with pytest.raises(Unavailable):
        bench.forward()
    bench.kafka.is_away = False
    bench.store(upload(8))
    assert bench.kafka.asked == 2, "only the forwarder tries"
    bench.forward()
    bench.store(upload(9))
    assert bench.kafka.taken[-1] == upload(9)
    assert bench.spool.totals.records == 0


def test_another_partition_is_not_held_up_by_a_stalled_one(bench: Bench) -> None:
    bench.kafka.leaderless = {5}
    at_5, at_4 = (upload(1)._replace(partition=partition) for partition in (5, 4))
    bench.store(at_4, at_5)
    for _ in range(3):
        bench.store(at_4)
    bench.store(at_5)
    assert bench.kafka.taken == [at_4] * 4
    assert bench.kafka.asked == 4, "the stalled one was not waited for again"
    assert bench.spool.totals.records == 2


def test_when_kafka_takes_nothing_else_all_partitions_are_stalled_until_one_got_through(bench: Bench) -> None:
    bench.kafka.leaderless = {5}
    at_5, at_4 = (upload(1)._replace(partition=partition) for partition in (5, 4))
    bench.store(at_5)
    bench.store(at_4)
    assert (bench.kafka.asked, bench.spool.totals.records) == (1, 2)
    bench.forward()
    bench.store(at_4)
    assert bench.kafka.taken == [at_4, at_4]
    bench.store(at_5)
    assert bench.spool.totals.records == 2, "that one is still stalled"


class Incomparable(Record):
    """A record that a look through a list would trip over: a request may have very many."""

    def __eq__(self, other: object) -> bool:
        raise AssertionError("records are told apart by which they are")

    __hash__ = Record.__hash__


def test_the_records_of_a_large_request_are_told_apart_without_looking_through_lists(bench: Bench) -> None:
    bench.kafka.leaderless = {5}
    records = [Incomparable(*upload(n))._replace(partition=n % 3 + 4) for n in range(3_000)]
    bench.store(*records)
    assert (len(bench.kafka.taken), bench.spool.totals.records) == (2_000, 1_000)
    bench.store(*records)
    assert (len(bench.kafka.taken), bench.spool.totals.records) == (4_000, 2_000)
    spooled = [waiting.record.key for waiting in bench.spool.oldest(1_000)]
    assert spooled == [record.key for record in records if record.partition == 5]


def test_a_full_spool_sends_even_a_stalled_partition_to_kafka(bench: Bench) -> None:
    bench.kafka.is_away = True
    bench.store(upload(1))
    bench.spool.close()
    with pytest.raises(Unavailable):
        bench.store(upload(2))
    bench.kafka.is_away = False
    bench.store(upload(3))
    bench.store(upload(4))
    assert bench.kafka.taken == [upload(3), upload(4)]


def test_kafka_the_spool_and_kafka_again_take_no_longer_than_an_answer_may(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.ingest.spooling.LATEST_ANSWER_S", 0.4)
    bench.kafka.leaderless = {5}
    at_5, at_4 = (upload(1)._replace(partition=partition) for partition in (5, 4))
    bench.store(at_4, at_5)
    bench.kafka.leaderless = set()
    bench.kafka.takes_s = 0.3
    bench.spool.close()
    with pytest.raises(Unavailable):
        bench.store(at_4, at_5)  # 0.3 s for what is not stalled, then again for what is
    assert bench.kafka.taken == [at_4, at_4]
    bench.kafka.takes_s = 0.0
    bench.store(at_5)
    assert bench.kafka.taken == [at_4, at_4, at_5]


def test_what_has_no_schema_id_is_spooled_and_framed_when_it_is_forwarded(bench: Bench) -> None:
    unframed = upload(1)._replace(value=UNFRAMED)
    bench.registry_is_away = True
    bench.store(unframed)
    assert bench.kafka.asked == 0
    with pytest.raises(Unavailable):
        bench.forward()
    assert bench.spool.totals.records == 1
    bench.registry_is_away = False
    assert bench.forward() == 1
    assert [record.value for record in bench.kafka.taken] == [b"framed by the schema"]


def test_a_spool_that_was_left_behind_is_adopted_by_a_running_process(bench: Bench, tmp_path: Path) -> None:
    dead = opened(tmp_path / "dead")
    asyncio.run(dead.store([upload(7)]))
    dead.close()
    left = Spool(tmp_path / "dead", most_bytes=10**7, most_age_ms=60_000, now_ms=lambda: 2_000)
    left.open()
    bench.left_behind = [left]

    async def run_a_while() -> None:
        running = asyncio.create_task(bench.forwarder.run())
        await until(lambda: not (tmp_path / "dead").exists())
        running.cancel()

    asyncio.run(run_a_while())
    assert bench.kafka.taken == [upload(7)]
    assert not (tmp_path / "dead").exists(), "an emptied one leaves nothing behind"


def test_an_adopted_spool_counts_in_the_limits_until_it_is_drained(bench: Bench, tmp_path: Path) -> None:
    dead = opened(tmp_path / "dead")
    asyncio.run(dead.store([upload(number, 1_000_000) for number in range(9)]))
    bench.left_behind = [dead]
    bench.kafka.is_away = True
    asyncio.run(bench.forwarder.adopt())
    with pytest.raises(Unavailable, match="PIPELINE_SPOOL_LIMIT_BYTES"):
        bench.store(upload(1, 2_000_000))
    assert bench.spool.is_writable(), "a smaller one has room"
    bench.kafka.is_away = False
    assert bench.forward() == 9
    bench.kafka.is_away = True
    bench.store(upload(1, 2_000_000))


def test_what_the_disk_cannot_forget_is_not_sent_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.kafka.is_away = True
    bench.store(upload(1))
    bench.kafka.is_away = False

    def full(_numbers: Sequence[int]) -> None:
        raise Unavailable("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(bench.spool, "remove", full)
        for _ in range(3):
            with pytest.raises(Unavailable):
                bench.forward()
    assert bench.kafka.taken == [upload(1)]
    bench.forward()
    assert bench.kafka.taken == [upload(1)]
    assert bench.spool.totals.records == 0


def test_a_spool_that_cannot_be_read_blocks_no_other(bench: Bench, tmp_path: Path) -> None:
    broken = opened(tmp_path / "broken")
    asyncio.run(broken.store([upload(6)]))

    def unreadable(*_arguments: object) -> None:
        raise sqlite3.DatabaseError("malformed")

    broken.oldest = unreadable  # type: ignore[method-assign,assignment]  # a page gone bad
    bench.kafka.is_away = True
    bench.store(upload(1))
    bench.kafka.is_away = False
    bench.forwarder._adopted = [broken]
    assert bench.forward() == 1
    assert bench.kafka.taken == [upload(1)]
    broken.close()


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_spool_stays_where_it_is_and_holds_up_nobody(tmp_path: Path, how: str) -> None:
    spools = tmp_path / SPOOLS
    whole = opened(spools / "whole")
    asyncio.run(whole.store([upload(7)]))
    whole.close()
    damaged(spools / "damaged", how)
    bench = Bench(tmp_path)
    adopter = Adopter(load({}, data_dir=tmp_path), bench.meters)
    way = Way(adopter.adopt, bench._readdressed, bench.sink.resume)
    bench.forwarder = Forwarder(bench.kafka, bench.spool, bench.meters, way)
    bench.kafka.is_away = True
    bench.store(upload(1))
    bench.kafka.is_away = False
    for _ in range(2):  # at the start, and while it runs
        asyncio.run(bench.forwarder.adopt())
        bench.forward()
    assert bench.kafka.taken == [upload(7), upload(1)]
    assert [directory.name for directory in spools.iterdir()] == ["damaged"]
    assert b'pipeline_internal_errors_total{part="forwarder"} 1.0' in bench.meters.text(), "told once"


def test_a_new_spool_that_another_process_has_locked_first_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [uuid.UUID(int=number) for number in range(3)]
    taken = [opened(tmp_path / SPOOLS / name.hex) for name in names[:2]]
    monkeypatch.setattr("pipeline.commands.ingest.uuid.uuid4", iter(names).__next__)
    with opened_spool(load({}, data_dir=tmp_path)) as own:
        assert own.directory.name == names[2].hex
    for spool in taken:
        spool.close()


def test_the_forwarder_survives_whatever_adopting_raises(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.ingest.spooling.RETRY_S", 0.01)
    left = [OSError("gone"), ZeroDivisionError("a bug"), sqlite3.DatabaseError("bad"), KeyError("key")]

    def adopt() -> list[Spool]:
        if left:
            raise left.pop()
        return []

    bench.forwarder = Forwarder(bench.kafka, bench.spool, bench.meters, Way(adopt))
    monkeypatch.setattr("pipeline.ingest.spooling.ADOPT_S", 0.0)
    bench.kafka.is_away = True
    bench.store(upload(1))
    bench.kafka.is_away = False

    async def run_a_while() -> None:
        running = asyncio.create_task(bench.forwarder.run())
        await until(lambda: bool(bench.kafka.taken))
        running.cancel()

    asyncio.run(run_a_while())
    assert left == []
    assert b'pipeline_internal_errors_total{part="forwarder"} 3.0' in bench.meters.text()


def test_what_waits_is_told_also_while_kafka_does_not_answer(bench: Bench) -> None:
    bench.kafka.is_away = True
    bench.store(upload(1))
    bench.kafka.takes_s = 60.0

    async def forward_in_vain() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(bench.forwarder.forward_once(), 0.1)

    asyncio.run(forward_in_vain())
    assert b"pipeline_spool_records 1.0" in bench.meters.text()


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
    bench.store(last, stuck)  # the partition is stalled: its record is spooled at once, the other goes on
    assert bench.kafka.taken == [first, last]
    assert bench.spool.totals.records == 2
    with pytest.raises(Unavailable):
        bench.forward()
    bench.kafka.leaderless = set()
    assert bench.forward() == 2
    assert bench.kafka.taken == [first, last, stuck, stuck]


def test_after_a_migration_a_spooled_upload_goes_to_the_partition_that_its_key_has_now(bench: Bench) -> None:
    bench.kafka.is_away = True
    bench.store(*(upload(number)._replace(partition=7) for number in range(9)))
    bench.kafka.is_away = False
    topics = {UPLOADS: load_topics()[UPLOADS]._replace(partitions=5)}
    way = Way(readdressed=Addresser(FakeSchemaIds(), topics, ""))
    bench.forwarder = Forwarder(bench.kafka, bench.spool, bench.meters, way)
    assert bench.forward() == 9
    assert [r.partition for r in bench.kafka.taken] == [partition_of(r.key, 5) for r in bench.kafka.taken]
