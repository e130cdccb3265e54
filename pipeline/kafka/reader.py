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
OPEN_S: Final = 2.0
"""A transaction that ends does so within this; one whose owner died stays open for a minute."""
WHOLE_S: Final = 90.0
"""So long those wait for it who must have everything."""


class KafkaReader:
    """Reads committed records; offsets have gaps where transactions put their markers.

    The end offsets of all partitions are taken once per topic, when one of them is first asked for, and kept
    until `refresh`: a reading ends there although more is written meanwhile. Transactions that are open
    before that end are waited for, at most `OPEN_S` in all until `refresh`. It is no snapshot over topics.
    What retention removes while it is read is left out, and only that.
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
        self._patience_s = OPEN_S
        self.refresh()
        self._meet_topics()

    def refresh(self) -> None:
        """Go on to the present state, or raise `SettingError` when Kafka can't be reached."""
        self._bounds.clear()
        self._patience_s = OPEN_S
        topics = described(self._admin, self._settings, self._heard).topics
        self._partitions = {
            name.removeprefix(self._prefix): len(topic.partitions)
            for name, topic in topics.items()
            if name.startswith(self._prefix)
        }

    def _meet_topics(self) -> None:
        """Let the consumer know every topic: librdkafka looks for those that it does not once a second."""
        try:
            self._consumer.list_topics(timeout=REACH_DEADLINE_S)
        except KafkaException as error:
            raise unreachable(self._settings, error.args[0].str()) from None

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

    def read(
        self, topic: str, positions: Mapping[int, int], *, is_whole: bool = False
    ) -> Iterator[StoredRecord]:
        """Yield the committed records of these partitions, each from its position on, to the end.

        Records of one partition are in order; partitions are mixed as they arrive. Where a transaction stays
        open, what comes after it is left out, or with `is_whole` it is a `SettingError`.
        """
        reading = _Reading(topic, positions, {p: self.end_offset(topic, p) for p in positions})
        self._assign(topic, reading.places)
        waited_s = 0.0
        while reading.places:
            asked_at = time.monotonic()
            messages = self._consumer.consume(BATCH, POLL_S)
            # Only this wait counts: whoever takes the records may be busy with each of them for long.
            asked_s = time.monotonic() - asked_at
            waited_s = 0.0 if messages else waited_s + asked_s
            if reading.is_held_up and not messages:
                self._patience_s -= asked_s
                if self._patience_s < 0 and not is_whole:
                    return
                if waited_s > WHOLE_S:
                    raise SettingError(
                        f"{topic} {sorted(reading.places)}: a transaction is open there, and stays so "
                        "(`kafka-transactions.sh find-hanging` shows it): run it again when it has ended"
                    )
            elif waited_s > REACH_DEADLINE_S:
                where = f"{topic} {sorted(reading.places)}"
                raise unreachable(self._settings, f"{where} give nothing and have no end")
            for message in messages:
                if reading.takes(message):
                    yield _stored(topic, message)
            if reading.overtaken:
                first = {p: low for p, (low, _) in self._ask_bounds(topic, reading.overtaken).items()}
                reading.pass_over(first)
                self._assign(topic, reading.places)

    def _assign(self, topic: str, places: Mapping[int, int]) -> None:
        self._consumer.assign([TopicPartition(self._prefix + topic, p, at) for p, at in places.items()])

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


class _Reading:
    """How far one reading of a topic is: the next offset of each partition that is not read to its end."""

    def __init__(self, topic: str, positions: Mapping[int, int], ends: Mapping[int, int]) -> None:
        self.places = {p: at for p, at in positions.items() if at < ends[p]}
        self.overtaken: set[int] = set()
        """Partitions whose next offset retention has removed."""
        self._topic = topic
        self._ends = ends
        self._held_up: set[int] = set()

    @property
    def is_held_up(self) -> bool:
        """Whether there is nothing left to read but what comes after open transactions."""
        return self.places.keys() <= self._held_up

    def takes(self, message: Message) -> bool:
        """Go on by what the consumer gave; return whether it is a record of this reading."""
        partition, offset, error = message.partition(), message.offset() or 0, message.error()
        if error is not None and error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001 - public name
            if partition in self.places:
                self.overtaken.add(partition)
            return False
        is_eof = error is not None and error.code() == KafkaError._PARTITION_EOF  # noqa: SLF001 - as above
        if error is not None and not is_eof:
            raise SettingError(f"can't read {self._topic}: {error}")
        if partition not in self.places:
            return False
        self._held_up.discard(partition)
        if offset >= self._ends[partition]:
            del self.places[partition]
            return False
        if is_eof:
            self._held_up.add(partition)
            return False
        self.places[partition] = offset + 1
        return True

    def pass_over(self, first: Mapping[int, int]) -> None:
        """Let overtaken partitions go on at the oldest record that is left, and drop those without."""
        for partition in self.overtaken:
            self.places[partition] = max(self.places[partition], first[partition])
            if self.places[partition] >= self._ends[partition]:
                del self.places[partition]
        self.overtaken = set()


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
