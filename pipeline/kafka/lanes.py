"""The worker's one port on Kafka: a transactional producer per source partition (ADR 0006).

A transaction holds a batch's outputs, its dedupe entries and the source position, which is a record of
`media.index` on the partition number of the source. Taking a partition over fences its earlier owner
(`init_transactions`), brings the partition's index store up to date (`takeover`, `indexstore`), and so
learns both what is known and where to go on. The group's committed offsets are never the truth.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.contract.codec import Codec
from pipeline.contract.ports import Fenced, Unavailable
from pipeline.contract.positions import (
    INDEX,
    UPLOADS,
    Source,
    owner_record,
    position_key,
    position_maker,
)
from pipeline.contract.record import Record
from pipeline.contract.records import IndexEntry
from pipeline.contract.topics import Topic
from pipeline.kafka import admin, takeover
from pipeline.kafka.clients import REACH_DEADLINE_S, client_config, quiet
from pipeline.kafka.indexstore import (
    Closed,
    Damaged,
    Entry,
    IndexStore,
    Origin,
    Size,
    claim_directory,
    make_cache,
)
from pipeline.kafka.lostindex import Carried, require_index
from pipeline.kafka.transactions import Transactions
from pipeline.settings import SettingError, Settings

BACKOFF_S: Final = 0.2
SWEPT_AT_ONCE: Final = 20_000
STORES: Final = "index"
SWEPT_AHEAD: Final = "swept by a clock that was ahead"
NO_POSITION: Final = IndexEntry(kind="position", recorded_at_ms=0)


class _Lane(NamedTuple):
    """An owned partition: its transactions, and the store of what is known in its index partition."""

    transactions: Transactions
    store: IndexStore


class Lanes:
    """Implements `Commits` on Kafka; each partition's methods may be called from a thread of its own."""

    def __init__(
        self,
        settings: Settings,
        codec: Codec,
        topics: Mapping[str, Topic],
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        lost: Callable[[int, int], None] = lambda _partition, _offsets: None,
        made_anew: Callable[[int, str], None] = lambda _partition, _why: None,
        source: Source | None = None,
        is_lost: bool = False,
    ) -> None:
        """Learn the ids of cluster and topics, or raise `SettingError`, and claim a directory of stores.

        Workers of another group on the same topics are a `SettingError`, too.

        `lost` hears of offsets that retention removed before they were read, `made_anew` of stores that
        could not be used and are read again from their topic. `source` is what positions say that they are
        of, when not of the present topic; with `is_lost` an empty index is expected.
        """
        self._settings = settings
        self._codec = codec
        self._partitions = {name: topic.partitions for name, topic in topics.items()}
        self._now_ms = now_ms
        self._lost = lost
        self._made_anew = made_anew
        uploads, index = admin.ids_of(settings, (UPLOADS, INDEX))
        admin.require_no_other_group(settings)
        self._source = source or Source(uploads.cluster_id, uploads.topic_id)
        self._is_lost = is_lost
        self._origin = Origin(index.cluster_id, index.topic_id)
        self._position_record = position_maker(codec, self._source)
        self._admin = AdminClient(client_config(settings, error_cb=quiet))
        try:
            self._claim = claim_directory(settings.data_dir / STORES)
        except OSError as error:
            raise SettingError(
                f"PIPELINE_DATA_DIR (--data-dir): can't keep the index in {settings.data_dir}: {error}"
            ) from None
        self._cache = make_cache()
        self._advisor = Consumer(
            client_config(
                settings, **{"group.id": settings.worker_group + admin.POSITIONS, "error_cb": quiet}
            )
        )
        self._locks: dict[int, threading.Lock] = defaultdict(threading.Lock)
        self._lanes: dict[int, _Lane] = {}
        self._carried = Carried(settings, codec, self._partitions[UPLOADS], self._progressed)
        self.progress = 0
        """Grows while partitions are taken over, so that a deadline can tell slow from stuck."""

    def take_over(self, partition: int) -> int:
        """Fence any earlier owner of this source partition; return its next offset to read.

        Raises `Unavailable` when that makes no progress, `PositionUnusable` when the index was lost.
        """
        return self._taken_over(partition).next_offset or 0

    def resume(self, partition: int) -> int:
        """Take a partition over and return where its topic is to be read, which may be later.

        Raises `PositionUnusable`, too, when the position does not fit the topic of uploads.
        """
        position = self._taken_over(partition)
        uploads = self._bounds(UPLOADS, partition)
        end = time.monotonic() + REACH_DEADLINE_S
        # A broker that has not heard yet of what it missed may say an end that is too early.
        while (position.next_offset or 0) > uploads.end and time.monotonic() < end:
            time.sleep(BACKOFF_S)
            uploads = self._bounds(UPLOADS, partition)
        start = takeover.start_of(position, partition, uploads, self._source)
        if start.lost:
            self._lost(partition, start.lost)
        return start.next_offset

    def _taken_over(self, partition: int) -> IndexEntry:
        with self._locks[partition]:  # a commit in hand ends first, and counts
            return self._taken_over_alone(partition)

    def _taken_over_alone(self, partition: int) -> IndexEntry:
        self._forget(partition)
        transactions = Transactions(self._settings, f"{self._settings.worker_group}-{partition}")
        self._progressed()
        if not self._is_lost:
            require_index(self._admin, self._settings, self._partitions)
        # The brokers may be asked for the end of the index, but one that was frozen while another became
        # leader answers with the end that it knew. What every in-sync replica has acknowledged just now is
        # beyond all that earlier owners committed.
        end = transactions.commit([owner_record(self._codec, partition, self._now_ms())])
        bounds = self._bounds(INDEX, partition)._replace(end=end)
        store = self._store(partition)
        try:
            takeover.catch_up(
                self._settings, partition, store, bounds, self._progressed, is_lost=self._is_lost
            )
            key = position_key(partition)
            position = self._known(store, [key]).get(key)
            if position is None and not self._is_lost:
                self._carried.require_none(partition)
        except BaseException:
            store.close()
            raise
        if store.made_anew is not None:
            self._made_anew(partition, store.made_anew)
        self._lanes[partition] = _Lane(transactions, store)
        if position is None:
            return NO_POSITION
        return self._codec.decode_record(IndexEntry, position)

    def _bounds(self, topic: str, partition: int) -> takeover.Bounds:
        name = self._settings.kafka_topic_prefix + topic
        return takeover.bounds_of(self._admin, name, range(partition, partition + 1))[partition]

    def release(self, partition: int) -> None:
        """Let go of a partition that another worker owns now."""
        with self._locks[partition]:
            self._forget(partition)

    def _forget(self, partition: int) -> None:
        lane = self._lanes.pop(partition, None)
        if lane is not None:
            lane.store.close()

    def known(self, partition: int, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return the committed index values of those keys that are known, or raise `Fenced`."""
        lane = self._lanes.get(partition)
        if lane is None:
            raise Fenced(f"partition {partition} was not taken over")
        try:
            return self._known(lane.store, keys)
        except Closed:
            raise Fenced(f"partition {partition} was let go of") from None

    def hold(self, partition: int) -> object:
        """Return what stands for this taking over: a `commit` with it holds for no later one."""
        return self._lanes.get(partition)

    def commit(
        self, partition: int, records: Sequence[Record], next_offset: int, hold: object = None
    ) -> None:
        """Make all records and the position durable and visible at once, or raise `Fenced`.

        Raises `NeverTaken` when client or broker refuse a record for good: nothing is visible then.
        """
        with self._locks[partition]:
            lane = self._lanes.get(partition)
            if lane is None or (hold is not None and hold is not lane):
                raise Fenced(f"partition {partition} was not taken over, or again since")
            # The position comes last, so that its own offset says how far the store has the index.
            everything = [*records, self._position_record(partition, next_offset, self._now_ms())]
            index_offset = lane.transactions.commit(everything)
            entries = [Entry(r.key, r.value, r.timestamp_ms) for r in everything if r.topic == INDEX]
            lane.store.apply(entries, index_offset)

    def first_upload_from(self, partition: int, offset: int) -> int | None:
        """Return the offset of the first upload that the topic holds from `offset` on, None without any."""
        return takeover.first_upload_from(self._settings, partition, offset)

    def advise(self, positions: Mapping[int, int]) -> None:
        """Tell lag tools the committed positions, as offsets of the group `<group>-positions`; best effort.

        That group has no members: the workers' own group must hold no offsets that anything might go on from.
        """
        topic = self._settings.kafka_topic_prefix + UPLOADS
        offsets = [TopicPartition(topic, partition, offset) for partition, offset in positions.items()]
        if offsets:
            with suppress(KafkaException):
                self._advisor.commit(offsets=offsets, asynchronous=True)
                self._advisor.poll(0)

    def sweep(self, partition: int) -> None:
        """Go on with forgetting what is too old; cheap, and to be called often.

        Raises `Unavailable` for a store that a clock that was ahead has swept: taken over again it is whole.
        """
        with self._locks[partition]:
            lane = self._lanes.get(partition)
            if lane is None:
                return
            if lane.store.is_swept_ahead(self._now_ms()):
                raise Unavailable(f"{INDEX} {partition}: {SWEPT_AHEAD}, it is read again at the next start")
            lane.store.sweep(self._now_ms(), SWEPT_AT_ONCE)

    def sizes(self) -> Mapping[int, Size]:
        """Return about how large the store of each owned partition is."""
        return {partition: lane.store.size() for partition, lane in list(self._lanes.items())}

    def close(self) -> None:
        """Close all stores and give their directory free."""
        for partition in list(self._lanes):
            self.release(partition)
        self._advisor.close()
        self._claim.lock.close()

    def _progressed(self) -> None:
        self.progress += 1

    def _store(self, partition: int) -> IndexStore:
        name = f"{self._settings.kafka_topic_prefix}{INDEX}-{partition}"
        try:
            store = IndexStore(self._claim.directory / name, self._origin, self._cache)
            if store.is_swept_ahead(self._now_ms()):
                store.clear(SWEPT_AHEAD)
        except Exception as error:  # noqa: BLE001 - the library raises plain Exception; it was made anew already
            raise Unavailable(f"can't keep the index in {self._claim.directory}: {error}") from None
        return store

    def _known(self, store: IndexStore, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        try:
            return store.known(keys)
        except Damaged as error:
            raise Unavailable(
                f"the index store is damaged, it is read again at the next start: {error}"
            ) from None
