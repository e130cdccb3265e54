"""A worker that was fenced says where, and ends."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.contract.codec import Codec
from pipeline.contract.ports import Fenced
from pipeline.contract.topics import load_topics
from pipeline.metrics import Meters
from pipeline.settings import load
from pipeline.stages.datastreams import OPEN_DIRECTORY
from pipeline.topology import UPLOADS, Topology
from pipeline.worker.carrier import Carrier, Ending
from pipeline.worker.faust_worker import App
from pipeline.worker.ownership import Ownership
from tests.fakes import FakeSchemaIds


class FencedLanes:
    """Lanes of a worker whose partitions another one has taken over."""

    progress = 0

    def resume(self, partition: int) -> int:
        return 7

    def hold(self, partition: int) -> object:
        return self

    def known(self, partition: int, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        return {}

    def commit(self, partition: int, records: Any, next_offset: int, hold: object) -> None:
        raise Fenced("another worker has it")


class Message:
    """A record as Faust gives it."""

    partition, offset, generation_id, key, value = 3, 7, 1, b"k", b"not Avro"
    timestamp, headers = 1.0, ()


def test_the_event_has_topic_partition_and_offset_and_nothing_counts_as_committed() -> None:
    ended: list[tuple[Any, ...]] = []

    def end(ending: Ending, event: str, error: object, **members: object) -> None:
        ended.append((ending, event, members))
        raise SystemExit(ending.value)

    async def carry() -> None:
        # The end comes in a task of the carrier's, which nobody asks any more then.
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
        ownership = Ownership(FencedLanes())  # type: ignore[arg-type]  # a fake of what is called
        await ownership.taken(1, [3])
        topology = Topology(Codec(FakeSchemaIds()), load_topics(), OPEN_DIRECTORY)
        carrier = Carrier(load({}), topology, ownership, meters, lambda: 0, end, lambda: True, gone.append)
        try:
            await carrier.take([Message()], 1)
            await carrier.held_below(1)
        finally:
            assert ownership.committed == {3: 7}

    meters = Meters()
    gone: list[object] = []
    with pytest.raises(SystemExit):
        asyncio.run(carry())
    assert ended == [(Ending.FENCED, "fenced", {"topic": UPLOADS, "partition": 3, "offset": 7})]
    assert b"pipeline_records_read_total 0.0" in meters.text()


@pytest.mark.parametrize(
    ("ending", "is_stopping", "code"),
    [(Ending.FENCED, False, 3), (Ending.FENCED, True, 0), (Ending.STUCK, True, 4)],
)
def test_whoever_was_asked_to_stop_and_is_fenced_meanwhile_ends_with_0(
    ending: Ending, is_stopping: bool, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes: list[int] = []
    monkeypatch.setattr("os._exit", codes.append)
    app: Any = SimpleNamespace(should_stop=is_stopping)
    App.end(app, ending, "any", "another worker has it")
    assert codes == [code]
