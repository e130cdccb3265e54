"""Read committed records of Kafka as the embedded log's reader does: for `records` and `ledger`."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from pipeline.contract.record import StoredRecord
from pipeline.kafka.clients import (
    ISOLATION,
    REACH_DEADLINE_S,
    Heard,
    described,
    largest_record_bytes,
    made,
    quiet,
    unreachable,
)
from pipeline.settings import SettingError, Settings

POLL_S: Final = 0.05
BATCH: Final = 500
RETRY_S: Final = 0.2


class KafkaReader:
    """Reads committed records; offsets have gaps where transactions put their markers.

    The end offsets of all partitions are taken once per topic and kept until `refresh`, so that a
    reading ends although more is written meanwhile. It is no snapshot over topics. What retention removes
    while it is read is left out, and only that.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._prefix = settings.kafka_topic_prefix
        self._heard = Heard()
        self._consumer = made(
            Consumer,
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
        self._bounds: dict[tuple[str, int], tuple[int, int]] = {}
        self._admin = made(AdminClient, settings, error_cb=self._heard)
        self._partitions: dict[str, int] = {}
        self.refresh()

    def refresh(self) -> None:
        """Go on to the present state, or raise `SettingError` when Kafka can't be reached."""
        self._bounds.clear()
        topics = described(self._admin, self._settings, self._heard).topics
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

    def read(self, topic: str, positions: Mapping[int, int]) -> Iterator[StoredRecord]:
        """Yield the committed records of these partitions, each from its position on, to the end.

        Records of one partition are in order; partitions are mixed as they arrive.
        """
        places = {p: at for p, at in positions.items() if at < self.end_offset(topic, p)}
        self._assign(topic, places)
        waited_s = 0.0
        while places:
            asked_at = time.monotonic()
            messages = self._consumer.consume(BATCH, POLL_S)
            # Only this wait counts: whoever takes the records may be busy with each of them for long.
            waited_s += time.monotonic() - asked_at
            if not messages and waited_s > REACH_DEADLINE_S:
                raise unreachable(self._settings, f"{topic} {sorted(places)} give nothing and have no end")
            overtaken: set[int] = set()
            for message in messages:
                partition, error = message.partition(), message.error()
                if error is None:
                    waited_s = 0.0
                    if partition in places:
                        places[partition] = message.offset() + 1
                        yield _stored(topic, message)
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the library's public name
                    waited_s = 0.0
                    places.pop(partition, None)
                elif error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001 - as above
                    overtaken.add(partition)
                else:
                    raise SettingError(f"can't read {topic}: {error}")
            if overtaken := overtaken & places.keys():
                self._pass_over_removed(topic, places, overtaken)
                self._assign(topic, places)

    def _assign(self, topic: str, places: Mapping[int, int]) -> None:
        self._consumer.assign([TopicPartition(self._prefix + topic, p, at) for p, at in places.items()])

    def _pass_over_removed(self, topic: str, places: dict[int, int], overtaken: Collection[int]) -> None:
        """Let places whose offset is gone go on at the oldest record that is left, and drop those without."""
        for partition, (first, end) in self._ask_bounds(topic, overtaken).items():
            places[partition] = max(places[partition], first)
            if places[partition] >= end:
                del places[partition]

    def _bounds_of(self, topic: str, partition: int) -> tuple[int, int]:
        if (topic, partition) not in self._bounds:
            asked = self._ask_bounds(topic, range(self.partitions(topic)))
            self._bounds |= {(topic, p): bounds for p, bounds in asked.items()}
        return self._bounds[topic, partition]

    def _ask_bounds(self, topic: str, partitions: Collection[int]) -> dict[int, tuple[int, int]]:
        """Return first and end offsets as they are now; partitions without leader are asked again."""
        places = [TopicPartition(self._prefix + topic, p) for p in partitions]
        end = time.monotonic() + REACH_DEADLINE_S
        while True:
            try:
                low, high = (
                    self._offsets(places, spec) for spec in (OffsetSpec.earliest(), OffsetSpec.latest())
                )
            except (KafkaException, TimeoutError) as error:
                if time.monotonic() > end:
                    raise unreachable(self._settings, error) from None
                time.sleep(RETRY_S)
            else:
                return {p: (low[p], high[p]) for p in low}

    def _offsets(self, places: Sequence[TopicPartition], spec: OffsetSpec) -> dict[int, int]:
        asked = self._admin.list_offsets(dict.fromkeys(places, spec), request_timeout=REACH_DEADLINE_S)
        return {place.partition: future.result(REACH_DEADLINE_S).offset for place, future in asked.items()}


def _stored(topic: str, message: Message) -> StoredRecord:
    return StoredRecord(
        topic,
        message.partition(),
        message.offset(),
        bytes(message.key() or b""),
        message.value(),
        message.timestamp()[1],
        tuple((name, bytes(value or b"")) for name, value in message.headers() or ()),
    )
