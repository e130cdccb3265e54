"""A ledger that is read while a worker goes on: between any two things that it reads, more is carried."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping

from pipeline.commands.home import Home, Reader
from pipeline.commands.ledger import read_ledger
from pipeline.contract.record import StoredRecord
from pipeline.stages.ledger import Ledger
from pipeline.wire.encode import to_media_collection
from tests.homes.uploading import NOW_MS, Pipeline
from tests.stories import story

LATE = "0 start, 0 play, 5 end"


class Meanwhile:
    """A reader that lets something happen before everything it is asked for."""

    def __init__(self, reader: Reader, happens: Callable[[], None]) -> None:
        self._reader = reader
        self._happens = happens

    def refresh(self) -> None:
        self._happens()
        self._reader.refresh()

    def partitions(self, topic: str) -> int:
        return self._reader.partitions(topic)

    def first_offset(self, topic: str, partition: int) -> int:
        return self._reader.first_offset(topic, partition)

    def end_offset(self, topic: str, partition: int) -> int:
        self._happens()
        return self._reader.end_offset(topic, partition)

    def read(self, topic: str, positions: Mapping[int, int]) -> Iterator[StoredRecord]:
        self._happens()
        return self._reader.read(topic, positions)


def check_each_ledger_balances(pipeline: Pipeline, reader: Reader, carried: int) -> None:
    """Read a ledger while `carried` uploads of each kind are carried in the midst of it, and one after."""
    numbers = itertools.count()

    def happens() -> None:
        number = next(numbers)
        if number >= carried:
            return
        accepted = to_media_collection(story(LATE, name=f"film-{number}"))
        for body in (accepted, accepted, b"[]"):  # accepted, a duplicate, a dead letter
            pipeline.send(body)
        pipeline.carry()

    happens()
    reader.refresh()
    during = _read(pipeline, Meanwhile(reader, happens))
    assert during.balances, [check for check in during.checks if not check.balances]
    assert next(numbers) > carried, "not so much happened"
    reader.refresh()
    after = _read(pipeline, reader)
    assert after.balances, [check for check in after.checks if not check.balances]
    assert (after.pending, after.received) == (0, 3 * carried)
    assert dict(after.outcomes) == {"accepted": carried, "duplicate": carried, "rejected": carried}
    ended = sum(during.outcomes.values())
    assert 0 < ended < 3 * carried
    assert ended == during.received - during.pending


def _read(pipeline: Pipeline, reader: Reader) -> Ledger:
    return read_ledger(Home(reader, pipeline.codec), NOW_MS)
