"""Kafka as one home: the real producers and reader put together for the suites that run on every home."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from confluent_kafka import IsolationLevel, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from pipeline.contract.codec import Codec
from pipeline.contract.record import Record, StoredRecord
from pipeline.contract.topics import Topic, load_topics
from pipeline.kafka import admin
from pipeline.kafka.lanes import Lanes
from pipeline.kafka.reader import KafkaReader
from pipeline.kafka.uploads import UploadProducer
from pipeline.settings import Settings, load

PARTITIONS: Final = 6
"""As docker-compose.yml has. The default, four times as many, costs broker and workers four times as much."""
_numbers = itertools.count(1)
_PROCESS: Final = os.environ.get("PYTEST_XDIST_WORKER", "")
"""Which of the processes of a test run this is: they have one broker together."""


class Brokers(Protocol):
    """What can be reached at an address: lent, a node or a cluster."""

    @property
    def bootstrap(self) -> str:
        """Addresses as clients take them."""


def settings_of(kafka: Brokers, data_dir: Path, **more: Any) -> Settings:
    """Return settings for this broker, with a topic prefix and a group of their own."""
    name = f"{_PROCESS}t{next(_numbers)}"
    given = {
        "kafka_bootstrap": kafka.bootstrap,
        "data_dir": data_dir,
        "kafka_topic_prefix": f"{name}.",
        "worker_group": f"worker-{name}",
        "partitions": PARTITIONS,
    }
    return load({}, **given | more)


def remove_records(settings: Settings, topic: str, partition: int, before: int = -1) -> int:
    """Remove the records before this offset (-1: all), as retention does; return the first one's now."""
    client = AdminClient({"bootstrap.servers": settings.kafka_bootstrap})
    place = TopicPartition(settings.kafka_topic_prefix + topic, partition, before)
    return int(client.delete_records([place])[place].result(20).low_watermark)


@contextmanager
def made_topics(settings: Settings, topics: Mapping[str, Topic] | None = None) -> Iterator[None]:
    """Make the topics under the settings' prefix, and delete them afterwards."""
    admin.apply(settings, topics or load_topics(settings.partitions))
    yield
    delete_topics(settings)


def delete_topics(settings: Settings) -> None:
    """Delete those topics under the settings' prefix that there are."""
    client = AdminClient({"bootstrap.servers": settings.kafka_bootstrap})
    names = [settings.kafka_topic_prefix + name for name in load_topics()]
    held = [name for name in names if name in client.list_topics(timeout=20).topics]
    for future in client.delete_topics(held).values() if held else ():
        future.result(60)


class KafkaHome:
    """The ports on Kafka, in one object."""

    def __init__(self, settings: Settings, codec: Codec, topics: Mapping[str, Topic] | None = None) -> None:
        self._lanes = Lanes(settings, codec, topics or load_topics(settings.partitions))
        # A test waits for a slow machine rather than for the spool, which this home has not.
        patient = dataclasses.replace(settings, ingest_ack_deadline_ms=30_000)
        self._uploads = UploadProducer(patient, time.monotonic)
        self._reader = KafkaReader(settings)
        self._prefix = settings.kafka_topic_prefix
        self._admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap})

    async def store(self, records: Sequence[Record]) -> None:
        await self._uploads.store(records)

    def take_over(self, partition: int) -> int:
        return self._lanes.take_over(partition)

    def known(self, partition: int, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        return self._lanes.known(partition, keys)

    def commit(self, partition: int, records: Sequence[Record], next_offset: int) -> None:
        self._lanes.commit(partition, records, next_offset)
        touched = {(record.topic, record.partition) for record in records} | {("media.index", partition)}
        self._await_markers(touched)

    def _await_markers(self, touched: set[tuple[str, int]]) -> None:
        """A committed transaction is visible once its markers are written, a moment after the commit."""
        places = {TopicPartition(self._prefix + topic, p): OffsetSpec.latest() for topic, p in touched}
        end = time.monotonic() + 60
        while time.monotonic() < end:
            seen = [
                {place: future.result(30).offset for place, future in asked.items()}
                for asked in (
                    self._admin.list_offsets(places, isolation_level=level)
                    for level in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED)
                )
            ]
            if seen[0] == seen[1]:
                return
            time.sleep(0.01)

    def read(self, topic: str, partition: int, offset: int, limit: int) -> list[StoredRecord]:
        self._reader.refresh()
        return list(itertools.islice(self._reader.read(topic, {partition: offset}), limit))

    def end_offset(self, topic: str, partition: int) -> int:
        self._reader.refresh()
        return self._reader.end_offset(topic, partition)

    def wait_for_records(self, topic: str, positions: Mapping[int, int], timeout_s: float) -> bool:
        return any(self.end_offset(topic, p) > at for p, at in positions.items())

    def close(self) -> None:
        self._uploads.close()
        self._reader.close()
        self._lanes.close()
