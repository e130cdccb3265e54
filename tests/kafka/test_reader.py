"""Reading to the end while retention moves the start, on librdkafka's mock cluster."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from confluent_kafka import Producer

from pipeline.contract.record import StoredRecord
from pipeline.kafka import reader as kafka_reader
from pipeline.kafka.reader import KafkaReader
from pipeline.settings import load
from tests.kafka.mock import MockCluster

TOPIC = "media.index"
RECORD_BYTES = 100_000
"""The mock cluster keeps 5 MiB of a partition, which are 52 of these."""
KEPT = 52


@pytest.fixture
def cluster() -> Iterator[MockCluster]:
    with MockCluster(TOPIC, 2) as cluster:
        yield cluster


@pytest.fixture
def reader(cluster: MockCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KafkaReader]:
    monkeypatch.setattr(kafka_reader, "REACH_DEADLINE_S", 60.0)
    with contextlib.closing(KafkaReader(load({}, kafka_bootstrap=cluster.bootstrap, data_dir=tmp_path))) as r:
        yield r


def put(cluster: MockCluster, partition: int, records: int) -> None:
    """Add records one by one: the mock cluster removes whole batches."""
    producer = Producer({"bootstrap.servers": cluster.bootstrap, "batch.num.messages": 1})
    for _ in range(records):
        producer.produce(TOPIC, bytes(RECORD_BYTES), b"key", partition)
    assert producer.flush(120) == 0


def places(records: list[StoredRecord], partition: int) -> list[int]:
    return [r.offset for r in records if r.partition == partition]


@pytest.mark.parametrize("batch", [1, 500])
def test_a_partition_whose_start_has_moved_is_read_from_its_new_start_and_no_other_is_read_twice(
    cluster: MockCluster, reader: KafkaReader, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(kafka_reader, "BATCH", batch)
    put(cluster, 0, 50)
    put(cluster, 1, 20)
    starts = {partition: reader.first_offset(TOPIC, partition) for partition in (0, 1)}
    put(cluster, 0, 30)
    found = list(reader.read(TOPIC, starts))
    assert places(found, 0) == list(range(80 - KEPT, 50)), "from what is left, to the end as it was"
    assert places(found, 1) == list(range(20))


def test_a_partition_of_which_nothing_is_left_is_at_its_end(
    cluster: MockCluster, reader: KafkaReader
) -> None:
    put(cluster, 0, 20)
    starts = {0: reader.first_offset(TOPIC, 0)}
    put(cluster, 0, 60)
    assert list(reader.read(TOPIC, starts)) == []


def test_time_that_the_taker_of_the_records_needs_is_no_silence_of_the_broker(
    cluster: MockCluster, reader: KafkaReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(cluster, 0, 1)
    assert reader.end_offset(TOPIC, 0) == 1
    now_s = [0.0]  # moved on by the taker alone
    monkeypatch.setattr(kafka_reader, "time", SimpleNamespace(monotonic=lambda: now_s[0], sleep=time.sleep))
    cluster.delay_ms(500)  # the answer that says where the end is is waited for after the pause
    found = 0
    for _ in reader.read(TOPIC, {0: 0}):
        found += 1
        now_s[0] += 3_600
    assert found == 1
