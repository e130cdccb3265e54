"""The read position as a record of the index, which every commit carries (DESIGN.md 3, media.index)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from pipeline.contract.codec import Codec
from pipeline.contract.record import Record
from pipeline.contract.records import IndexEntry

INDEX: Final = "media.index"
UPLOADS: Final = "media.uploads"


class Source(NamedTuple):
    """Which topic on which cluster a position belongs to; the embedded log has no such ids."""

    cluster_id: str | None = None
    topic_id: str | None = None


EMBEDDED: Final = Source()


def position_key(partition: int) -> bytes:
    """Return the key of a partition's position."""
    return f"position:{UPLOADS}:{partition}".encode()


def owner_record(codec: Codec, partition: int, now_ms: int) -> Record:
    """Return the record that a worker commits when it takes a partition over: a mark of the index's end."""
    entry = IndexEntry(kind="owner", source_topic=UPLOADS, source_partition=partition, recorded_at_ms=now_ms)
    key = f"owner:{UPLOADS}:{partition}".encode()
    return Record(INDEX, partition, key, codec.encode(INDEX, entry), now_ms)


def rebuilt_key(partition: int) -> bytes:
    """Return the key of the mark that a rebuild leaves in an index partition."""
    return f"rebuilt:{UPLOADS}:{partition}".encode()


def rebuilt_record(codec: Codec, partition: int, now_ms: int) -> Record:
    """Return the mark of a rebuild: local stores that are older hold for this partition no more."""
    entry = IndexEntry(
        kind="rebuilt", source_topic=UPLOADS, source_partition=partition, recorded_at_ms=now_ms
    )
    return Record(INDEX, partition, rebuilt_key(partition), codec.encode(INDEX, entry), now_ms)


def position_maker(codec: Codec, source: Source = EMBEDDED) -> Callable[[int, int, int], Record]:
    """Return the function that makes the record of a position: (partition, next offset, now in ms)."""

    def position(partition: int, next_offset: int, now_ms: int) -> Record:
        entry = IndexEntry(
            kind="position",
            source_topic=UPLOADS,
            source_partition=partition,
            next_offset=next_offset,
            cluster_id=source.cluster_id,
            topic_id=source.topic_id,
            recorded_at_ms=now_ms,
        )
        return Record(INDEX, partition, position_key(partition), codec.encode(INDEX, entry), now_ms)

    return position
