"""Mending an index that does not fit its topics any more; no worker may run meanwhile.

`adopt` starts at the beginning of a topic of uploads that was made anew: what is known stays known, so that
what is read again is a redelivery or a duplicate. `rebuild` makes a lost index again from the sessions and
outcomes that are still there. Both fence whatever worker might still be alive.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

from confluent_kafka.admin import AdminClient

from pipeline.contract.codec import Codec
from pipeline.contract.partition import partition_of
from pipeline.contract.ports import Fenced
from pipeline.contract.positions import INDEX, UPLOADS, position_key, rebuilt_record
from pipeline.contract.record import Record, StoredRecord
from pipeline.contract.records import IndexEntry, MediaSession, Outcome
from pipeline.contract.topics import Topic
from pipeline.kafka import admin, takeover
from pipeline.kafka.clients import client_config, quiet
from pipeline.kafka.lanes import Lanes
from pipeline.kafka.reader import KafkaReader
from pipeline.settings import SettingError, Settings
from pipeline.stages.judge import session_key, upload_key

SESSIONS: Final = "media.sessions"
OUTCOMES: Final = "media.outcomes"
CHUNK: Final = 2_000
THREADS: Final = 24
_NO_MARKS: Final[Mapping[int, Sequence[Record]]] = {}


def adopt(settings: Settings, codec: Codec, topics: Mapping[str, Topic]) -> Mapping[int, int]:
    """Set every position to the first offset of the present topic of uploads; return them.

    Raises `SettingError` when a worker runs, or starts meanwhile, or a rebuild did not come to its end.
    """
    return _adopt(settings, codec, topics, is_rebuilt=False)


def _adopt(
    settings: Settings, codec: Codec, topics: Mapping[str, Topic], *, is_rebuilt: bool
) -> Mapping[int, int]:
    admin.require_no_workers(settings)
    with _alone(Lanes(settings, codec, topics)) as lanes:
        starts = _first_offsets(settings, topics)
        _take_over(lanes, starts)
        if not is_rebuilt:
            _require_finished(lanes, codec, starts)
        _set_positions(lanes, starts)
        return starts


def rebuild(
    settings: Settings,
    codec: Codec,
    topics: Mapping[str, Topic],
    now_ms: int,
    taken: Callable[[int], None] = lambda _entries: None,
) -> int:
    """Make the index again from sessions and outcomes; return the number of entries.

    `taken` hears of entries as they are committed. Until the end the positions say that the index is
    unfinished, so that no worker goes on from it; it may be run again at any time. All uploads that their
    topic still has are read again afterwards, and known. Raises `SettingError` when a worker runs, or starts
    meanwhile.
    """
    admin.require_no_workers(settings)
    waiting: dict[int, list[Record]] = defaultdict(list)
    entries = 0
    starts = _first_offsets(settings, topics)
    with _alone(Lanes(settings, codec, topics, source=takeover.UNFINISHED, is_lost=True)) as lanes:
        marks = {partition: (rebuilt_record(codec, partition, now_ms),) for partition in starts}
        _take_over(lanes, starts)
        _set_positions(lanes, dict.fromkeys(starts, 0), marks)
        for record in _entries(settings, codec, topics[UPLOADS].partitions, now_ms):
            waiting[record.partition].append(record)
            if len(waiting[record.partition]) == CHUNK:
                lanes.commit(record.partition, waiting.pop(record.partition), 0)
                entries += CHUNK
                taken(CHUNK)
        for partition, records in waiting.items():
            lanes.commit(partition, records, 0)
            entries += len(records)
            taken(len(records))
    _adopt(settings, codec, topics, is_rebuilt=True)
    return entries


@contextmanager
def _alone(lanes: Lanes) -> Iterator[Lanes]:
    """Close the lanes at the end; a worker that started, and so fenced them, is one line for the user."""
    try:
        yield lanes
    except Fenced as error:
        raise SettingError(
            f"a worker of this group took a partition over meanwhile ({error}): stop all workers, and run "
            "it again"
        ) from None
    finally:
        lanes.close()


def _take_over(lanes: Lanes, partitions: Iterable[int]) -> None:
    with ThreadPoolExecutor(THREADS, "mend") as pool:
        list(pool.map(lanes.take_over, partitions))


def _require_finished(lanes: Lanes, codec: Codec, partitions: Iterable[int]) -> None:
    """Raise `SettingError` where a position is one of a rebuild: an index that lacks entries is no index."""
    for partition in partitions:
        for value in lanes.known(partition, [position_key(partition)]).values():
            if takeover.is_unfinished(codec.decode_record(IndexEntry, value)):
                raise SettingError(takeover.not_rebuilt(partition))


def _set_positions(
    lanes: Lanes, positions: Mapping[int, int], marks: Mapping[int, Sequence[Record]] = _NO_MARKS
) -> None:
    """Commit nothing but these partitions' positions, and marks where there are some."""

    def set_position(partition: int) -> None:
        lanes.commit(partition, marks.get(partition, ()), positions[partition])

    with ThreadPoolExecutor(THREADS, "mend") as pool:
        list(pool.map(set_position, positions))


def _first_offsets(settings: Settings, topics: Mapping[str, Topic]) -> dict[int, int]:
    client = AdminClient(client_config(settings, error_cb=quiet))
    name = settings.kafka_topic_prefix + UPLOADS
    bounds = takeover.bounds_of(client, name, range(topics[UPLOADS].partitions))
    return {partition: found.first for partition, found in bounds.items()}


def _entries(settings: Settings, codec: Codec, partitions: int, now_ms: int) -> Iterator[Record]:
    """Yield the entry of every session and of every upload that ended otherwise than accepted."""
    for stored in _stored(settings, SESSIONS):
        session = codec.decode_record(MediaSession, stored.value)
        entry = IndexEntry(
            kind="session",
            visitor_key=session.visitor_key,
            upload_id=session.upload_id,
            replay_id=session.replay_id,
            revision=session.revision,
            recorded_at_ms=now_ms,
        )
        partition = partition_of(session.visitor_key.encode(), partitions)
        yield _record(codec, session_key(session.session_id), partition, entry, stored.timestamp_ms)
    for stored in _stored(settings, OUTCOMES):
        outcome = codec.decode_record(Outcome, stored.value)
        if outcome.outcome == "accepted":
            continue
        entry = IndexEntry(
            kind="upload",
            upload_id=outcome.upload_id,
            replay_id=outcome.replay_id,
            source_topic=outcome.source_topic,
            source_partition=outcome.source_partition,
            source_offset=outcome.source_offset,
            outcome=outcome.outcome,
            reason=outcome.reason,
            recorded_at_ms=now_ms,
        )
        key = upload_key(outcome.upload_id)
        yield _record(codec, key, outcome.source_partition, entry, stored.timestamp_ms)


def _record(codec: Codec, key: bytes, partition: int, entry: IndexEntry, timestamp_ms: int) -> Record:
    return Record(INDEX, partition, key, codec.encode(INDEX, entry), timestamp_ms)


def _stored(settings: Settings, topic: str) -> Iterator[StoredRecord]:
    reader = KafkaReader(settings)
    try:
        starts = {p: reader.first_offset(topic, p) for p in range(reader.partitions(topic))}
        records = reader.read(topic, starts, is_whole=True)
        yield from (stored for stored in records if stored.value is not None)
    finally:
        reader.close()
