"""Read a log from any process, beside its owner: one snapshot until `refresh`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from pipeline.contract.record import StoredRecord
from pipeline.log import tables
from pipeline.log.tables import OFFSET_BITS, OFFSET_MASK

BATCH: Final = 500


def open_reader(data_dir: Path) -> LogReader:
    """Return a reader of the log in this directory, or raise FileNotFoundError or OSError."""
    return LogReader(tables.connect_reader(data_dir))


class LogReader:
    """Reads committed records; everything between two `refresh` calls is of one moment."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._numbers: dict[tuple[str, int], int] = {}
        self.refresh()

    def refresh(self) -> None:
        """Go on to the present state of the log."""
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._connection.execute("BEGIN")
        self._numbers = tables.partition_ids(self._connection)

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()

    def partitions(self, topic: str) -> int:
        """Return how many partitions the topic has; 0 for an unknown one."""
        return sum(1 for name, _ in self._numbers if name == topic)

    def first_offset(self, topic: str, partition: int) -> int:
        """Return the offset of the oldest record that is still there, or the end."""
        base = self._numbers[topic, partition] << OFFSET_BITS
        row = self._connection.execute(
            "SELECT min(id) FROM records WHERE id >= ? AND id <= ?", (base, base | OFFSET_MASK)
        ).fetchone()
        return self.end_offset(topic, partition) if row[0] is None else int(row[0]) & OFFSET_MASK

    def end_offset(self, topic: str, partition: int) -> int:
        """Return the offset that the next record will get."""
        row = self._connection.execute(
            "SELECT next_offset FROM partitions WHERE id = ?", (self._numbers[topic, partition],)
        ).fetchone()
        return int(row[0])

    def read(self, topic: str, positions: Mapping[int, int]) -> Iterator[StoredRecord]:
        """Yield the committed records of these partitions, each from its position on, to the end."""
        for partition, offset in positions.items():
            number = self._numbers[topic, partition]
            while batch := tables.read_rows(self._connection, topic, partition, number, offset, BATCH):
                yield from batch
                offset = batch[-1].offset + 1  # noqa: PLW2901 - it is where the next batch begins
