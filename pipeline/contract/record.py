"""A record of a topic, as it is written and as it is read back."""

from __future__ import annotations

from typing import NamedTuple


class Record(NamedTuple):
    """One record to be written. `value` is framed Avro; `None` is a tombstone.

    `timestamp_ms` is always the time of receipt (DESIGN.md 3). `partition` is chosen by
    `contract.partition` from the key, or is that of the upload (`placed_by` in `topics.toml`).
    """

    topic: str
    partition: int
    key: bytes
    value: bytes | None
    timestamp_ms: int
    headers: tuple[tuple[str, bytes], ...] = ()


class StoredRecord(NamedTuple):
    """One record as a log holds it."""

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes | None
    timestamp_ms: int
    headers: tuple[tuple[str, bytes], ...] = ()
