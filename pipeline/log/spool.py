"""The ingest's spool: uploads that Kafka did not acknowledge in time, kept on disk until it does.

One locked directory per process under `<data dir>/spool`. Records are durable (fsync, group commit on the
writer's thread) before they are answered, are forwarded in order, and are removed only after Kafka has
acknowledged them: a crash between the two makes a redelivery, never a loss. A spool that a dead process
left behind is adopted by whichever process finds it unlocked. Beside the records lies the schema that they
were written with: where the registry could not be asked, they are framed when they are forwarded.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Final, NamedTuple

from pipeline.contract.ports import Unavailable
from pipeline.contract.record import Record
from pipeline.log import tables
from pipeline.log.writer import Refused, Writer, size_of

FILE_NAME: Final = "spool.sqlite"
LOCK_NAME: Final = "lock"
SCHEMA_NAME: Final = "schema.avsc"
FREE_BYTES_NEEDED: Final = 16 * 1024 * 1024

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS waiting (
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, partition INTEGER NOT NULL, key BLOB NOT NULL,
    value BLOB, timestamp_ms INTEGER NOT NULL, headers BLOB, bytes INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS set_aside (
    id INTEGER PRIMARY KEY, topic TEXT NOT NULL, partition INTEGER NOT NULL, key BLOB NOT NULL,
    value BLOB, timestamp_ms INTEGER NOT NULL, headers BLOB, bytes INTEGER NOT NULL, reason TEXT NOT NULL);
"""
_COLUMNS: Final = "topic, partition, key, value, timestamp_ms, headers, bytes"
_INSERT: Final = f"INSERT INTO waiting ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - a constant


class Waiting(NamedTuple):
    """One spooled record and its number in the order of arrival."""

    number: int
    record: Record


class Totals(NamedTuple):
    """What a spool holds now."""

    records: int
    bytes: int
    oldest_ms: int | None
    """Time of receipt of the oldest waiting record; `None` when nothing waits."""
    set_aside: int
    set_aside_bytes: int = 0

    @property
    def all_bytes(self) -> int:
        """What the limit counts."""
        return self.bytes + self.set_aside_bytes


class Spool:
    """One open spool; it implements `UploadSink`."""

    def __init__(
        self,
        directory: Path,
        *,
        most_bytes: int,
        most_age_ms: int,
        now_ms: Callable[[], int],
        schema: str = "",
    ) -> None:
        self.directory = directory
        self.schema = schema
        """The schema of its records: that of the process which made it."""
        self.beside: Callable[[], Iterable[Totals]] = lambda: ()
        """What the limits count too: spools of dead processes that this one's has taken over."""
        self._most_bytes = most_bytes
        self._most_age_ms = most_age_ms
        self._now_ms = now_ms
        self._lock: IO[str] | None = None
        self._writer: Writer | None = None
        self._reader: sqlite3.Connection | None = None
        self._totals = Totals(0, 0, None, 0)
        self._grown = [0, 0, 0, 0]
        """What the open transaction adds: records and bytes that wait, records and bytes set aside."""
        self._changed = threading.Lock()

    def open(self) -> None:
        """Lock and open the spool, or raise OSError: damaged, or another's (`BlockingIOError`)."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as opened:
            lock = opened.enter_context((self.directory / LOCK_NAME).open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                self._keep_schema()
                connection = opened.enter_context(contextlib.closing(self._connected()))
                reader = opened.enter_context(contextlib.closing(self._connected()))
                _synced(self.directory, self.directory.parent)
                self._totals = _counted(connection)
            except (sqlite3.Error, ValueError) as error:  # a page, or the schema's file, gone bad
                raise OSError(f"{self.directory.name} is damaged: {error}") from None
            opened.pop_all()
        self._lock = lock
        self._reader = reader
        self._writer = Writer(connection, lambda: self._on_commit(connection), self._on_undone)

    def close(self, *, remove_if_empty: bool = True) -> None:
        """Finish what was queued and unlock; an empty spool leaves nothing behind."""
        if self._writer is None:
            return
        self._writer.close()
        if self._reader is not None:
            self._reader.close()
        totals = self.totals
        if remove_if_empty and totals.records == 0 and totals.set_aside == 0:
            shutil.rmtree(self.directory, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
        self._writer = None

    @property
    def totals(self) -> Totals:
        """What the spool held after its last commit."""
        with self._changed:
            return self._totals

    async def store(self, records: Sequence[Record]) -> None:
        """Return when all records are durable, or raise `Unavailable`: all or none."""
        size = size_of(records)
        rows = [
            (r.topic, r.partition, r.key, r.value, r.timestamp_ms, tables.packed(r.headers), size_of([r]))
            for r in records
        ]

        def work(connection: sqlite3.Connection) -> None:
            if self._counted_bytes() + self._grown[1] + self._grown[3] + size > self._most_bytes:
                raise Refused(Unavailable("the spool is full (PIPELINE_SPOOL_LIMIT_BYTES)"))
            connection.executemany(_INSERT, rows)
            self._grow(waiting=(len(rows), size))

        if self._is_too_old():
            raise Unavailable("the oldest spooled upload is too old (PIPELINE_SPOOL_MAX_AGE_S)")
        if not self._has_room():
            raise Unavailable("the disk of the spool is nearly full")
        await asyncio.wrap_future(self._writing().submit(work, size))

    def is_writable(self) -> bool:
        """Return whether an upload could be spooled now; spools nothing."""
        return (
            self._writer is not None
            and self._writer.is_well
            and self._has_room()
            and self._counted_bytes() < self._most_bytes
            and not self._is_too_old()
        )

    def oldest(
        self, limit: int, without: Collection[int] = (), most_bytes: int = tables.READ_BYTES
    ) -> list[Waiting]:
        """Return the records that have waited longest, in order, of all but these partitions.

        Up to `limit` and `most_bytes`, and at least one where any waits.
        """
        marks = ", ".join("?" * len(without))
        found = self._reading().execute(
            f"SELECT id, {_COLUMNS} FROM waiting "  # noqa: S608 - a constant, and marks
            f"WHERE partition NOT IN ({marks}) ORDER BY id LIMIT ?",
            (*without, limit),
        )
        return [
            Waiting(row[0], Record(row[1], row[2], row[3], row[4], row[5], tables.unpacked(row[6])))
            for row in tables.first_rows(found, most_bytes)
        ]

    def remove(self, numbers: Sequence[int]) -> None:
        """Forget records that Kafka has acknowledged."""
        try:
            self._writing().submit(lambda connection: self._delete(connection, numbers)).result()
        except Unavailable:
            # On a full disk even removing needs room in the write-ahead log: empty that, then once more.
            self._reading().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._writing().submit(lambda connection: self._delete(connection, numbers)).result()

    def set_aside(self, number: int, reason: str) -> None:
        """Keep a record that Kafka refuses for good out of the way of the others."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                f"INSERT INTO set_aside (id, {_COLUMNS}, reason) "  # noqa: S608 - a constant
                f"SELECT id, {_COLUMNS}, ? FROM waiting WHERE id = ?",
                (reason, number),
            )
            size = self._delete(connection, [number])
            self._grow(set_aside=(size > 0, size))

        self._writing().submit(work).result()

    def _keep_schema(self) -> None:
        """Write the schema down in a new spool, and read it in one that was made before."""
        file = self.directory / SCHEMA_NAME
        if (self.directory / FILE_NAME).exists():
            with contextlib.suppress(FileNotFoundError):
                self.schema = file.read_text()
            return
        with file.open("w") as out:
            out.write(self.schema)
            out.flush()
            os.fsync(out.fileno())

    def _counted_bytes(self) -> int:
        return sum([totals.all_bytes for totals in (self.totals, *self.beside())])

    def _is_too_old(self) -> bool:
        times = [totals.oldest_ms for totals in (self.totals, *self.beside())]
        known = [oldest_ms for oldest_ms in times if oldest_ms is not None]
        return bool(known) and self._now_ms() - min(known) > self._most_age_ms

    def _has_room(self) -> bool:
        """Return whether the disk has room beside what removing needs."""
        try:
            return shutil.disk_usage(self.directory).free > FREE_BYTES_NEEDED
        except OSError:
            return False

    def _connected(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(
                self.directory / FILE_NAME, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise OSError(f"{FILE_NAME}: {error}") from None
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA busy_timeout = {tables.BUSY_TIMEOUT_MS}")
            connection.executescript(_TABLES)
        except sqlite3.Error as error:
            connection.close()
            raise OSError(f"{FILE_NAME}: {error}") from None
        return connection

    def _delete(self, connection: sqlite3.Connection, numbers: Sequence[int]) -> int:
        """Remove what is still there of these; return its bytes."""
        removed = 0
        for number in numbers:
            row = connection.execute("SELECT bytes FROM waiting WHERE id = ?", (number,)).fetchone()
            if row is not None:
                connection.execute("DELETE FROM waiting WHERE id = ?", (number,))
                self._grow(waiting=(-1, -row[0]))
                removed += row[0]
        return removed

    def _grow(self, waiting: tuple[int, int] = (0, 0), set_aside: tuple[int, int] = (0, 0)) -> None:
        for place, more in enumerate((*waiting, *set_aside)):
            self._grown[place] += more

    def _on_commit(self, connection: sqlite3.Connection) -> None:
        before = self._totals
        try:
            oldest_ms = _oldest_ms(connection)
        except sqlite3.Error:  # what was committed stays so; the forwarder meets the damage in `oldest`
            oldest_ms = before.oldest_ms
        records, size, set_aside, set_aside_bytes = self._grown
        with self._changed:
            self._totals = Totals(
                before.records + records,
                before.bytes + size,
                oldest_ms,
                before.set_aside + set_aside,
                before.set_aside_bytes + set_aside_bytes,
            )
        self._on_undone()

    def _on_undone(self) -> None:
        self._grown = [0, 0, 0, 0]

    def _reading(self) -> sqlite3.Connection:
        if self._reader is None:
            raise Unavailable("the spool is not open")
        return self._reader

    def _writing(self) -> Writer:
        if self._writer is None:
            raise Unavailable("the spool is not open")
        return self._writer


def _counted(connection: sqlite3.Connection) -> Totals:
    records, size = connection.execute("SELECT count(*), coalesce(sum(bytes), 0) FROM waiting").fetchone()
    set_aside = connection.execute("SELECT count(*), coalesce(sum(bytes), 0) FROM set_aside").fetchone()
    return Totals(records, size, _oldest_ms(connection), *set_aside)


def _oldest_ms(connection: sqlite3.Connection) -> int | None:
    row = connection.execute("SELECT timestamp_ms FROM waiting ORDER BY id LIMIT 1").fetchone()
    return int(row[0]) if row else None


def _synced(*directories: Path) -> None:
    """Make sure that what was made in these directories is still there after a power failure."""
    for directory in directories:
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def left_behind(parent: Path) -> Iterator[Path]:
    """Yield the spools under this directory that no process has locked."""
    for lock_file in sorted(parent.glob(f"*/{LOCK_NAME}")):
        try:
            with lock_file.open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        yield lock_file.parent
