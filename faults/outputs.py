"""What a consumer downstream sees, and the verdict on it: the checker of the fault matrix.

It reads the topics with a consumer of its own, `read_committed`, and decodes with the Avro files alone;
neither the ledger nor the pipeline's reader is asked. Each session must have one record of `media.sessions`,
one of `media.events`, one mediaStart and one mediaClose; each refused body must be one dead letter.
"""

from __future__ import annotations

import io
import re
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, NamedTuple

import fastavro
from confluent_kafka import Consumer, IsolationLevel, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from pipeline.contract.topics import load_schema

WANTED: Final = ("media.sessions", "media.events", "mediaStart", "mediaClose")
"""What each session has one of: a record of these topics, and these calls."""
CALLS: Final = "media.analytics.calls"
DEAD_LETTERS: Final = "media.uploads.dlq"
TOPICS: Final = ("media.sessions", "media.events", CALLS, DEAD_LETTERS)
MARK: Final = re.compile(rb'"(bad-\d+-\d+)"')
"""What a body of `faults.fleet.bad` is known by."""
FRAME_BYTES: Final = 5
READ_DEADLINE_S: Final = 30.0
ENDED_DEADLINE_S: Final = 90.0
"""After so long every transaction has ended: the coordinator aborts one that was left after 60 s."""

Place = tuple[str, int]


class Verdict(NamedTuple):
    """What became of the sessions: how many came out, which are lost and which count more than once."""

    sessions: int
    lost: frozenset[str]
    duplicated: frozenset[str]

    @property
    def is_good(self) -> bool:
        """Whether every session counts exactly once."""
        return not self.lost and not self.duplicated

    def line(self) -> str:
        """Return the line that a run ends with."""
        return f"sessions {self.sessions}, lost {len(self.lost)}, duplicated {len(self.duplicated)}"


class Outputs:
    """All records that a consumer has seen, counted by session and revision."""

    def __init__(self) -> None:
        self._seen: dict[str, Counter[tuple[str, int]]] = {name: Counter() for name in WANTED}
        self.refused: Counter[str] = Counter()
        """How often each refused body is a dead letter, by its mark."""

    def add(self, topic: str, value: Mapping[str, Any]) -> None:
        """Count one decoded record; ad and chapter calls are none of the four."""
        if topic == DEAD_LETTERS:
            self.refused.update(mark.decode() for mark in MARK.findall(value["body"]))
            return
        name = str(value["call"]) if topic == CALLS else topic
        if name in self._seen:
            self._seen[name][str(value["session_id"]), int(value["revision"])] += 1

    @property
    def revised(self) -> frozenset[str]:
        """The sessions that came out in a later revision, too: of a replay, or one that counts again."""
        return frozenset(s for seen in self._seen.values() for s, revision in seen if revision > 1)

    def verdict(self, acknowledged: Collection[str], refused: Collection[str] = ()) -> Verdict:
        """Return the verdict, given every session id that was answered with success, and every refused mark.

        Lost is a session that was acknowledged or came out in part, and lacks one of the four. Duplicated
        is one with two of them in one revision, or one that came out although no device was told its id.
        A refused body is lost without a dead letter, and duplicated with two.
        """
        by_name = {name: {session for session, _ in seen} for name, seen in self._seen.items()}
        out = frozenset().union(*by_name.values())
        complete = frozenset.intersection(*map(frozenset, by_name.values()))
        twice = {session for seen in self._seen.values() for (session, _), n in seen.items() if n > 1}
        return Verdict(
            sessions=len(complete),
            lost=((out | frozenset(acknowledged)) - complete) | (frozenset(refused) - self.refused.keys()),
            duplicated=frozenset(twice)
            | (out - frozenset(acknowledged))
            | {mark for mark, number in self.refused.items() if number > 1},
        )


class OutputReader:
    """Reads the output topics from where it stopped; made anew for each reading, so that nothing is kept."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        self._bootstrap = bootstrap
        self._prefix = prefix
        self._at: dict[Place, int] = {}

    def read_into(self, outputs: Outputs) -> None:
        """Count every committed record that is there now and was not read before."""
        ends = ends_of(self._bootstrap, self._prefix, TOPICS, IsolationLevel.READ_COMMITTED)
        for topic, value in self._records(ends):
            outputs.add(topic, decoded(topic, value))

    def _records(self, ends: Mapping[Place, int]) -> Iterator[tuple[str, bytes]]:
        waiting = {place for place, end in ends.items() if self._at.get(place, 0) < end}
        consumer = Consumer(consumer_config(self._bootstrap))
        try:
            consumer.assign(
                [TopicPartition(self._prefix + t, p, self._at.get((t, p), 0)) for t, p in waiting]
            )
            moved_at = time.monotonic()
            while waiting:
                for message in consumer.consume(500, 0.1):
                    moved_at = time.monotonic()
                    place = (message.topic().removeprefix(self._prefix), message.partition())
                    error = message.error()
                    if error is None:
                        self._at[place] = message.offset() + 1
                        yield place[0], message.value()
                    elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the library's public name
                        self._at[place] = max(message.offset(), self._at.get(place, 0))
                        waiting -= {place} if self._at[place] >= ends[place] else set()
                    elif error.fatal():
                        raise RuntimeError(f"can't read {place}: {error}")
                if time.monotonic() - moved_at > READ_DEADLINE_S:
                    raise RuntimeError(f"{sorted(waiting)} give nothing and have no end")
        finally:
            consumer.close()


def await_ended_transactions(bootstrap: str, prefix: str, topics: Collection[str]) -> tuple[Place, ...]:
    """Wait until no transaction is open in these topics; return the partitions where one hangs for ever."""
    end = time.monotonic() + ENDED_DEADLINE_S
    while (hanging := open_transactions(bootstrap, prefix, topics)) and time.monotonic() < end:
        time.sleep(0.1)
    return hanging


def open_transactions(bootstrap: str, prefix: str, topics: Collection[str]) -> tuple[Place, ...]:
    """Return the partitions whose last stable offset is not their end: a transaction is open there."""
    stable = ends_of(bootstrap, prefix, topics, IsolationLevel.READ_COMMITTED)
    whole = ends_of(bootstrap, prefix, topics, IsolationLevel.READ_UNCOMMITTED)
    return tuple(sorted(place for place, end in whole.items() if stable[place] < end))


def ends_of(
    bootstrap: str, prefix: str, topics: Collection[str], isolation: IsolationLevel
) -> dict[Place, int]:
    """Return the end of each partition of these topics; asks again while a partition has no leader."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 2, "error_cb": lambda _error: None})
    end = time.monotonic() + READ_DEADLINE_S
    while True:
        try:
            held = admin.list_topics(timeout=5).topics
            places = [TopicPartition(prefix + t, p) for t in topics for p in held[prefix + t].partitions]
            asked = admin.list_offsets(
                dict.fromkeys(places, OffsetSpec.latest()), isolation_level=isolation, request_timeout=5
            )
            return {
                (place.topic.removeprefix(prefix), place.partition): future.result(10).offset
                for place, future in asked.items()
            }
        except Exception:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def decoded(topic: str, value: bytes) -> Mapping[str, Any]:
    """Return a framed value, decoded with the topic's own Avro file."""
    found: Any = fastavro.schemaless_reader(io.BytesIO(value[FRAME_BYTES:]), load_schema(topic), None)
    return dict(found)


def consumer_config(bootstrap: str) -> dict[str, Any]:
    """Return the settings of a consumer downstream, without a group that could keep anything."""
    return {
        "bootstrap.servers": bootstrap,
        "group.id": "fault-checker",
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
        "fetch.wait.max.ms": 50,
        "log_level": 2,
        "error_cb": lambda _error: None,
    }
