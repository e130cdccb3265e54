"""`pipeline ledger` reads as much as it likes without keeping it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from pipeline.commands import ledger
from pipeline.commands.home import Home
from pipeline.contract.codec import Codec
from pipeline.contract.positions import INDEX, UPLOADS, position_maker
from pipeline.contract.record import StoredRecord
from pipeline.stages.ledger import Entry
from tests.fakes import FakeSchemaIds

RECORDS = 50
NOW_MS = 1_760_000_000_000


class OneByOne:
    """A reader of one partition that makes each record when it is asked for it, and counts them."""

    def __init__(self, codec: Codec) -> None:
        self.made = 0
        self._position = position_maker(codec)

    def refresh(self) -> None:
        """There is nothing newer."""

    def partitions(self, _topic: str) -> int:
        return 1

    def first_offset(self, _topic: str, _partition: int) -> int:
        return 0

    def end_offset(self, topic: str, _partition: int) -> int:
        return RECORDS if topic in {UPLOADS, INDEX} else 0

    def read(self, topic: str, positions: Mapping[int, int]) -> Iterator[StoredRecord]:
        for offset in range(positions[0], self.end_offset(topic, 0)):
            self.made += 1
            if topic == INDEX:
                r = self._position(0, offset, NOW_MS)
                yield StoredRecord(topic, 0, offset, r.key, r.value, NOW_MS)
            else:
                yield StoredRecord(topic, 0, offset, f"{offset}".encode(), b"undecodable", NOW_MS)


def test_each_record_is_counted_before_the_next_one_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = Codec(FakeSchemaIds())
    reader = OneByOne(codec)
    ahead = set()

    def balanced(entries: Iterator[Entry], uploads: object, *, since_ms: int) -> tuple[object, int]:
        begun, taken = reader.made, 0
        for taken, _ in enumerate(entries, 1):
            ahead.add(reader.made - begun - taken)
        assert since_ms < NOW_MS
        return uploads, taken

    monkeypatch.setattr(ledger, "balance", balanced)
    found: object = ledger.read_ledger(Home(reader, codec), NOW_MS)
    assert found == ({0: (0, RECORDS, RECORDS - 1)}, 2 * RECORDS)
    assert ahead == {0}
