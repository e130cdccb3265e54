"""The tables of the log's file, and how a connection to it is opened.

A record's row id is its topic-partition number and its offset in one integer, so that reading a
partition in order is reading the table in order.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.contract.record import StoredRecord
from pipeline.contract.topics import Topic

FILE_NAME: Final = "log.sqlite"
OFFSET_BITS: Final = 40
OFFSET_MASK: Final = (1 << OFFSET_BITS) - 1
BUSY_TIMEOUT_MS: Final = 10_000
READ_BYTES: Final = 32 * 1024 * 1024
"""Most bytes that one read brings into memory, however many records it may return: each can be of MiBs."""

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS partitions (
    id INTEGER PRIMARY KEY, topic TEXT NOT NULL, partition INTEGER NOT NULL,
    next_offset INTEGER NOT NULL DEFAULT 0, UNIQUE (topic, partition));
CREATE TABLE IF NOT EXISTS records (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL, value BLOB, timestamp_ms INTEGER NOT NULL, headers BLOB);
CREATE INDEX IF NOT EXISTS tombstones ON records (timestamp_ms) WHERE value IS NULL;
CREATE TABLE IF NOT EXISTS latest (
    partition_id INTEGER NOT NULL, key BLOB NOT NULL, offset INTEGER NOT NULL,
    PRIMARY KEY (partition_id, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS positions (
    partition INTEGER PRIMARY KEY, next_offset INTEGER NOT NULL DEFAULT 0, epoch INTEGER NOT NULL DEFAULT 0);
"""


def connect_writer(data_dir: Path) -> sqlite3.Connection:
    """Return the writer's connection to a log that is made where there is none, or raise OSError."""
    try:
        connection = sqlite3.connect(data_dir / FILE_NAME, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        connection.executescript(_TABLES)
    except sqlite3.Error as error:
        raise OSError(f"{FILE_NAME}: {error}") from None
    return connection


def connect_reader(data_dir: Path) -> sqlite3.Connection:
    """Return a read-only connection, or raise FileNotFoundError where there is no log."""
    path = data_dir / FILE_NAME
    if not path.exists():
        raise FileNotFoundError(f"{FILE_NAME} does not exist")
    try:
        connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
        )
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute("SELECT count(*) FROM partitions")
    except sqlite3.Error as error:
        raise OSError(f"{FILE_NAME}: {error}") from None
    return connection


def declare(connection: sqlite3.Connection, topics: Mapping[str, Topic]) -> None:
    """Make the partitions of new topics, or raise OSError when a topic has another number of them."""
    held: dict[str, int] = dict(
        connection.execute("SELECT topic, count(*) FROM partitions GROUP BY topic").fetchall()
    )
    for name, topic in topics.items():
        if held.get(name, topic.partitions) != topic.partitions:
            raise OSError(
                f"topic {name} was made with {held[name]} partitions, PIPELINE_PARTITIONS is "
                f"{topic.partitions}: the dedupe index lives by partition, so it can't change"
            )
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(
        "INSERT OR IGNORE INTO partitions (topic, partition) VALUES (?, ?)",
        [(name, partition) for name, topic in topics.items() for partition in range(topic.partitions)],
    )
    connection.execute("COMMIT")


def partition_ids(connection: sqlite3.Connection) -> dict[tuple[str, int], int]:
    """Return the number of every topic-partition."""
    rows = connection.execute("SELECT topic, partition, id FROM partitions").fetchall()
    return {(topic, partition): number for topic, partition, number in rows}


def read_rows(
    connection: sqlite3.Connection, topic: str, partition: int, number: int, offset: int, limit: int
) -> list[StoredRecord]:
    """Return up to `limit` records, and `READ_BYTES`, of a topic-partition from `offset` on, in order.

    At least one record where there is any: only an empty list means the end.
    """
    base = number << OFFSET_BITS
    found = connection.execute(
        "SELECT id, key, value, timestamp_ms, headers FROM records "
        "WHERE id >= ? AND id <= ? ORDER BY id LIMIT ?",
        (base | offset, base | OFFSET_MASK, limit),
    )
    return [
        StoredRecord(topic, partition, row_id & OFFSET_MASK, key, value, timestamp_ms, unpacked(headers))
        for row_id, key, value, timestamp_ms, headers in first_rows(found, READ_BYTES)
    ]


def first_rows(found: sqlite3.Cursor, most_bytes: int) -> list[tuple[Any, ...]]:
    """Return the first rows that were found, up to so many bytes of blobs but at least one.

    The cursor is closed: one that is left open in the middle keeps the write-ahead log from being emptied.
    """
    rows: list[tuple[Any, ...]] = []
    size = 0
    with contextlib.closing(found):
        for row in found:
            size += sum(len(value) for value in row if isinstance(value, bytes))
            if rows and size > most_bytes:
                break
            rows.append(row)
    return rows


def packed(headers: tuple[tuple[str, bytes], ...]) -> bytes | None:
    """Return headers as they are stored."""
    if not headers:
        return None
    return json.dumps([[name, value.hex()] for name, value in headers]).encode()


def unpacked(headers: bytes | None) -> tuple[tuple[str, bytes], ...]:
    """Return headers as they were given."""
    if headers is None:
        return ()
    return tuple((name, bytes.fromhex(value)) for name, value in json.loads(headers))
