"""What an index partition knows, kept on the worker's disk: a copy of its committed records (ADR 0007).

The store holds nothing that is not in `media.index`: it may be deleted at any time, and then costs the
reading of its partition. It says of which cluster and topic it is a copy, and up to which offset; both are
written together with the entries. Entries are found by a digest of their key and are forgotten by month,
when both the clock and the newest entry say that it is time; the few keys of `LASTING` (positions, windows,
marks) are kept for ever.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import struct
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice, takewhile
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import rocksdict

KEPT_MONTHS: Final = 13
"""So many whole months after its own an entry is known for certain (DESIGN.md 2.3)."""
LASTING: Final = (b"position:", b"window:", b"owner:", b"rebuilt:")
CACHE_BYTES: Final = 64 * 1024 * 1024
"""Shared by all stores of a process: filters, index blocks and data blocks."""
DAY_MS: Final = 86_400_000
BUFFER_BYTES: Final = 4 * 1024 * 1024
WAL_BYTES: Final = 8 * 1024 * 1024
OPEN_FILES: Final = 256
FILTER_BITS: Final = 10
DIGEST_BYTES: Final = 16
LOST_MARK: Final = "lost"

_ORIGIN_KEY: Final = b"m:origin"
_OFFSET_KEY: Final = b"m:next-offset"
_SWEPT_KEY: Final = b"m:swept-month"
_NEWEST_KEY: Final = b"m:newest"
_ENTRY: Final = b"e"
_ENTRY_END: Final = b"f"
_KEPT: Final = b"k"
_NUMBER: Final = struct.Struct(">q")
_MONTH: Final = struct.Struct(">H")
_LAST_MONTH: Final = 0xFFFF
_LATEST_S: Final = 253_402_300_799


class Damaged(Exception):
    """The store can't be read; it is marked, and made anew when it is opened next."""


class Closed(Exception):
    """The store was closed: its partition was let go of."""


class Origin(NamedTuple):
    """Of what a store is a copy."""

    cluster_id: str
    topic_id: str


class Entry(NamedTuple):
    """One committed record of the index; a value of None takes its key away."""

    key: bytes
    value: bytes | None
    timestamp_ms: int


class Size(NamedTuple):
    """About how much a store holds."""

    entries: int
    bytes: int


class Claim(NamedTuple):
    """A directory for stores that this process alone uses, until `lock` is closed."""

    directory: Path
    lock: IO[str]


def claim_directory(parent: Path) -> Claim:
    """Lock and return the first free numbered directory, or raise OSError.

    A worker that is started again finds the stores of the one that ended; of two on one disk each has its
    own, also while one of them hangs.
    """
    number = 0
    while True:
        directory = parent / str(number)
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            number += 1
        else:
            return Claim(directory, lock)


class IndexStore:
    """One open store; a partition's methods are called by one thread at a time."""

    def __init__(self, directory: Path, origin: Origin, cache: Any) -> None:
        """Open the store, or make it anew where it is damaged, marked or a copy of something else."""
        self._directory = directory
        self._origin = f"{origin.cluster_id} {origin.topic_id}".encode()
        self._cache = cache
        self.made_anew: str | None = None
        """Why the store that was found could not be used."""
        self._next_offset = 0
        self._newest_ms = 0
        """The latest record time of its entries: a clock alone makes nothing old."""
        self._swept_month = 0
        self._sweep_from = _ENTRY
        if (directory / LOST_MARK).exists():
            self.made_anew = "it was marked as damaged"
            shutil.rmtree(directory)
        try:
            self._db = self._opened()
            found = self._db.get(_ORIGIN_KEY)
        except Exception as error:  # noqa: BLE001 - the library raises plain Exception for whatever it found
            self.made_anew = f"damaged: {error}"
        else:
            if found in (None, self._origin):
                self._begin()
                return
            self.made_anew = "a copy of another cluster or topic"
        self.clear(self.made_anew)

    def clear(self, why: str) -> None:
        """Forget everything, so that the partition is read from its start."""
        self.made_anew = why
        self.close()
        shutil.rmtree(self._directory, ignore_errors=True)
        self._db = self._opened()
        self._begin()

    @property
    def next_offset(self) -> int:
        """The offset of the index partition that was not taken yet."""
        return self._next_offset

    def apply(self, entries: Iterable[Entry], next_offset: int) -> None:
        """Take committed records, in order, and the offset after them; all of it or nothing."""
        batch = rocksdict.WriteBatch(raw_mode=True)
        newest_ms = self._newest_ms
        for entry in entries:
            key = _key(entry.key)
            if entry.value is None:
                batch.delete(key)
            elif key.startswith(_ENTRY):
                batch.put(key, _MONTH.pack(month_of(entry.timestamp_ms)) + entry.value)
                newest_ms = max(newest_ms, entry.timestamp_ms)
            else:
                batch.put(key, entry.value)
        batch.put(_OFFSET_KEY, _NUMBER.pack(next_offset))
        batch.put(_NEWEST_KEY, _NUMBER.pack(newest_ms))
        self._db.write(batch)
        self._next_offset, self._newest_ms = next_offset, newest_ms

    def known(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return the values of those keys that are known, or raise `Damaged`, or `Closed`."""
        db = self._db
        if db is None:
            raise Closed(str(self._directory))
        try:
            found = db.get([_key(key) for key in keys])
        except rocksdict.DbClosedError as error:
            raise Closed(f"{self._directory}: {error}") from None
        except Exception as error:  # noqa: BLE001 - as above
            (self._directory / LOST_MARK).touch()
            raise Damaged(f"{self._directory}: {error}") from None
        return {
            key: value if _is_lasting(key) else value[_MONTH.size :]
            for key, value in zip(keys, found, strict=True)
            if value is not None
        }

    def sweep(self, now_ms: int, most: int) -> bool:
        """Look at `most` entries more and forget the too old ones; return True when all were looked at.

        Once a month every entry is looked at, from the first entry of that month on; in between this does
        nothing.
        """
        month = month_of(min(now_ms, self._newest_ms))
        if self._swept_month >= month:
            return True
        rows = takewhile(lambda row: row[0] < _ENTRY_END, self._db.items(from_key=self._sweep_from))
        looked_at = list(islice(rows, most + 1))
        is_done = len(looked_at) <= most
        batch = rocksdict.WriteBatch(raw_mode=True)
        for key, value in looked_at[:most]:
            if _MONTH.unpack_from(value)[0] < month - KEPT_MONTHS:
                batch.delete(key)
        if is_done:
            batch.put(_SWEPT_KEY, _MONTH.pack(month))
        self._db.write(batch)
        self._sweep_from = _ENTRY if is_done else looked_at[most][0]
        if is_done:
            self._swept_month = month
        return is_done

    def is_swept_ahead(self, now_ms: int) -> bool:
        """Return whether it was swept by a clock that was ahead: it lacks what its topic still has."""
        return self._swept_month > month_of(now_ms + DAY_MS)

    def size(self) -> Size:
        """Return about how large the store is; nothing when it is being closed."""
        db = self._db
        try:
            return Size(
                int(db.property_int_value("rocksdb.estimate-num-keys") or 0),
                int(db.property_int_value("rocksdb.total-sst-files-size") or 0),
            )
        except (AttributeError, rocksdict.DbClosedError):
            return Size(0, 0)

    def close(self) -> None:
        """Close; may be called twice."""
        db, self._db = getattr(self, "_db", None), None
        if db is not None:
            db.close()

    def _begin(self) -> None:
        """Read what the store says of itself."""
        held = self._db.get([_OFFSET_KEY, _SWEPT_KEY, _NEWEST_KEY])
        self._next_offset = _NUMBER.unpack(held[0])[0] if held[0] else 0
        self._swept_month = _MONTH.unpack(held[1])[0] if held[1] else 0
        self._newest_ms = _NUMBER.unpack(held[2])[0] if held[2] else 0
        self._sweep_from = _ENTRY
        self._db.put(_ORIGIN_KEY, self._origin)

    def _opened(self) -> Any:
        self._directory.mkdir(parents=True, exist_ok=True)
        blocks = rocksdict.BlockBasedOptions()
        blocks.set_bloom_filter(FILTER_BITS, block_based=False)
        blocks.set_block_cache(self._cache)
        blocks.set_cache_index_and_filter_blocks(True)
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_block_based_table_factory(blocks)
        options.set_compression_type(rocksdict.DBCompressionType.lz4())
        options.set_write_buffer_size(BUFFER_BYTES)
        options.set_max_total_wal_size(WAL_BYTES)
        options.set_max_open_files(OPEN_FILES)
        options.set_keep_log_file_num(1)
        return rocksdict.Rdict(str(self._directory), options)


def make_cache() -> Any:
    """Return the block cache that all stores of a process share."""
    return rocksdict.Cache(CACHE_BYTES)


def month_of(timestamp_ms: int) -> int:
    """Return the month of a moment, counted from January 1970, within 0 and the largest that is kept."""
    return _month_of_day(timestamp_ms // DAY_MS)


@lru_cache(maxsize=1024)
def _month_of_day(day: int) -> int:
    date = datetime.fromtimestamp(min(max(0, day * DAY_MS // 1000), _LATEST_S), UTC)
    return min((date.year - 1970) * 12 + date.month - 1, _LAST_MONTH)


def _is_lasting(key: bytes) -> bool:
    return key.startswith(LASTING)


def _key(key: bytes) -> bytes:
    if _is_lasting(key):
        return _KEPT + key
    return _ENTRY + hashlib.blake2b(key, digest_size=DIGEST_BYTES).digest()
