"""The ports: what the stages and the services need of a log, and each home promises.

Two homes implement them, the embedded SQLite log (`pipeline.log`) and Kafka (`pipeline.kafka`,
`pipeline.worker`), and one test suite runs on both (`tests/ports`). A fake in `tests/fakes.py`
passes the same suite.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from pipeline.contract.record import Record, StoredRecord


class Fenced(Exception):
    """Another worker owns the partition now: nothing was committed, the caller must stop."""


class Unavailable(Exception):
    """The log can't store now (disk, memory, broker): retry later.

    `stored` are the places in the call's sequence of the records that are stored all the same.
    """

    def __init__(self, text: str = "", stored: Collection[int] = ()) -> None:
        super().__init__(text)
        self.stored = frozenset(stored)


class PositionUnusable(Exception):
    """The index does not fit the topics that it belongs to; the message names the command that mends it."""


class NeverTaken(Exception):
    """The log refuses records for good (too large, invalid): trying again can't help.

    `refused` are their places in the call's sequence; a sink has stored all others.
    """

    def __init__(self, text: str, refused: Collection[int]) -> None:
        super().__init__(text)
        self.refused = frozenset(refused)


class SchemaIds(Protocol):
    """The registry: which id a schema has in this home. Ids are stable for ever in one home."""

    def id_of(self, subject: str, schema: str) -> int:
        """Return the id of this schema under this subject, or raise `Unavailable`."""

    def schema_of(self, schema_id: int) -> str:
        """Return the schema with this id, or raise KeyError."""


class UploadSink(Protocol):
    """Where the front door puts uploads."""

    async def store(self, records: Sequence[Record]) -> None:
        """Return when all records are durable, or raise `Unavailable` or `NeverTaken`.

        The embedded log stores all or none. Kafka may have some of them when it raises, also ones that it
        did not acknowledge in time: what is stored again has the same upload ids.
        """


class Commits(Protocol):
    """The worker's one port: outputs, dedupe entries and the read position, together or not at all.

    The dedupe entries are records of `media.index` among `records`, on the same partition number as
    the upload they belong to; the home adds the position of the source as one more record there.
    """

    def take_over(self, partition: int) -> int:
        """Fence any earlier owner of this source partition; return its next offset to read."""

    def known(self, partition: int, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return the committed index values of those keys that are known in this partition."""

    def commit(self, partition: int, records: Sequence[Record], next_offset: int) -> None:
        """Make all records and the position durable and visible at once, or raise `Fenced`.

        `NeverTaken` says that a record can't be written (too large): nothing is visible, and only other
        records help. On any other exception nothing is visible, and the same call may be made again.
        """


class Uploads(Protocol):
    """The source of a worker that reads by itself (the embedded runner)."""

    def read(self, topic: str, partition: int, offset: int, limit: int) -> Sequence[StoredRecord]:
        """Return up to `limit` committed records from `offset` on, in order."""

    def end_offset(self, topic: str, partition: int) -> int:
        """Return the offset that the next record of this partition will get."""
