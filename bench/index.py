"""The index store: what a session costs with few and with many known, and beside SQLite and LMDB.

A worker with 24 partitions is filled as the topic would fill it. The stores share one interface here; what
the comparison is for is in ADR 0007. `BENCH_INDEX_SESSIONS` and `BENCH_INDEX_COMPARED` set the sizes.
"""

from __future__ import annotations

import gc
import hashlib
import os
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import lmdb
import psutil
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from pipeline.kafka.indexstore import Entry, IndexStore, Origin, make_cache

FEW: Final = 1_000
MANY: Final = int(os.environ.get("BENCH_INDEX_SESSIONS", "10000000"))
COMPARED: Final = int(os.environ.get("BENCH_INDEX_COMPARED", "500000"))
PARTITIONS: Final = 24
BATCH: Final = 100
"""Sessions in one commit of one partition."""
ROUNDS: Final = 200
FILL_CHUNK: Final = 5_000
NOW_MS: Final = 1_795_000_000_000
ORIGIN: Final = Origin("cluster", "topic")


class Store(Protocol):
    """What is measured of a store."""

    def apply(self, entries: Sequence[Entry], next_offset: int) -> None:
        """Take committed entries."""

    def known(self, keys: Sequence[bytes]) -> Any:
        """Return what is known of these keys."""

    def close(self) -> None:
        """Close it."""


class SqliteStore:
    """The same on SQLite: one table by digest, WAL, as durable as a copy has to be."""

    def __init__(self, directory: Path) -> None:
        self._db = sqlite3.connect(directory.with_suffix(".sqlite"), isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA cache_size = -4096")
        self._db.execute("CREATE TABLE IF NOT EXISTS entry (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")

    def apply(self, entries: Sequence[Entry], next_offset: int) -> None:
        rows = [(_digest(e.key), e.value) for e in entries]
        rows.append((b"offset", next_offset.to_bytes(8, "big")))
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR REPLACE INTO entry VALUES (?, ?)", rows)
        self._db.execute("COMMIT")

    def known(self, keys: Sequence[bytes]) -> Any:
        one = "SELECT value FROM entry WHERE key = ?"
        return {k: row[0] for k in keys if (row := self._db.execute(one, (_digest(k),)).fetchone())}

    def close(self) -> None:
        self._db.close()


class LmdbStore:
    """The same on LMDB; it has no checksums, so that a flipped bit can make a known session unknown."""

    def __init__(self, directory: Path) -> None:
        self._env = lmdb.open(str(directory), map_size=8 * 1024**3, sync=False)

    def apply(self, entries: Sequence[Entry], next_offset: int) -> None:
        with self._env.begin(write=True) as transaction:
            transaction.cursor().putmulti([(_digest(e.key), e.value or b"") for e in entries])
            transaction.put(b"offset", next_offset.to_bytes(8, "big"))

    def known(self, keys: Sequence[bytes]) -> Any:
        with self._env.begin() as transaction:
            return dict(transaction.cursor().getmulti([_digest(k) for k in keys]))

    def close(self) -> None:
        self._env.close()


def _digest(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=16).digest()


def session_key(number: int) -> bytes:
    """Return a key as long as those of the index."""
    return b"session:" + hashlib.sha256(b"%d" % number).hexdigest().encode()


def entry(number: int) -> Entry:
    """Return an entry as large as those of the index; values do not compress better than real ones."""
    texts = hashlib.sha256(b"v%d" % number).hexdigest()
    return Entry(
        session_key(number), f"\0\0\0\0\7session{texts}media.uploads{number}{texts[:32]}".encode(), NOW_MS
    )


def fill(stores: Sequence[Store], start: int, end: int, advance: Callable[[int], object]) -> None:
    """Give each store its share of these sessions."""
    for begin in range(start, end, FILL_CHUNK * len(stores)):
        for number, store in enumerate(stores):
            mine = range(begin + number, min(end, begin + FILL_CHUNK * len(stores)), len(stores))
            store.apply([entry(n) for n in mine], begin)
            advance(len(mine))


def session_us(stores: Sequence[Store], known: int, turn: int) -> float:
    """Return the µs of CPU that the index costs a session: two keys looked up, one entry written.

    The CPU of the store's own threads counts. One session in ten was seen before; each turn has others.
    """
    chance = random.Random(turn)
    new = known + turn * ROUNDS * BATCH * len(stores)
    keys, entries = [], []
    for round_ in range(ROUNDS):
        numbers = []
        for _ in range(BATCH):
            if chance.random() < 0.1:
                numbers.append(
                    chance.randrange(max(1, known // len(stores))) * len(stores) + round_ % len(stores)
                )
            else:
                new += len(stores)
                numbers.append(new + round_ % len(stores))
        keys.append([key for n in numbers for key in (session_key(n), b"upload:%032x" % n)])
        entries.append([entry(n) for n in numbers])
    gc.collect()
    started = time.process_time()
    for round_ in range(ROUNDS):
        store = stores[round_ % len(stores)]
        store.known(keys[round_])
        store.apply(entries[round_], round_)
    return (time.process_time() - started) / ROUNDS / BATCH * 1e6


def main() -> None:
    """Print cost per session, start and memory of the store, then the comparison."""
    with tempfile.TemporaryDirectory() as name, Progress(transient=True) as progress:
        task = progress.add_task("filling the index", total=MANY + 3 * COMPARED)
        directory = Path(name)
        rows = list(_own(directory / "own", lambda more: progress.advance(task, more)))
        compared = list(_compared(directory, lambda more: progress.advance(task, more)))
    table = Table(title="The index store, 24 partitions", title_justify="left")
    for column in ("", "known sessions", "µs of CPU per session", "opened in s", "memory MB", "disk MB"):
        table.add_column(column, justify="right" if column else "left")
    for row in [*rows, *compared]:
        table.add_row(*row)
    Console(width=120).print(table)


def _own(directory: Path, advance: Callable[[int], object]) -> Iterator[tuple[str, ...]]:
    cache = make_cache()
    process = psutil.Process()

    def opened() -> list[IndexStore]:
        return [IndexStore(directory / str(p), ORIGIN, cache) for p in range(PARTITIONS)]

    base = process.memory_info().rss
    stores = opened()
    for known in (FEW, MANY):
        fill(stores, 0 if known == FEW else FEW, known, advance)
        for store in stores:
            store.close()
        started = time.perf_counter()
        stores = opened()
        took_s = time.perf_counter() - started
        cost = statistics.median(session_us(stores, known, turn) for turn in range(3))
        used = (process.memory_info().rss - base) / 1e6
        yield (
            "RocksDB, as it is used",
            f"{known:,}",
            f"{cost:.1f}",
            f"{took_s:.2f}",
            f"{used:.0f}",
            _mb(directory),
        )
    for store in stores:
        store.close()


def _compared(directory: Path, advance: Callable[[int], object]) -> Iterator[tuple[str, ...]]:
    cache = make_cache()
    makers: dict[str, Callable[[Path], Store]] = {
        "RocksDB": lambda path: IndexStore(path, ORIGIN, cache),
        "SQLite": SqliteStore,
        "LMDB": LmdbStore,
    }
    for name, make in makers.items():
        place = directory / name
        place.mkdir()
        process, base = psutil.Process(), psutil.Process().memory_info().rss
        stores = [make(place / str(p)) for p in range(PARTITIONS)]
        fill(stores, 0, COMPARED, advance)
        cost = statistics.median(session_us(stores, COMPARED, turn) for turn in range(3))
        used = (process.memory_info().rss - base) / 1e6
        for store in stores:
            store.close()
        yield name, f"{COMPARED:,}", f"{cost:.1f}", "", f"{used:.0f}", _mb(place)


def _mb(directory: Path) -> str:
    return f"{sum(p.stat().st_blocks * 512 for p in directory.rglob('*') if p.is_file()) / 1e6:.0f}"
