"""Fakes that keep the ports' promises in memory; they pass the same tests as the real ones.

`actions` is the ordered log of what happened, so that a test can see that `stored` came before
`answered` and outputs were `committed` with their position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.contract.ports import Fenced, Unavailable
from pipeline.contract.record import Record, StoredRecord
from pipeline.log.log import INDEX, PositionRecord


class FakeSchemaIds:
    """A registry in memory."""

    def __init__(self) -> None:
        self._schemas: list[str] = []

    def id_of(self, subject: str, schema: str) -> int:
        if schema not in self._schemas:
            self._schemas.append(schema)
        return self._schemas.index(schema) + 1

    def schema_of(self, schema_id: int) -> str:
        if not 1 <= schema_id <= len(self._schemas):
            raise KeyError(schema_id)
        return self._schemas[schema_id - 1]


class FakeDisk:
    """What survives the fake log's owner: records, positions and epochs."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, int], list[StoredRecord]] = {}
        self.positions: dict[int, int] = {}
        self.epochs: dict[int, int] = {}


class FakeLog:
    """A log in memory; `broken` makes it refuse to store, as a full disk would."""

    def __init__(self, position_record: PositionRecord, disk: FakeDisk | None = None) -> None:
        self.disk = disk or FakeDisk()
        self.actions: list[str] = []
        self.broken = False
        self._position_record = position_record
        self._owned: dict[int, int] = {}

    async def store(self, records: Sequence[Record]) -> None:
        self._write(records)
        self.actions.append("stored " + " ".join(sorted({record.topic for record in records})))

    def take_over(self, partition: int) -> int:
        self.disk.epochs[partition] = self.disk.epochs.get(partition, 0) + 1
        self._owned[partition] = self.disk.epochs[partition]
        return self.disk.positions.get(partition, 0)

    def known(self, partition: int, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        latest = {r.key: r.value for r in self.disk.records.get((INDEX, partition), ())}
        return {key: value for key in keys if (value := latest.get(key)) is not None}

    def commit(self, partition: int, records: Sequence[Record], next_offset: int) -> None:
        epoch = self._owned.get(partition)
        if epoch is None or epoch != self.disk.epochs.get(partition):
            raise Fenced(f"partition {partition} has another owner")
        self._write([*records, self._position_record(partition, next_offset, 0)])
        self.disk.positions[partition] = next_offset
        self.actions.append(f"committed {len(records)} records with position {partition}:{next_offset}")

    def read(self, topic: str, partition: int, offset: int, limit: int) -> Sequence[StoredRecord]:
        return self.disk.records.get((topic, partition), [])[offset : offset + limit]

    def end_offset(self, topic: str, partition: int) -> int:
        return len(self.disk.records.get((topic, partition), ()))

    def wait_for_records(self, topic: str, positions: Mapping[int, int], timeout_s: float) -> bool:
        return any(self.end_offset(topic, p) > at for p, at in positions.items())

    def _write(self, records: Sequence[Record]) -> None:
        if self.broken:
            raise Unavailable("the fake disk is full")
        for r in records:
            rows = self.disk.records.setdefault((r.topic, r.partition), [])
            rows.append(
                StoredRecord(r.topic, r.partition, len(rows), r.key, r.value, r.timestamp_ms, r.headers)
            )
