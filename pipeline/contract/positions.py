"""The read position as a record of the index, which every commit carries (DESIGN.md 3, media.index)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pipeline.contract.codec import Codec
from pipeline.contract.record import Record
from pipeline.contract.records import IndexEntry

INDEX: Final = "media.index"
UPLOADS: Final = "media.uploads"


def position_maker(codec: Codec) -> Callable[[int, int, int], Record]:
    """Return the function that makes the record of a position: (partition, next offset, now in ms)."""

    def position(partition: int, next_offset: int, now_ms: int) -> Record:
        entry = IndexEntry(
            kind="position",
            source_topic=UPLOADS,
            source_partition=partition,
            next_offset=next_offset,
            recorded_at_ms=now_ms,
        )
        key = f"position:{UPLOADS}:{partition}".encode()
        return Record(INDEX, partition, key, codec.encode(INDEX, entry), now_ms)

    return position


def next_offset_reader(codec: Codec) -> Callable[[bytes], int]:
    """Return the function that reads the next offset from the value of a position record."""

    def next_offset(value: bytes) -> int:
        entry = codec.decode_record(IndexEntry, value)
        return entry.next_offset or 0

    return next_offset
