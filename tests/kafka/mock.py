"""librdkafka's mock cluster, for faults that a real broker does not have on demand."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import confluent_kafka

PRODUCER = 0
NO_LEADER = -1
POINTERS = (
    "rd_kafka_conf_new",
    "rd_kafka_new",
    "rd_kafka_mock_cluster_new",
)


class MockCluster:
    """One mock broker with one topic, from the library that confluent-kafka brings."""

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
        self._must(self._library.rd_kafka_mock_topic_create(self._cluster, self._topic, partitions, 1))
        self.bootstrap = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def set_leader(self, partition: int, broker: int) -> None:
        """Give a partition this leader, or none."""
        self._must(
            self._library.rd_kafka_mock_partition_set_leader(self._cluster, self._topic, partition, broker)
        )

    def __enter__(self) -> MockCluster:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)

    def _must(self, error: int) -> None:
        assert error == 0, error
