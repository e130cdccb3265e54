"""How a batch is cut into transactions, and how it is carried."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from pipeline.contract.record import Record, StoredRecord
from pipeline.settings import load
from pipeline.wire.encode import to_media_collection
from pipeline.worker.carrier import Ending, first_of
from pipeline.worker.room import TRANSACTIONS, Room
from tests.stories import story
from tests.worker.carrying import FakeLanes, Message, Worker, upload


def record(offset: int, size: int) -> StoredRecord:
    return StoredRecord("media.uploads", 0, offset, b"", b"x" * size, 0, ())


def offsets(sizes: list[int], most_bytes: int, most_records: int) -> list[list[int]]:
    rest = [record(offset, size) for offset, size in enumerate(sizes)]
    parts = []
    while rest:
        part = first_of(rest, most_bytes, most_records)
        rest = rest[len(part) :]
        parts.append([r.offset for r in part])
    return parts


def test_a_transaction_is_bounded_by_bytes_and_a_larger_upload_goes_alone() -> None:
    assert offsets([4, 4, 50, 1], most_bytes=10, most_records=100) == [[0, 1], [2], [3]]


def test_a_transaction_is_bounded_by_the_number_of_uploads() -> None:
    assert offsets([1] * 5, most_bytes=100, most_records=2) == [[0, 1], [2, 3], [4]]


def test_nothing_is_left_out_when_all_fits() -> None:
    assert offsets([1, 1], most_bytes=100, most_records=2) == [[0, 1]]


def test_a_batch_that_gives_too_much_for_one_transaction_is_carried_in_several() -> None:
    long = json.loads(to_media_collection(story("0 start, 0 play, 10 complete")))
    long[0]["customMetadata"] = {"note": "x" * 200_000}
    values = []
    for number in range(6):
        long[0]["params"]["media.id"] = f"film-{number}"
        values.append(upload(number, json.dumps(long).encode()))
    lanes = FakeLanes()

    async def carry() -> None:
        worker = Worker(lanes, load({}, worker_output_bytes=1024 * 1024))
        await worker.ownership.taken(1, [3])
        await worker.carry([Message(3, offset, value) for offset, value in enumerate(values)], 1)
        assert worker.ownership.committed == {3: 6}
        assert b"pipeline_records_read_total 6.0" in worker.meters.text()

    asyncio.run(carry())
    assert len(lanes.commits) > 1
    assert max(sum(len(r.value or b"") for r in c.records) for c in lanes.commits) <= 1024 * 1024
    assert [o["upload_id"] for o in lanes.values("media.outcomes")] == [f"upload-{n}" for n in range(6)]


def test_the_stages_wait_while_too_much_is_on_its_way() -> None:
    room, waited = Room(most_bytes=10), threading.Event()
    room.take(25)

    def stage() -> None:
        room.wait()
        waited.set()

    thread = threading.Thread(target=stage)
    thread.start()
    room.give(15)
    assert not waited.wait(0.1)
    room.give(5)
    assert waited.wait(10)
    thread.join()


def test_a_partition_that_was_taken_over_while_a_gap_was_looked_into_goes_on_where_its_new_owner_says() -> (
    None
):
    class MovedMeanwhile(FakeLanes):
        def first_upload_from(self, partition: int, offset: int) -> int | None:
            worker.ownership.generation, worker.ownership.expected = 2, {3: 5}
            return None

    async def carry() -> None:
        await worker.ownership.taken(1, [3])
        await worker.carry([Message(3, 7, upload(1))], 1)

    worker = Worker(MovedMeanwhile())
    asyncio.run(carry())
    assert worker.ownership.expected == {3: 5}
    assert worker.lanes.commits == []


@pytest.mark.parametrize(("first", "event"), [(4, "uploads_passed_over"), (None, "gap_not_known")])
def test_uploads_that_were_passed_over_or_may_have_been_end_the_worker(first: int | None, event: str) -> None:
    class Holding(FakeLanes):
        def first_upload_from(self, partition: int, offset: int) -> int | None:
            return first

    worker = Worker(Holding())
    with pytest.raises(SystemExit):
        asyncio.run(carried_from(worker, 0, 7))
    assert worker.ended == [(Ending.STUCK, event)]
    assert [c.next_offset for c in worker.lanes.commits] == [1]
    assert b"pipeline_lost_offsets_total 0.0" in worker.meters.text()


def test_a_gap_that_the_topic_itself_has_is_counted_and_the_worker_goes_on() -> None:
    class Holding(FakeLanes):
        def first_upload_from(self, partition: int, offset: int) -> int | None:
            return 7

    worker = Worker(Holding())
    asyncio.run(carried_from(worker, 0, 7))
    assert worker.ended == []
    assert [c.next_offset for c in worker.lanes.commits] == [1, 8]
    assert b"pipeline_lost_offsets_total 6.0" in worker.meters.text()


async def carried_from(worker: Worker, *offsets: int) -> None:
    """Have uploads with these offsets carried one by one, those of partition 3."""
    await worker.ownership.taken(1, [3])
    for offset in offsets:
        await worker.carry([Message(3, offset, upload(offset))], 1)


def test_what_was_in_the_stages_while_its_partition_was_taken_over_again_is_not_committed() -> None:
    class TakenMeanwhile(FakeLanes):
        def known(self, partition: int, keys: Any) -> Mapping[bytes, bytes]:
            if worker.ownership.generation == 1:
                asyncio.run_coroutine_threadsafe(worker.ownership.taken(2, [3]), loops[0]).result(10)
            return super().known(partition, keys)

    async def carry() -> None:
        loops.append(asyncio.get_running_loop())
        await worker.ownership.taken(1, [3])
        await worker.carry([Message(3, 0, upload(0))], 1)

    loops: list[asyncio.AbstractEventLoop] = []
    worker = Worker(TakenMeanwhile())
    with pytest.raises(SystemExit):
        asyncio.run(carry())
    assert worker.ended == [(Ending.FENCED, "fenced")]
    assert worker.lanes.commits == []
    assert worker.ownership.generation == 2


def test_a_partition_that_was_lost_is_owned_no_more_whatever_its_last_commit_did() -> None:
    class LostMeanwhile(FakeLanes):
        def commit(self, partition: int, records: Any, next_offset: int, hold: object) -> None:
            super().commit(partition, records, next_offset, hold)
            asyncio.run_coroutine_threadsafe(worker.ownership.taken(2, [4]), loops[0]).result(10)

    async def carry() -> None:
        loops.append(asyncio.get_running_loop())
        await worker.ownership.taken(1, [3, 4])
        await worker.carry([Message(3, 0, upload(1))], 1)

    loops: list[asyncio.AbstractEventLoop] = []
    worker = Worker(LostMeanwhile())
    asyncio.run(carry())
    assert worker.lanes.released == [3]
    assert (worker.ownership.committed, worker.ownership.expected) == ({4: 0}, {4: 0})


def test_uploads_of_a_partition_that_come_shortly_after_each_other_share_a_transaction() -> None:
    async def carry() -> None:
        await worker.ownership.taken(1, [3, 4])
        await worker.carrier.take([Message(3, 0, upload(0))], 1)
        await worker.carrier.take([Message(4, 0, upload(1)), Message(3, 1, upload(2))], 1)
        assert worker.lanes.commits == []
        await worker.carry([Message(3, 2, upload(3))], 1)

    worker = Worker(FakeLanes())
    asyncio.run(carry())
    assert [(c.partition, c.next_offset) for c in worker.lanes.commits] == [(3, 3), (4, 1)]
    assert [(m.partition, m.offset) for m in worker.let_go] == [(3, 0), (3, 1), (3, 2), (4, 0)]


def test_a_partition_that_waits_for_its_commit_holds_up_no_other() -> None:
    class SlowFor3(FakeLanes):
        def commit(self, partition: int, records: Any, next_offset: int, hold: object) -> None:
            if partition == 3:
                assert others.wait(10)
            super().commit(partition, records, next_offset, hold)
            if next_offset == 2:
                others.set()

    async def carry() -> None:
        await worker.ownership.taken(1, [3, 4])
        await worker.carrier.take([Message(3, 0, upload(0)), Message(4, 0, upload(1))], 1)
        await worker.carrier.held_below(2)
        await worker.carry([Message(4, 1, upload(2))], 1)

    others = threading.Event()
    worker = Worker(SlowFor3())
    asyncio.run(carry())
    assert [(c.partition, c.next_offset) for c in worker.lanes.commits] == [(4, 1), (4, 2), (3, 1)]


def test_a_worker_takes_no_more_than_some_transactions_bytes_in_hand() -> None:
    class Waiting(FakeLanes):
        def commit(self, partition: int, records: Any, next_offset: int, hold: object) -> None:
            assert may_commit.wait(10)
            super().commit(partition, records, next_offset, hold)

    async def carry() -> None:
        await worker.ownership.taken(1, [3])
        await worker.carrier.take([Message(3, offset, upload(offset)) for offset in range(few)], 1)
        more = asyncio.create_task(worker.carrier.take([Message(3, few, upload(few))], 1))
        await asyncio.sleep(0.2)
        assert not more.done(), "it has taken more than four transactions' worth of bytes"
        may_commit.set()
        await more
        await worker.carrier.held_below(1)

    few = 7
    may_commit = threading.Event()
    batch_bytes = (few + 1) * len(upload(0)) // TRANSACTIONS
    worker = Worker(Waiting(), load({}, worker_batch_bytes=batch_bytes))
    asyncio.run(carry())
    assert worker.lanes.commits[-1].next_offset == few + 1


def test_what_waits_when_the_flow_stops_is_let_go_and_read_again() -> None:
    async def carry() -> None:
        await worker.ownership.taken(1, [3])
        await worker.carry([Message(3, 0, upload(0))], 1)
        await worker.carrier.take([Message(3, 1, upload(1)), Message(3, 2, upload(2))], 1)
        worker.is_flowing = False
        await worker.carry([Message(3, 3, upload(3))], 1)
        assert (worker.ownership.expected, worker.ownership.committed) == ({3: 1}, {3: 1})
        worker.is_flowing = True
        await worker.carry([Message(3, offset, upload(offset)) for offset in (1, 2, 3)], 1)

    worker = Worker(FakeLanes())
    asyncio.run(carry())
    assert [c.next_offset for c in worker.lanes.commits] == [1, 4]
    assert len(worker.let_go) == 7


def test_what_waits_when_its_partition_is_taken_over_again_is_left_to_that_generation() -> None:
    async def carry() -> None:
        await worker.ownership.taken(1, [3])
        await worker.carrier.take([Message(3, 0, upload(0))], 1)
        await worker.ownership.taken(2, [3])
        await worker.carrier.take([Message(3, 0, upload(0), generation_id=2)], 2)
        await worker.carry([Message(3, 1, upload(1), generation_id=1)], 1)

    worker = Worker(FakeLanes())
    asyncio.run(carry())
    assert [c.next_offset for c in worker.lanes.commits] == [1]
    assert worker.ownership.expected == {3: 1}


def test_more_is_taken_only_when_there_is_room() -> None:
    async def carry() -> None:
        await worker.ownership.taken(1, [3])
        messages = [Message(3, offset, upload(offset)) for offset in range(5)]
        await worker.carrier.take(messages[:4], 1)
        assert worker.let_go == messages[:4]
        await worker.carrier.take(messages[4:], 1)

    worker = Worker(FakeLanes(), load({}, worker_batch_records=4))
    asyncio.run(carry())


def test_an_unforeseen_fault_ends_the_worker() -> None:
    class Faulty(FakeLanes):
        def commit(self, partition: int, records: Any, next_offset: int, hold: object) -> None:
            raise ValueError("unforeseen")

    async def carry() -> None:
        await worker.ownership.taken(1, [3])
        await worker.carry([Message(3, 0, upload(0))], 1)

    worker = Worker(Faulty())
    with pytest.raises(SystemExit):
        asyncio.run(carry())
    assert worker.ended == [(Ending.STUCK, "not_committed")]
    assert worker.ownership.committed == {3: 0}


def too_large(most_bytes: int) -> Callable[[Record], bool]:
    return lambda record: len(record.value or b"") > most_bytes


async def carried(worker: Worker, *values: bytes | None) -> None:
    await worker.ownership.taken(1, [3])
    await worker.carry([Message(3, offset, value) for offset, value in enumerate(values)], 1)


def test_an_upload_of_which_kafka_refuses_a_record_is_a_whole_dead_letter_and_its_neighbours_count() -> None:
    long = json.loads(to_media_collection(story("0 start, 0 play, 10 complete", name="film-2")))
    long[0]["customMetadata"] = {"note": "x" * 20_000}
    body = json.dumps(long).encode()
    worker = Worker(FakeLanes(lambda r: r.topic == "media.sessions" and too_large(10_000)(r)))
    asyncio.run(carried(worker, upload(1), upload(2, body), upload(3)))
    outcomes = worker.lanes.values("media.outcomes")
    assert [o["outcome"] for o in outcomes] == ["accepted", "rejected", "accepted"]
    (letter,) = worker.lanes.values("media.uploads.dlq")
    assert (letter["reason"], letter["body"], letter["truncated"]) == ("record_too_large", body, False)


def test_poison_that_is_larger_than_any_upload_is_a_dead_letter_that_its_topic_takes() -> None:
    """Another producer's: the broker measures what it gets compressed, a dead letter holds it as it was."""
    settings = load({})
    most_bytes = settings.ingest_body_limit_bytes + 64 * 1024
    worker = Worker(FakeLanes(lambda r: r.topic == "media.uploads.dlq" and too_large(most_bytes)(r)))
    headers = [("h", b"x" * 3_000_000), ("small", b"1"), ("traceparent", b"x" * 3_000_000)]
    poison = Message(3, 1, b"\xff" * 9_000_000, key=b"k" * 3_000_000, headers=headers)

    async def carry() -> None:
        await worker.ownership.taken(1, [3])
        await worker.carry([Message(3, 0, upload(1)), poison, Message(3, 2, upload(3))], 1)

    asyncio.run(carry())
    assert len(worker.lanes.commits) == 1, "it was made to fit before Kafka was asked"
    outcomes = worker.lanes.values("media.outcomes")
    assert [o["outcome"] for o in outcomes] == ["accepted", "rejected", "accepted"]
    (letter,) = worker.lanes.values("media.uploads.dlq")
    assert (letter["reason"], letter["truncated"]) == ("undecodable", True)
    assert letter["body"] == poison.value[: len(letter["body"])] if poison.value else False
    assert len(letter["body"]) > settings.ingest_body_limit_bytes * 0.9
    assert [h["name"] for h in letter["headers"]] == ["small"]


def test_a_dead_letter_that_kafka_refuses_for_good_is_cut_and_blocks_nothing() -> None:
    worker = Worker(FakeLanes(lambda r: r.topic == "media.uploads.dlq" and too_large(30_000)(r)))
    asyncio.run(carried(worker, upload(1), b"\xff" * 100_000, upload(3)))
    assert worker.ended == []
    outcomes = worker.lanes.values("media.outcomes")
    assert [o["outcome"] for o in outcomes] == ["accepted", "rejected", "accepted"]
    (letter,) = worker.lanes.values("media.uploads.dlq")
    assert (letter["reason"], letter["truncated"]) == ("undecodable", True)
    assert 10_000 < len(letter["body"]) <= 16 * 1024


def test_a_broker_that_takes_nothing_ends_the_worker() -> None:
    worker = Worker(FakeLanes(lambda r: r.topic == "media.uploads.dlq"))
    with pytest.raises(SystemExit):
        asyncio.run(carried(worker, b"poison"))
    assert worker.ended == [(Ending.STUCK, "not_committed")]
