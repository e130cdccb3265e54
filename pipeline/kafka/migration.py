"""Move to other numbers of partitions: new topics under another prefix, and the index re-keyed into them.

The dedupe index lives on the partition number of the upload, which the key and the number of partitions
decide. So every entry of the old index goes to the partition that its upload's key has among the new
topics. Entries and how far the migration has come are one transaction, so it can be run again after
whatever ended it, and a run that finds nothing left changes nothing. Its producers have the transactional
ids of the workers: a worker that wrongly lives on is fenced, one that wrongly starts fences the migration.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from pipeline.contract.codec import Codec
from pipeline.contract.partition import partition_of
from pipeline.contract.ports import Fenced, PositionUnusable
from pipeline.contract.positions import Source
from pipeline.contract.record import Record, StoredRecord
from pipeline.contract.records import IndexEntry
from pipeline.kafka import admin
from pipeline.kafka.lanes import NO_POSITION
from pipeline.kafka.reader import KafkaReader
from pipeline.kafka.takeover import Bounds, start_of
from pipeline.kafka.transactions import Transactions
from pipeline.settings import SettingError, Settings

INDEX: Final = "media.index"
UPLOADS: Final = "media.uploads"
MOVED: Final = frozenset({"session", "upload"})
"""The kinds of entries that are moved: positions and windows belong to the old media.uploads."""
TRANSACTION_RECORDS: Final = 1_000
_64_BITS: Final = (1 << 64) - 1


class NotVerified(Exception):
    """The new index does not hold what the old one holds."""


class Contents(NamedTuple):
    """What an index holds of the old index's keys: distinct keys by kind, and a sum over them."""

    kinds: Mapping[str, int]
    digest: int


class Census(NamedTuple):
    """One reading of an index."""

    keyed: Contents
    """Entries whose upload's key is known, each with the partition that it has, or should have."""
    keyless: Sequence[Contents]
    """Entries of versions that did not note the key, for each new partition: they go to all."""
    positions: Mapping[int, IndexEntry]
    """How far media.uploads is carried, by partition."""
    migrated: Mapping[int, int]
    """How far a migration from the old prefix has come, by old partition."""
    others: int
    """Entries that come from elsewhere."""


class Migrated(NamedTuple):
    """What a migration did."""

    partitions_before: int
    partitions: int
    kinds: Mapping[str, int]
    """Distinct entries by kind that the new index holds from the old one."""
    written: int
    """Records that this run wrote."""


Tell = Callable[[str], None]


def migrate(settings: Settings, target: Settings, codec: Codec, tell: Tell = lambda _said: None) -> Migrated:
    """Re-key the index under `settings`' prefix into the topics under `target`'s, which are made already.

    Raises `SettingError` when uploads are pending, something else runs, retention removes entries before
    they were read, or the new topics are in use; `NotVerified` when the new index is not what it must be.
    `codec` encodes for the new topics.
    """
    old, new = KafkaReader(settings), KafkaReader(target)
    try:
        return _Migration(settings, target, codec, old, new, tell).run()
    finally:
        old.close()
        new.close()


class _Migration:
    """One run."""

    def __init__(
        self,
        settings: Settings,
        target: Settings,
        codec: Codec,
        old: KafkaReader,
        new: KafkaReader,
        tell: Tell,
    ) -> None:
        self._settings = settings
        self._from = settings.kafka_topic_prefix
        self._codec = codec
        self._old, self._new = old, new
        self._tell = tell
        self._before = old.partitions(INDEX)
        self._after = new.partitions(INDEX)
        self._lanes = [_Lane(settings, target, partition) for partition in range(self._before)]

    def run(self) -> Migrated:
        """Migrate, verify, and return what was done."""
        self._tell("fencing the workers of the old topics")
        for lane in self._lanes:
            lane.fence()
        self._old.refresh()
        ends, starts_before = self._ends(), self._index_starts()
        self._tell("reading the old index")
        held = self._census(self._old, is_new=False)
        self._old.refresh()
        # Entries that went before they were read would be missed by nobody: no comparison knows of them. One
        # that goes later is held by the census, and is found missing unless it was moved before.
        if self._index_starts() != starts_before:
            raise SettingError(
                f"retention removed entries of {INDEX} under {self._named(self._from)} while they were read: "
                "run it again"
            )
        self._require_carried(held)
        found = self._census(self._new, is_new=True)
        starts = {p: max(found.migrated.get(p, 0), self._old.first_offset(INDEX, p)) for p in ends[INDEX]}
        written = 0
        for partition, start in starts.items():
            for records, next_offset in self._moves(partition, start):
                if self._uses(found):
                    raise SettingError(
                        "the new topics are in use already, nothing may be moved into them: choose another "
                        "--to-prefix"
                    )
                progress = self._progress(partition, next_offset)
                self._lanes[partition].commit([*records, progress])
                written += len(records)
            self._tell(f"index partition {partition} of {self._before} is moved")
        self._old.refresh()
        if self._ends() != ends:
            raise SettingError(
                f"uploads came in or were carried under {self._named(self._from)} meanwhile: stop ingests "
                "and workers, let the workers carry what is pending, and run it again"
            )
        self._new.refresh()
        verified = self._census(self._new, is_new=True)
        if (verified.keyed, verified.keyless) != (held.keyed, held.keyless):
            raise NotVerified(
                f"old index: {held.keyed} {held.keyless}; new: {verified.keyed} {verified.keyless}"
            )
        kinds = Counter(held.keyed.kinds) + Counter(held.keyless[0].kinds)
        return Migrated(self._before, self._after, kinds, written)

    def _ends(self) -> dict[str, dict[int, int]]:
        return {
            topic: {p: self._old.end_offset(topic, p) for p in range(self._old.partitions(topic))}
            for topic in (UPLOADS, INDEX)
        }

    def _index_starts(self) -> list[int]:
        return [self._old.first_offset(INDEX, p) for p in range(self._before)]

    def _require_carried(self, held: Census) -> None:
        """Raise `SettingError` where workers would still read uploads, or could not go on to read any."""
        (uploads,) = admin.ids_of(self._settings, (UPLOADS,))
        source = Source(uploads.cluster_id, uploads.topic_id)
        pending = 0
        for partition in range(self._old.partitions(UPLOADS)):
            bounds = Bounds(
                self._old.first_offset(UPLOADS, partition), self._old.end_offset(UPLOADS, partition)
            )
            position = held.positions.get(partition, NO_POSITION)
            try:
                pending += bounds.end - start_of(position, partition, bounds, source).next_offset
            except PositionUnusable as error:
                raise SettingError(
                    f"no worker could go on under {self._named(self._from)}: {error}. Then let the workers "
                    "carry what is pending, stop them, and run the migration again"
                ) from None
        if pending:
            raise SettingError(
                f"{pending} uploads under {self._named(self._from)} are not carried yet: stop the ingests, "
                "let the workers finish (`pipeline ledger` shows none pending), stop them, run it again"
            )

    def _uses(self, found: Census) -> int:
        """Return how many uploads and index entries of their own the new topics have."""
        uploads = (self._new.end_offset(UPLOADS, p) for p in range(self._new.partitions(UPLOADS)))
        return sum(uploads) + found.others

    def _moves(self, partition: int, start: int) -> Iterator[tuple[list[Record], int]]:
        """Yield what each transaction writes, and the offset to go on from after it."""
        records: list[Record] = []
        for stored in self._old.read(INDEX, {partition: start}, is_whole=True):
            records += self._moved(stored)
            if len(records) >= TRANSACTION_RECORDS:
                yield records, stored.offset + 1
                records = []
            last = stored.offset
        if records:
            yield records, last + 1

    def _moved(self, stored: StoredRecord) -> Iterable[Record]:
        """Return the record for each new partition that must have it."""
        if stored.value is None:  # the key is gone, wherever it was
            return [self._record(q, stored, None) for q in range(self._after)]
        entry = self._codec.decode_record(IndexEntry, stored.value)
        if entry.kind not in MOVED:
            return ()
        value = self._codec.encode(INDEX, entry._replace(migrated_from=self._from))
        return [self._record(q, stored, value) for q in self._partitions_of(entry)]

    def _partitions_of(self, entry: IndexEntry) -> Sequence[int]:
        if entry.visitor_key is None:
            return range(self._after)
        return (partition_of(entry.visitor_key.encode(), self._after),)

    @staticmethod
    def _record(partition: int, stored: StoredRecord, value: bytes | None) -> Record:
        # With its own time: it expires when it would have.
        return Record(INDEX, partition, stored.key, value, stored.timestamp_ms, stored.headers)

    def _progress(self, partition: int, next_offset: int) -> Record:
        now_ms = time.time_ns() // 1_000_000
        entry = IndexEntry(
            kind="migration",
            source_topic=self._from + INDEX,
            source_partition=partition,
            next_offset=next_offset,
            recorded_at_ms=now_ms,
            migrated_from=self._from,
        )
        key = f"migration:{self._from}:{partition}".encode()
        return Record(INDEX, partition % self._after, key, self._codec.encode(INDEX, entry), now_ms)

    def _census(self, reader: KafkaReader, *, is_new: bool) -> Census:
        """Read an index once; what is remembered is a number for each key of one partition."""
        keyed, keyless = _Tally(), [_Tally() for _ in range(self._after)]
        positions: dict[int, IndexEntry] = {}
        migrated: dict[int, int] = {}
        others = 0
        shared: dict[tuple[str, int | None], tuple[str, int | None]] = {}
        for partition in range(reader.partitions(INDEX)):
            live: dict[int, tuple[str, int | None]] = {}
            start = {partition: reader.first_offset(INDEX, partition)}
            for stored in reader.read(INDEX, start, is_whole=True):
                digest = _digest(stored.key)
                live.pop(digest, None)
                if stored.value is None:
                    continue
                entry = self._codec.decode_record(IndexEntry, stored.value)
                if entry.kind == "position" and entry.source_partition is not None:
                    positions[entry.source_partition] = entry
                if is_new and entry.migrated_from != self._from:
                    others += 1
                elif entry.kind == "migration" and is_new and entry.source_partition is not None:
                    migrated[entry.source_partition] = entry.next_offset or 0
                elif entry.kind in MOVED:
                    at = None if entry.visitor_key is None else self._place(entry, partition, is_new=is_new)
                    live[digest] = shared.setdefault((entry.kind, at), (entry.kind, at))
            for digest, (kind, at) in live.items():
                if at is not None:
                    keyed.add(kind, digest, at)
                else:
                    for q in (partition,) if is_new else range(self._after):
                        keyless[q].add(kind, digest, q)
        return Census(keyed.contents(), [tally.contents() for tally in keyless], positions, migrated, others)

    def _place(self, entry: IndexEntry, partition: int, *, is_new: bool) -> int:
        """Return the new partition that an entry is on, or will be."""
        return partition if is_new else self._partitions_of(entry)[0]

    @staticmethod
    def _named(prefix: str) -> str:
        return f"the prefix {prefix!r}" if prefix else "the topics without prefix"


class _Tally:
    """Counts keys, and sums them up so that two indexes can be compared."""

    def __init__(self) -> None:
        self._kinds: Counter[str] = Counter()
        self._digest = 0

    def add(self, kind: str, digest: int, partition: int) -> None:
        self._kinds[kind] += 1
        self._digest = (self._digest + hash((digest, partition))) & _64_BITS

    def contents(self) -> Contents:
        return Contents(dict(self._kinds), self._digest)


class _Lane:
    """The transactions of one old partition, under the id that its worker has."""

    def __init__(self, settings: Settings, target: Settings, partition: int) -> None:
        self._partition = partition
        self._target = target
        self._id = f"{settings.worker_group}-{partition}"
        self._transactions: Transactions | None = None

    def fence(self) -> None:
        """Fence the earlier owner; what it had begun is aborted or finished, and seen."""
        self._transactions = Transactions(self._target, self._id)

    def commit(self, records: Sequence[Record]) -> None:
        """Write all records in one transaction, or raise `SettingError` when a worker took over."""
        assert self._transactions is not None  # noqa: S101 - fenced before anything is written
        try:
            self._transactions.commit(records)
        except Fenced as error:
            raise SettingError(
                f"a worker of this group took partition {self._partition} over meanwhile ({error}): "
                "stop it, and run the migration again"
            ) from None


def _digest(key: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
