"""What the Faust worker is measured against: a confluent-kafka consumer around the same stages and lanes."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from confluent_kafka import Consumer, Message, TopicPartition

from pipeline.commands.garbage import tune_gc
from pipeline.commands.home import kafka_codec
from pipeline.contract.record import StoredRecord
from pipeline.contract.topics import load_topics
from pipeline.kafka.clients import client_config
from pipeline.kafka.lanes import Lanes
from pipeline.settings import load
from pipeline.stages.datastreams import OPEN_DIRECTORY
from pipeline.topology import UPLOADS, Processed, Topology
from pipeline.worker.carrier import LINGER_S


def main() -> None:
    """Carry uploads until killed."""
    settings = load()
    codec = kafka_codec(settings)
    topics = load_topics(settings.partitions)
    topology = Topology(codec, topics, OPEN_DIRECTORY)
    for topic in topics:
        codec.prepare(topic)
    lanes = Lanes(settings, codec, topics)
    pool = ThreadPoolExecutor(12)
    partitions = range(topics[UPLOADS].partitions)
    name = settings.kafka_topic_prefix + UPLOADS
    starts = zip(partitions, pool.map(lanes.resume, partitions), strict=True)

    def process(partition: int, records: list[StoredRecord]) -> Processed:
        now_ms = time.time_ns() // 1_000_000
        return topology.process(records, lambda keys: lanes.known(partition, keys), now_ms)

    consumer = Consumer(client_config(settings, **{"group.id": "bench", "enable.auto.commit": False}))
    consumer.assign([TopicPartition(name, partition, offset) for partition, offset in starts])

    def commit(partition: int, processed: Processed, records: list[StoredRecord]) -> None:
        lanes.commit(partition, processed.records, records[processed.taken - 1].offset + 1)

    tune_gc()
    while True:
        waiting: dict[int, list[StoredRecord]] = {}
        for message in consumer.consume(settings.worker_batch_records, LINGER_S):
            waiting.setdefault(message.partition(), []).append(_stored(message))
        while waiting:
            # The stages in one thread, which they keep busy; the transactions, which wait, beside each other.
            done = {p: process(p, records) for p, records in waiting.items()}
            list(pool.map(commit, done, done.values(), waiting.values()))
            waiting = {p: rest for p, records in waiting.items() if (rest := records[done[p].taken :])}


def _stored(message: Message) -> StoredRecord:
    return StoredRecord(
        UPLOADS,
        message.partition(),
        message.offset(),
        message.key(),
        message.value(),
        message.timestamp()[1],
        (),
    )


if __name__ == "__main__":
    main()
