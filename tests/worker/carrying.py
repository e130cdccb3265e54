"""A carrier around lanes in memory: what a worker does with a batch, without Faust and Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.contract.codec import Codec
from pipeline.contract.ports import Fenced, NeverTaken
from pipeline.contract.record import Record
from pipeline.contract.topics import load_topics
from pipeline.metrics import Meters
from pipeline.settings import Settings, load
from pipeline.stages.datastreams import OPEN_DIRECTORY
from pipeline.stages.receive import DOWNLOADED, Request
from pipeline.stages.sizes import sizes_of
from pipeline.topology import INDEX, Topology
from pipeline.wire.encode import to_media_collection
from pipeline.worker.carrier import Carrier, Ending
from pipeline.worker.ownership import Ownership
from tests.fakes import FakeSchemaIds
from tests.stories import BASE_MS, story

CODEC = Codec(FakeSchemaIds())
NOW_MS = BASE_MS + 60_000


class Commit(NamedTuple):
    """What one transaction made visible."""

    partition: int
    records: Sequence[Record]
    next_offset: int


class FakeLanes:
    """Lanes that keep what was committed; `refuses` says of which records Kafka takes none."""

    progress = 0

    def __init__(self, refuses: Callable[[Record], bool] = lambda _record: False) -> None:
        self.commits: list[Commit] = []
        self.index: dict[bytes, bytes] = {}
        self.released: list[int] = []
        self._refuses = refuses
        self._holds: dict[int, object] = {}

    def resume(self, partition: int) -> int:
        self._holds[partition] = object()
        return max((c.next_offset for c in self.commits if c.partition == partition), default=0)

    def release(self, partition: int) -> None:
        self.released.append(partition)
        self._holds.pop(partition, None)

    def hold(self, partition: int) -> object:
        return self._holds.get(partition)

    def known(self, partition: int, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        return {key: self.index[key] for key in keys if key in self.index}

    def first_upload_from(self, partition: int, offset: int) -> int | None:
        return None

    def commit(self, partition: int, records: Sequence[Record], next_offset: int, hold: object) -> None:
        if partition not in self._holds or hold not in (None, self._holds[partition]):
            raise Fenced(f"partition {partition} was not taken over, or again since")
        if any(map(self._refuses, records)):
            raise NeverTaken("Broker: Message size too large", ())
        self.commits.append(Commit(partition, records, next_offset))
        self.index |= {r.key: r.value for r in records if r.topic == INDEX and r.value is not None}

    def values(self, topic: str) -> list[dict[str, Any]]:
        """Return the decoded records of a topic, in the order of their commits."""
        return [CODEC.decode(r.value) for c in self.commits for r in c.records if r.topic == topic]


class Message(NamedTuple):
    """A record as Faust gives it."""

    partition: int
    offset: int
    value: bytes | None
    key: bytes = b"k"
    generation_id: int = 1
    timestamp: float = NOW_MS / 1000
    headers: Sequence[tuple[str, bytes]] = ()


class Worker:
    """A carrier with what it rests on; `ended` holds why it would have ended the process."""

    def __init__(self, lanes: FakeLanes, settings: Settings | None = None) -> None:
        given = settings or load({})
        self.lanes = lanes
        self.is_flowing = True
        self.let_go: list[Any] = []
        self.ended: list[tuple[Ending, str]] = []
        self.meters = Meters()
        self.ownership = Ownership(lanes)  # type: ignore[arg-type]  # a fake of what is called
        topology = Topology(CODEC, load_topics(), OPEN_DIRECTORY, sizes=sizes_of(given))
        self.carrier = Carrier(
            given,
            topology,
            self.ownership,
            self.meters,
            lambda: NOW_MS,
            self._end,
            lambda: self.is_flowing,
            self.let_go.append,
        )

    async def carry(self, messages: Sequence[Any], generation: int) -> None:
        """Have these messages carried; return when all were let go."""
        await self.carrier.take(messages, generation)
        await self.carrier.held_below(1)

    def _end(self, ending: Ending, event: str, error: object, **members: object) -> None:
        self.ended.append((ending, event))
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(asyncio.Task.exception)  # else asyncio complains that nobody asked for it
        raise SystemExit(ending.value)


def upload(number: int, body: bytes | None = None) -> bytes:
    """Return the value of an upload's record as the door makes it."""
    topology = Topology(CODEC, load_topics(), OPEN_DIRECTORY)
    sent = body or to_media_collection(story("0 start, 0 play, 10 complete", name=f"film-{number}"))
    request = Request(DOWNLOADED, sent, NOW_MS, "request")
    (record,) = topology.upload_records(topology.receive(request, lambda: f"upload-{number}"))
    assert record.value is not None
    return record.value
