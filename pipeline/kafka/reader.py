"""Read committed records of Kafka as the embedded log's reader does: for `records` and `ledger`."""

from __future__ import annotations

import time
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from pipeline.contract.record import StoredRecord
from pipeline.kafka.clients import (
    ISOLATION,
    REACH_DEADLINE_S,
    client_config,
    largest_record_bytes,
    quiet,
    unreachable,
)
from pipeline.settings import SettingError, Settings

POLL_S: Final = 0.05
RETRY_S: Final = 0.2


class KafkaReader:
    """Reads committed records; offsets have gaps where transactions put their markers.

    The end offsets of all partitions are taken once per topic and kept until `refresh`, so that a
    reading ends although more is written meanwhile. It is no snapshot over topics.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._prefix = settings.kafka_topic_prefix
        config = client_config(
            settings,
            **ISOLATION,
            **{
                "group.id": f"{settings.worker_group}-reader",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "fetch.message.max.bytes": largest_record_bytes(settings),
                "fetch.wait.max.ms": 50,
                "error_cb": quiet,
            },
        )
        self._consumer = Consumer(config)
        self._bounds: dict[tuple[str, int], tuple[int, int]] = {}
        self._at: tuple[str, int, int] | None = None
        self._partitions: dict[str, int] = {}
        self.refresh()

    def refresh(self) -> None:
        """Go on to the present state, or raise `SettingError` when Kafka can't be reached."""
        self._bounds.clear()
        try:
            topics = self._consumer.list_topics(timeout=REACH_DEADLINE_S).topics
        except KafkaException as error:
            raise unreachable(self._settings, error) from None
        self._partitions = {
            name.removeprefix(self._prefix): len(topic.partitions)
            for name, topic in topics.items()
            if name.startswith(self._prefix)
        }

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()

    def partitions(self, topic: str) -> int:
        """Return how many partitions the topic has, or raise `SettingError` when it is missing."""
        if topic not in self._partitions:
            raise SettingError(
                f"topic {topic} is missing on {self._settings.kafka_bootstrap}: run `pipeline topics apply`"
            )
        return self._partitions[topic]

    def first_offset(self, topic: str, partition: int) -> int:
        """Return the offset of the oldest record that is still there, or the end."""
        return self._bounds_of(topic, partition)[0]

    def end_offset(self, topic: str, partition: int) -> int:
        """Return the offset after the last committed record or marker."""
        return self._bounds_of(topic, partition)[1]

    def read(self, topic: str, partition: int, offset: int, limit: int) -> list[StoredRecord]:
        """Return up to `limit` committed records from `offset` on; an empty list is the end."""
        end = self.end_offset(topic, partition)
        if offset >= end:
            return []
        if self._at != (topic, partition, offset):
            self._consumer.assign([TopicPartition(self._prefix + topic, partition, offset)])
        found: list[StoredRecord] = []
        last_progress = time.monotonic()
        while len(found) < limit:
            messages = self._consumer.consume(limit - len(found), POLL_S)
            if messages:
                last_progress = time.monotonic()
            elif time.monotonic() - last_progress > REACH_DEADLINE_S:
                raise unreachable(self._settings, f"{topic} {partition} gives nothing and has no end")
            for message in messages:
                error = message.error()
                if error is not None:
                    # The second is an offset that retention has just removed: nothing is there any more.
                    if error.code() in (KafkaError._PARTITION_EOF, KafkaError._AUTO_OFFSET_RESET):  # noqa: SLF001 - the library's public names
                        self._at = None
                        return found
                    raise SettingError(f"can't read {topic}: {error}")
                at = message.offset()
                found.append(
                    StoredRecord(
                        topic,
                        partition,
                        at,
                        bytes(message.key() or b""),
                        message.value(),
                        message.timestamp()[1],
                        tuple((name, bytes(value or b"")) for name, value in message.headers() or ()),
                    )
                )
                self._at = (topic, partition, at + 1)
        return found

    def _bounds_of(self, topic: str, partition: int) -> tuple[int, int]:
        bounds = self._bounds.get((topic, partition))
        if bounds is None:
            bounds = self._bounds[topic, partition] = self._asked(topic, partition)
        return bounds

    def _asked(self, topic: str, partition: int) -> tuple[int, int]:
        """Return the bounds from the broker; a partition that has no leader yet is asked again."""
        place = TopicPartition(self._prefix + topic, partition)
        end = time.monotonic() + REACH_DEADLINE_S
        while True:
            try:
                low, high = self._consumer.get_watermark_offsets(place, timeout=REACH_DEADLINE_S)
            except KafkaException as error:
                if time.monotonic() > end:
                    raise unreachable(self._settings, error) from None
                time.sleep(RETRY_S)
            else:
                return low, high
