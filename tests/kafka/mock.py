"""librdkafka's mock cluster, for faults that a real broker does not have on demand."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import confluent_kafka

from pipeline.contract.topics import load_topics

PRODUCER = 0
NO_LEADER = -1
PRODUCE = 0
POINTERS = (
    "rd_kafka_conf_new",
    "rd_kafka_new",
    "rd_kafka_mock_cluster_new",
)


class MockCluster:
    """One mock broker with all topics and one to work with, from the library that confluent-kafka brings."""

    def __init__(self, topic: str, partitions: int) -> None:
        self._topic = topic.encode()
        folder = Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs"
        self._library: Any = ctypes.CDLL(str(next(folder.glob("librdkafka-*.so*"))))
        for name in POINTERS:
            getattr(self._library, name).restype = ctypes.c_void_p
        self._library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        said = ctypes.create_string_buffer(512)
        configuration = ctypes.c_void_p(self._library.rd_kafka_conf_new())
        self._client = ctypes.c_void_p(self._library.rd_kafka_new(PRODUCER, configuration, said, len(said)))
        assert self._client.value, said.value
        self._cluster = ctypes.c_void_p(self._library.rd_kafka_mock_cluster_new(self._client, 1))
        for name in {topic, *load_topics()}:
            made = self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1)
            self._must(made)
        self.bootstrap = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def set_leader(self, partition: int, broker: int) -> None:
        """Give a partition this leader, or none."""
        self._must(
            self._library.rd_kafka_mock_partition_set_leader(self._cluster, self._topic, partition, broker)
        )

    def delay_ms(self, delay: int) -> None:
        """Let every answer of the broker take so long."""
        self._must(self._library.rd_kafka_mock_broker_set_rtt(self._cluster, 1, delay))

    def refuse_produce(self, *codes: int) -> None:
        """Answer the next produce requests with these errors."""
        errors = (ctypes.c_int * len(codes))(*codes)
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster, ctypes.c_int16(PRODUCE), ctypes.c_size_t(len(codes)), errors
        )

    def end_identity(self, producer: confluent_kafka.Producer) -> None:
        """Give a producer a fatal error, as a broker does that has forgotten or fenced it."""
        handle = ctypes.c_void_p.from_address(id(producer) + object.__basicsize__)
        self._must(
            self._library.rd_kafka_test_fatal_error(
                handle, confluent_kafka.KafkaError.INVALID_PRODUCER_EPOCH, b"made by a test"
            )
        )

    def __enter__(self) -> MockCluster:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)

    def _must(self, error: int) -> None:
        assert error == 0, error
