"""The ingest's producer on librdkafka's mock cluster: spent identities, brokers that hang, full queues."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaError

from pipeline.contract.ports import NeverTaken, Unavailable
from pipeline.contract.record import Record
from pipeline.contract.topics import load_topics
from pipeline.kafka.clients import largest_record_bytes
from pipeline.kafka.uploads import POLL_S, UploadProducer, queue_bytes
from pipeline.settings import load
from pipeline.topology import UPLOADS
from tests.kafka.mock import MockCluster

DEADLINE_MS = 120_000
DEADLINE_S = DEADLINE_MS / 1000
LIMIT_S = DEADLINE_S / 2
"""What ends by itself ends before this, on however slow a machine; what only the deadline ends does not."""


class Clock:
    """The producer's clock: it stands until a test moves it on."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def cluster() -> Iterator[MockCluster]:
    with MockCluster(UPLOADS, load_topics()[UPLOADS].partitions) as mock:
        yield mock


def record(number: int, size: int = 100) -> Record:
    return Record(UPLOADS, number % 24, b"%d" % number, bytes(size), 1_700_000_000_000)


def run(
    cluster: MockCluster,
    data_dir: Path,
    work: Callable[[UploadProducer], Awaitable[None]],
    clock: Callable[[], float] | None = None,
    deadline_ms: int = DEADLINE_MS,
) -> None:
    """Run work on a producer that has stored something before."""
    settings = dataclasses.replace(
        load({}, kafka_bootstrap=cluster.bootstrap, data_dir=data_dir), ingest_ack_deadline_ms=deadline_ms
    )

    async def main() -> None:
        producer = UploadProducer(settings, clock or Clock())
        await until_stored(producer, 0)
        await work(producer)
        producer._producer.purge()  # what is left waits in vain
        producer.close()

    asyncio.run(main())


async def stored(producer: UploadProducer, number: int) -> str:
    try:
        await producer.store([record(number)])
    except (Unavailable, NeverTaken) as error:
        return type(error).__name__
    return "stored"


async def until_stored(producer: UploadProducer, number: int) -> None:
    async with asyncio.timeout(LIMIT_S):
        while await stored(producer, number) != "stored":
            pass


def test_what_is_acknowledged_makes_it_ready(cluster: MockCluster, tmp_path: Path) -> None:
    async def work(producer: UploadProducer) -> None:
        await producer.store([record(n) for n in range(50)])
        assert producer.is_ready()

    run(cluster, tmp_path, work)


def test_a_producer_whose_identity_is_spent_is_replaced_and_every_store_ends(
    cluster: MockCluster, tmp_path: Path
) -> None:
    async def work(producer: UploadProducer) -> None:
        for _ in range(3):
            cluster.end_identity(producer._producer)
            spent = producer._producer
            async with asyncio.timeout(LIMIT_S):
                ended = await asyncio.gather(*(stored(producer, n) for n in range(200)))
            assert set(ended) <= {"stored", "Unavailable"}
            await until_stored(producer, 1)
            assert producer._producer is not spent
        async with asyncio.timeout(LIMIT_S):
            while producer._retired:  # noqa: ASYNC110 - kept for as long as an acknowledgement may take
                await asyncio.sleep(0.05)

    run(cluster, tmp_path, work, time.monotonic, 1_000)


@pytest.mark.parametrize("code", [KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER])
def test_a_refused_identity_costs_at_most_a_try(cluster: MockCluster, tmp_path: Path, code: int) -> None:
    async def work(producer: UploadProducer) -> None:
        cluster.refuse_produce(code)
        first = await stored(producer, 1)
        assert first in {"stored", "Unavailable"}
        assert "stored" in [await stored(producer, n) for n in range(2, 12)]

    run(cluster, tmp_path, work)


def test_a_broker_that_accepts_but_never_acknowledges_ends_every_store_in_time(
    cluster: MockCluster, tmp_path: Path
) -> None:
    clock = Clock()

    async def work(producer: UploadProducer) -> None:
        cluster.delay_ms(DEADLINE_MS)
        waiting = [asyncio.create_task(stored(producer, n)) for n in range(300)]
        await asyncio.sleep(POLL_S)
        clock.now_s = DEADLINE_S - 0.001
        await asyncio.sleep(20 * POLL_S)
        assert not any(each.done() for each in waiting)
        clock.now_s = DEADLINE_S
        async with asyncio.timeout(LIMIT_S):
            assert set(await asyncio.gather(*waiting)) == {"Unavailable"}
        assert not producer.is_ready()
        cluster.delay_ms(0)

    run(cluster, tmp_path, work, clock)


def test_a_full_queue_is_told_at_once(
    cluster: MockCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.kafka.uploads.queue_bytes", lambda _settings: 64 * 1024)

    async def work(producer: UploadProducer) -> None:
        cluster.delay_ms(DEADLINE_MS)
        waiting = [asyncio.create_task(stored(producer, n)) for n in range(1_000)]
        await asyncio.sleep(0)
        assert await stored(producer, 1) == "Unavailable"
        assert not waiting[0].done(), "told before those that are queued have waited in vain"
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        cluster.delay_ms(0)

    run(cluster, tmp_path, work)


def test_a_record_as_large_as_the_settings_allow_fits_the_queue() -> None:
    for body_limit_bytes in (4 * 1024 * 1024, 64 * 1024 * 1024):
        settings = load({}, ingest_body_limit_bytes=body_limit_bytes)
        assert queue_bytes(settings) > largest_record_bytes(settings) + 1024


def test_a_time_that_the_broker_does_not_take_is_tried_again(cluster: MockCluster, tmp_path: Path) -> None:
    async def work(producer: UploadProducer) -> None:
        cluster.refuse_produce(KafkaError.INVALID_TIMESTAMP)
        assert await stored(producer, 1) == "Unavailable"
        assert "stored" in [await stored(producer, 1) for _ in range(10)]

    run(cluster, tmp_path, work)


def test_a_record_that_is_too_large_is_never_taken(cluster: MockCluster, tmp_path: Path) -> None:
    async def work(producer: UploadProducer) -> None:
        with pytest.raises(NeverTaken) as refused:
            await producer.store([record(1), record(2, size=30_000_000)])
        assert refused.value.refused == {1}

    run(cluster, tmp_path, work)
