"""Taking a source partition over: bring its index store up to date, then find where to go on.

Runs after the earlier owner is fenced, so that what is committed now is all there will be of it. The
deadline measures missing progress: a store that has to be read from the start may take its time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from pipeline.contract.ports import PositionUnusable, Unavailable
from pipeline.contract.positions import INDEX, UPLOADS, Source, position_key, rebuilt_key
from pipeline.contract.records import IndexEntry
from pipeline.kafka.clients import ISOLATION, REACH_DEADLINE_S, client_config, largest_record_bytes, quiet
from pipeline.kafka.indexstore import Entry, IndexStore
from pipeline.settings import Settings

UNFINISHED: Final = Source("unfinished rebuild", "unfinished rebuild")
"""The source of positions that a rebuild of the index writes until it is done."""
NO_PROGRESS_S: Final = 30.0
BATCH: Final = 5_000
POLL_S: Final = 0.05


class Bounds(NamedTuple):
    """First offset of a partition and the one after its last record, open transactions included."""

    first: int
    end: int


class Start(NamedTuple):
    """Where to go on; `lost` offsets before it were removed by retention before they were read."""

    next_offset: int
    lost: int = 0


def bounds_of(admin: AdminClient, topic: str, partitions: range) -> Mapping[int, Bounds]:
    """Return the bounds of these partitions of a topic (its full name), or raise `Unavailable`.

    Partitions that have no leader at this moment are asked again for a while.
    """
    places = [TopicPartition(topic, partition) for partition in partitions]
    end = time.monotonic() + REACH_DEADLINE_S
    while True:
        try:
            first, last = (
                _offsets(admin, places, spec) for spec in (OffsetSpec.earliest(), OffsetSpec.latest())
            )
        except (KafkaException, TimeoutError) as error:
            if time.monotonic() > end:
                raise Unavailable(f"can't learn where {topic} ends: {error}") from None
            time.sleep(POLL_S)
        else:
            return {partition: Bounds(first[partition], last[partition]) for partition in partitions}


def _offsets(admin: AdminClient, places: Sequence[TopicPartition], spec: OffsetSpec) -> dict[int, int]:
    asked = admin.list_offsets(
        dict.fromkeys(places, spec),
        isolation_level=IsolationLevel.READ_UNCOMMITTED,
        request_timeout=REACH_DEADLINE_S,
    )
    return {place.partition: int(future.result(REACH_DEADLINE_S).offset) for place, future in asked.items()}


def catch_up(
    settings: Settings,
    partition: int,
    store: IndexStore,
    bounds: Bounds,
    progressed: Callable[[], None],
    *,
    is_lost: bool = False,
) -> None:
    """Read the index partition from where the store is to its end, or raise `Unavailable`.

    Raises `PositionUnusable` when the topic has lost what the store has of it: the store may be all that is
    left, and whoever has none would count again. A rebuild since, or `is_lost`, makes the store yield.
    """
    is_ahead = store.next_offset > bounds.end
    if (is_ahead or _is_gone(store, partition, bounds)) and not is_lost:
        _require_rebuilt(settings, partition, store, bounds, progressed)
    if is_ahead:
        store.clear("ahead of its topic, which was rebuilt since")
    for entries, reached in _index_from(settings, partition, store.next_offset, bounds, progressed):
        store.apply(entries, reached)


def _is_gone(store: IndexStore, partition: int, bounds: Bounds) -> bool:
    """Return whether nothing is left of what the store has read, commits among it."""
    return 0 < store.next_offset <= bounds.first and bool(store.known([position_key(partition)]))


def _require_rebuilt(
    settings: Settings, partition: int, store: IndexStore, bounds: Bounds, progressed: Callable[[], None]
) -> None:
    """Raise `PositionUnusable` unless the partition has the mark of a rebuild that the store has not."""
    key = rebuilt_key(partition)
    mark = store.known([key]).get(key)
    for entries, _ in _index_from(settings, partition, 0, bounds, progressed):
        if any(entry.key == key and entry.value != mark for entry in entries):
            return
    raise PositionUnusable(
        f"{INDEX} {partition} has lost records: it holds offsets {bounds.first} to {bounds.end}, and the "
        f"local store knows it up to {store.next_offset}. Stop all workers and run `pipeline index rebuild`"
    )


def _index_from(
    settings: Settings, partition: int, offset: int, bounds: Bounds, progressed: Callable[[], None]
) -> Iterator[tuple[list[Entry], int]]:
    """Yield the committed entries from an offset to the end, with the offset after them."""
    at = max(offset, bounds.first)
    if at >= bounds.end:
        return
    consumer = _consumer(settings, isolated=True)
    try:
        consumer.assign([TopicPartition(settings.kafka_topic_prefix + INDEX, partition, at)])
        last_progress = time.monotonic()
        while at < bounds.end:
            entries, reached = _taken(consumer, at)
            if reached > at:
                at = reached
                yield entries, at
                last_progress = time.monotonic()
                progressed()
            elif time.monotonic() - last_progress > NO_PROGRESS_S:
                raise Unavailable(
                    f"{INDEX} {partition} gives nothing from offset {at} to its end {bounds.end}: "
                    "a transaction may be open there"
                )
    finally:
        consumer.close()


def _taken(consumer: Consumer, at: int) -> tuple[list[Entry], int]:
    """Return the next committed entries and the offset after them."""
    entries = []
    for message in consumer.consume(BATCH, POLL_S):
        error = message.error()
        if error is None:
            entries.append(Entry(bytes(message.key() or b""), message.value(), message.timestamp()[1]))
        elif error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - the library's public name of it
            raise Unavailable(f"can't read the index: {error}")
        at = max(at, (message.offset() or 0) + (error is None))
    return entries, at


def start_of(entry: IndexEntry, partition: int, uploads: Bounds, source: Source) -> Start:
    """Return where the worker goes on in a partition of uploads, or raise `PositionUnusable`.

    `entry` is the committed position; without an offset there is none yet.
    """
    position = entry.next_offset
    if position is None:
        return Start(uploads.first)
    if is_unfinished(entry):
        raise PositionUnusable(not_rebuilt(partition))
    for what, held, found in (
        ("cluster", entry.cluster_id, source.cluster_id),
        ("topic", entry.topic_id, source.topic_id),
    ):
        if held is not None and held != found:
            raise PositionUnusable(
                f"{UPLOADS} {partition}: the position is of another {what} ({held}, now {found}). If that is "
                "meant, stop all workers and run `pipeline index adopt`: what is known stays known"
            )
    if position > uploads.end:
        raise PositionUnusable(
            f"{UPLOADS} {partition}: the position {position} is beyond the end of the topic, {uploads.end}: "
            "it has lost records. Stop all workers and run `pipeline index adopt`: what is known stays known"
        )
    return Start(max(position, uploads.first), max(0, uploads.first - position))


def is_unfinished(position: IndexEntry) -> bool:
    """Return whether a rebuild wrote this position and did not come to its end."""
    return position.cluster_id == UNFINISHED.cluster_id


def not_rebuilt(partition: int) -> str:
    """Return what is said of an index partition whose rebuild did not come to its end."""
    return f"{INDEX} {partition} was not rebuilt to the end: run `pipeline index rebuild`"


def first_upload_from(settings: Settings, partition: int, offset: int) -> int | None:
    """Return the offset of the first upload at or after `offset`, None when there is none.

    Read by a consumer of its own: it tells a gap of the topic from records that were passed over.
    """
    consumer = _consumer(settings, isolated=False)
    try:
        consumer.assign([TopicPartition(settings.kafka_topic_prefix + UPLOADS, partition, offset)])
        end = time.monotonic() + NO_PROGRESS_S
        while time.monotonic() < end:
            for message in consumer.consume(1, POLL_S):
                error = message.error()
                if error is None:
                    return int(message.offset() or 0)
                if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the library's public name of it
                    return None
        raise Unavailable(f"{UPLOADS} {partition} can't be read from {offset}")
    finally:
        consumer.close()


def _consumer(settings: Settings, *, isolated: bool) -> Consumer:
    config: dict[str, Any] = {
        "group.id": f"{settings.worker_group}-index",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "enable.partition.eof": True,
        "fetch.message.max.bytes": largest_record_bytes(settings),
        "error_cb": quiet,
    }
    if isolated:
        config |= ISOLATION
    else:
        config["isolation.level"] = "read_uncommitted"
    return Consumer(client_config(settings, **config))
