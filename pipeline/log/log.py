"""The log itself: what the ingest, the worker and the commands do with it (the ports of `contract`)."""

from __future__ import annotations

import asyncio
import fcntl
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Final

from pipeline.contract.ports import Fenced, Unavailable
from pipeline.contract.record import Record, StoredRecord
from pipeline.contract.topics import Topic
from pipeline.log import tables
from pipeline.log.tables import OFFSET_BITS, OFFSET_MASK
from pipeline.log.writer import Refused, Writer, size_of

INDEX: Final = "media.index"
UPLOADS: Final = "media.uploads"
LOCK_NAME: Final = "lock"
FREE_BYTES_NEEDED: Final = 16 * 1024 * 1024
TOMBSTONE_MS: Final = 24 * 3_600_000
AGING: Final = 2
"""The dedupe index forgets at most so many times as fast as time goes by, whatever the clock says."""
MAINTAIN_ROWS: Final = 500
"""Most rows that one maintenance transaction removes, so that writing waits little."""

PositionRecord = Callable[[int, int, int], Record]
"""Makes the index record of a read position from partition, next offset and time (ms)."""


class Log:
    """One open log; it implements `UploadSink`, `Commits` and `Uploads`."""

    def __init__(
        self,
        data_dir: Path,
        topics: Mapping[str, Topic],
        position_record: PositionRecord,
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._data_dir = data_dir
        self._topics = topics
        self._position_record = position_record
        self._now_ms = now_ms
        self._monotonic = monotonic
        self._maintained_at: float | None = None
        self._forgotten: dict[int, int] = {}
        """Up to which record time an index partition was forgotten since the log was opened."""
        self._lock: IO[str] | None = None
        self._writer: Writer | None = None
        self._numbers: dict[tuple[str, int], int] = {}
        self._next: dict[int, int] = {}
        self._pending: dict[int, int] = {}
        self._epochs: dict[int, int] = {}
        self._appended = threading.Condition()
        self._readers = threading.local()
        self._open_readers: list[sqlite3.Connection] = []

    def open(self) -> None:
        """Lock and open the log, or raise OSError saying what is in the way."""
        self._data_dir.mkdir(parents=True, exist_ok=True)
        lock = (self._data_dir / LOCK_NAME).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise OSError("another process has this log open") from None
        try:
            connection = tables.connect_writer(self._data_dir)
            tables.declare(connection, self._topics)
        except OSError:
            lock.close()
            raise
        self._lock = lock
        self._numbers = tables.partition_ids(connection)
        self._next = dict(connection.execute("SELECT id, next_offset FROM partitions").fetchall())
        self._writer = Writer(connection, self._on_commit, self._pending.clear)

    def close(self) -> None:
        """Finish what was queued and unlock; may be called twice."""
        if self._writer is not None:
            self._writer.close()
        with self._appended:
            self._appended.notify_all()
        for connection in self._open_readers:
            connection.close()
        self._open_readers.clear()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def transactions(self) -> int:
        """How many transactions were written since the log was opened."""
        return self._writing().transactions

    # --- UploadSink ---------------------------------------------------------------------------------

    def append(self, records: Sequence[Record]) -> Future[None]:
        """Return a future that is done when all records are durable, or fails with `Unavailable`."""
        numbered = self._numbered(records)
        return self._writing().submit(lambda c: self._insert(c, numbered), size_of(records))

    async def store(self, records: Sequence[Record]) -> None:
        """Return when all records are durable, or raise `Unavailable`: all or none."""
        await asyncio.wrap_future(self.append(records))

    # --- Commits ------------------------------------------------------------------------------------

    def take_over(self, partition: int) -> int:
        """Fence any earlier owner of this source partition; return its next offset to read."""

        def work(connection: sqlite3.Connection) -> tuple[int, int]:
            connection.execute("INSERT OR IGNORE INTO positions (partition) VALUES (?)", (partition,))
            connection.execute("UPDATE positions SET epoch = epoch + 1 WHERE partition = ?", (partition,))
            row: tuple[int, int] = connection.execute(
                "SELECT next_offset, epoch FROM positions WHERE partition = ?", (partition,)
            ).fetchone()
            return row

        next_offset, epoch = self._writing().submit(work).result()
        self._epochs[partition] = epoch
        return int(next_offset)

    def known(self, partition: int, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return the committed index values of those keys that are known in this partition."""
        number = self._numbers[INDEX, partition]
        connection = self._reading()
        found: dict[bytes, bytes] = {}
        for key in keys:
            row = connection.execute(
                "SELECT r.value FROM latest l JOIN records r ON r.id = (l.partition_id << ?) | l.offset "
                "WHERE l.partition_id = ? AND l.key = ?",
                (OFFSET_BITS, number, key),
            ).fetchone()
            if row is not None and row[0] is not None:
                found[key] = row[0]
        return found

    def commit(self, partition: int, records: Sequence[Record], next_offset: int) -> None:
        """Make all records and the position durable and visible at once, or raise `Fenced`."""
        position = self._position_record(partition, next_offset, self._now_ms())
        numbered = self._numbered([*records, position])
        epoch = self._epochs.get(partition)

        def work(connection: sqlite3.Connection) -> None:
            row = connection.execute(
                "SELECT epoch FROM positions WHERE partition = ?", (partition,)
            ).fetchone()
            if row is None or row[0] != epoch:
                raise Refused(Fenced(f"partition {partition} has another owner"))
            self._insert(connection, numbered)
            connection.execute(
                "UPDATE positions SET next_offset = ? WHERE partition = ?", (next_offset, partition)
            )

        self._writing().submit(work, size_of(records)).result()

    # --- Uploads ------------------------------------------------------------------------------------

    def read(self, topic: str, partition: int, offset: int, limit: int) -> list[StoredRecord]:
        """Return up to `limit` committed records from `offset` on, in order; fewer where they are large."""
        number = self._numbers[topic, partition]
        return tables.read_rows(self._reading(), topic, partition, number, offset, limit)

    def end_offset(self, topic: str, partition: int) -> int:
        """Return the offset that the next record of this partition will get."""
        return self._next[self._numbers[topic, partition]]

    def wait_for_records(self, topic: str, positions: Mapping[int, int], timeout_s: float) -> bool:
        """Return True as soon as a partition holds records beyond its position, False on time-out."""

        def has_more() -> bool:
            return any(self.end_offset(topic, p) > at for p, at in positions.items())

        with self._appended:
            return self._appended.wait_for(has_more, timeout_s)

    # --- Upkeep -------------------------------------------------------------------------------------

    def is_writable(self) -> bool:
        """Return whether a record could be stored now; stores nothing."""
        try:
            free_bytes = shutil.disk_usage(self._data_dir).free
        except OSError:
            return False
        return self._writer is not None and self._writer.is_well and free_bytes > FREE_BYTES_NEEDED

    def maintain(self, now_ms: int) -> int:
        """Apply retention and remove old tombstones; return how many records were removed."""
        removed = 0
        now = self._monotonic()
        elapsed_ms = 0 if self._maintained_at is None else round((now - self._maintained_at) * 1000)
        self._maintained_at = now
        for (topic, partition), number in self._numbers.items():
            rules = self._topics.get(topic)
            if rules is None:
                continue
            if "delete" in rules.cleanup and rules.retention_ms is not None:
                before_ms = now_ms - rules.retention_ms
                if topic == INDEX:
                    before_ms = self._aged(number, before_ms, elapsed_ms)
                removed += self._expire(topic, partition, number, before_ms)
            if "compact" in rules.cleanup:
                removed += self._bury(number, now_ms - TOMBSTONE_MS)
        if removed:
            self._writing().submit(lambda c: c.execute("PRAGMA incremental_vacuum(1000)").fetchall()).result()
        return removed

    def _aged(self, number: int, before_ms: int, elapsed_ms: int) -> int:
        """Return up to which time an index partition may be forgotten now.

        It begins at the oldest record and grows with the time that went by: a clock that was wrong for a day
        costs two days of the oldest entries, not all sessions that are known.
        """
        from_ms = self._forgotten.get(number)
        if from_ms is None:
            base = number << OFFSET_BITS
            oldest = self._reading().execute(
                "SELECT timestamp_ms FROM records WHERE id >= ? AND id <= ? ORDER BY id LIMIT 1",
                (base, base | OFFSET_MASK),
            )
            from_ms = min((row[0] for row in oldest.fetchall()), default=before_ms)
        self._forgotten[number] = min(before_ms, from_ms + AGING * elapsed_ms)
        return self._forgotten[number]

    def _expire(self, topic: str, partition: int, number: int, before_ms: int) -> int:
        """Remove records from the head of a partition while they are older than `before_ms`."""
        base = number << OFFSET_BITS

        def work(connection: sqlite3.Connection) -> int:
            bound = OFFSET_MASK
            if topic == UPLOADS:  # what the worker has not read is never removed
                row = connection.execute(
                    "SELECT next_offset FROM positions WHERE partition = ?", (partition,)
                ).fetchone()
                bound = (row[0] if row else 0) - 1
            heads = connection.execute(
                "SELECT id, key, timestamp_ms FROM records WHERE id >= ? AND id <= ? ORDER BY id LIMIT ?",
                (base, base + bound, MAINTAIN_ROWS),
            ).fetchall()
            old = []
            for row_id, key, timestamp_ms in heads:
                if timestamp_ms >= before_ms:
                    break
                old.append((row_id, key))
            connection.executemany("DELETE FROM records WHERE id = ?", [(row_id,) for row_id, _ in old])
            connection.executemany(
                "DELETE FROM latest WHERE partition_id = ? AND key = ? AND offset = ?",
                [(number, key, row_id & OFFSET_MASK) for row_id, key in old],
            )
            return len(old)

        return self._repeated(work)

    def _bury(self, number: int, before_ms: int) -> int:
        """Remove tombstones older than `before_ms`."""
        base = number << OFFSET_BITS

        def work(connection: sqlite3.Connection) -> int:
            old = connection.execute(
                # By its index: looking through a partition would keep uploads waiting for seconds.
                "SELECT id, key FROM records INDEXED BY tombstones "
                "WHERE id >= ? AND id <= ? AND value IS NULL AND timestamp_ms < ? LIMIT ?",
                (base, base | OFFSET_MASK, before_ms, MAINTAIN_ROWS),
            ).fetchall()
            connection.executemany("DELETE FROM records WHERE id = ?", [(row_id,) for row_id, _ in old])
            connection.executemany(
                "DELETE FROM latest WHERE partition_id = ? AND key = ?", [(number, key) for _, key in old]
            )
            return len(old)

        return self._repeated(work)

    def _repeated(self, work: Callable[[sqlite3.Connection], int]) -> int:
        total = 0
        while True:
            removed = int(self._writing().submit(work).result())
            total += removed
            if removed < MAINTAIN_ROWS:
                return total

    # --- How it is done -----------------------------------------------------------------------------

    def _numbered(self, records: Sequence[Record]) -> list[tuple[int, bool, Record]]:
        """Return each record with its topic-partition number and whether its topic is compacted."""
        return [
            (
                self._numbers[record.topic, record.partition],
                "compact" in self._topics[record.topic].cleanup,
                record,
            )
            for record in records
        ]

    def _insert(self, connection: sqlite3.Connection, numbered: Sequence[tuple[int, bool, Record]]) -> None:
        touched: set[int] = set()
        rows: list[tuple[object, ...]] = []
        for number, is_compacted, record in numbered:
            offset = self._pending.get(number, self._next[number])
            self._pending[number] = offset + 1
            touched.add(number)
            row_id = number << OFFSET_BITS | offset
            rows.append(
                (row_id, record.key, record.value, record.timestamp_ms, tables.packed(record.headers))
            )
            if is_compacted:
                self._compact(connection, number, record.key, offset, rows)
        connection.executemany(
            "INSERT INTO records (id, key, value, timestamp_ms, headers) VALUES (?, ?, ?, ?, ?)", rows
        )
        connection.executemany(
            "UPDATE partitions SET next_offset = ? WHERE id = ?",
            [(self._pending[number], number) for number in touched],
        )

    def _compact(
        self,
        connection: sqlite3.Connection,
        number: int,
        key: bytes,
        offset: int,
        rows: list[tuple[object, ...]],
    ) -> None:
        """Remove the earlier record of this key: of the table, or of the rows that wait to be inserted."""
        earlier = connection.execute(
            "SELECT offset FROM latest WHERE partition_id = ? AND key = ?", (number, key)
        ).fetchone()
        if earlier is not None:
            row_id = number << OFFSET_BITS | earlier[0]
            connection.execute("DELETE FROM records WHERE id = ?", (row_id,))
            rows[:] = [row for row in rows if row[0] != row_id]
        connection.execute(
            "INSERT INTO latest (partition_id, key, offset) VALUES (?, ?, ?) "
            "ON CONFLICT (partition_id, key) DO UPDATE SET offset = excluded.offset",
            (number, key, offset),
        )

    def _on_commit(self) -> None:
        with self._appended:
            self._next.update(self._pending)
            self._pending.clear()
            self._appended.notify_all()

    def _writing(self) -> Writer:
        if self._writer is None:
            raise Unavailable("the log is not open")
        return self._writer

    def _reading(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._readers, "connection", None)
        if connection is None:
            connection = tables.connect_reader(self._data_dir)
            self._readers.connection = connection
            self._open_readers.append(connection)
        return connection
