"""How a batch is cut into transactions, and how it is carried."""

from __future__ import annotations

import asyncio
import json
import threading

from pipeline.contract.record import StoredRecord
from pipeline.settings import load
from pipeline.wire.encode import to_media_collection
from pipeline.worker.carrier import split
from pipeline.worker.room import Room
from tests.stories import story
from tests.worker.carrying import FakeLanes, Message, Worker, upload


def record(offset: int, size: int) -> StoredRecord:
    return StoredRecord("media.uploads", 0, offset, b"", b"x" * size, 0, ())


def offsets(sizes: list[int], most_bytes: int, most_records: int) -> list[list[int]]:
    rest = [record(offset, size) for offset, size in enumerate(sizes)]
    parts = []
    while rest:
        part, rest = split(rest, most_bytes, most_records)  # type: ignore[assignment]  # a list gives lists
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
        await worker.carrier.carry([Message(3, offset, value) for offset, value in enumerate(values)], 1)
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
