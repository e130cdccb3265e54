"""The ledger of topics that an index was moved into: what ended under the old prefix is not theirs."""

from __future__ import annotations

import asyncio
import itertools

from pipeline.contract.codec import Codec
from pipeline.contract.positions import position_maker
from pipeline.contract.record import Record
from pipeline.contract.records import IndexEntry
from pipeline.contract.topics import load_topics
from pipeline.settings import PARTITIONS
from pipeline.stages.ledger import Entry, Ledger, Partition, balance
from pipeline.wire.encode import to_media_collection
from tests.fakes import FakeLog, FakeSchemaIds
from tests.homes.uploading import NOW_MS, Pipeline, make_pipeline
from tests.stories import story

INDEX, UPLOADS = "media.index", "media.uploads"
BODY = to_media_collection(story("0 start, 0 play, 10 end"))


def ledger(pipeline: Pipeline, since_ms: int = 0) -> Ledger:
    entries, uploads = [], {}
    for topic, row in load_topics().items():
        for partition in range(row.partitions):
            for r in pipeline.home.read(topic, partition, 0, 1_000):
                value = pipeline.codec.decode(r.value)
                entries.append(Entry(topic, partition, r.offset, r.key.decode(), r.timestamp_ms, value))
    for partition in range(PARTITIONS):
        end = pipeline.home.end_offset(UPLOADS, partition)
        uploads[partition] = Partition(0, end, end)
    return balance(entries, uploads, since_ms)


def moved(before: Pipeline, codec: Codec, timestamp_ms: int) -> Pipeline:
    """Return a pipeline on new topics that know what the old ones knew."""
    home = FakeLog(position_maker(codec))
    for partition in range(PARTITIONS):
        for r in before.home.read(INDEX, partition, 0, 100):
            entry = codec.decode_record(IndexEntry, r.value)
            if entry.kind != "position":
                value = codec.encode(INDEX, entry._replace(migrated_from=""))
                asyncio.run(home.store([Record(INDEX, partition, r.key, value, timestamp_ms)]))
    return make_pipeline(home, codec)._replace(ids=itertools.count(1_000))


def test_a_redelivery_of_an_upload_that_ended_before_is_neither_received_nor_missing() -> None:
    codec = Codec(FakeSchemaIds())
    before = make_pipeline(FakeLog(position_maker(codec)), codec)
    for body in (BODY, b"{}"):
        before.send(body)
    before.carry()
    for timestamp_ms in (NOW_MS, 1):  # entries keep their time, which may be long before the ledger's window
        after = moved(before, codec, timestamp_ms)
        for partition in range(PARTITIONS):
            for r in before.home.read(UPLOADS, partition, 0, 100):
                asyncio.run(after.home.store([Record(UPLOADS, partition, r.key, r.value, r.timestamp_ms)]))
        after.send(BODY)
        after.carry()
        found = ledger(after, since_ms=NOW_MS - 1)
        assert found.balances, [check for check in found.checks if not check.balances]
        assert (found.received, found.redelivered, found.pending) == (1, 2, 0)
        assert found.outcomes == {"accepted": 0, "duplicate": 1, "rejected": 0}


def test_an_upload_that_is_not_known_from_before_and_has_no_outcome_is_missed() -> None:
    codec = Codec(FakeSchemaIds())
    before = make_pipeline(FakeLog(position_maker(codec)), codec)
    before.send(BODY)
    before.carry()
    after = moved(make_pipeline(FakeLog(position_maker(codec)), codec), codec, NOW_MS)
    for partition in range(PARTITIONS):
        for r in before.home.read(UPLOADS, partition, 0, 100):
            asyncio.run(after.home.store([Record(UPLOADS, partition, r.key, r.value, r.timestamp_ms)]))
    assert not ledger(after).balances
