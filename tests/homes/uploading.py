"""Send bodies through the door into a home, let the worker carry them, and read what came out."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, Final, NamedTuple, Protocol

from pipeline.contract.codec import Codec
from pipeline.contract.ports import Commits, Uploads, UploadSink
from pipeline.contract.topics import load_topics
from pipeline.metrics import Meters
from pipeline.settings import PARTITIONS
from pipeline.stages import receive
from pipeline.stages.datastreams import OPEN_DIRECTORY, Directory
from pipeline.topology import Topology
from pipeline.worker.embedded import EmbeddedWorker

NOW_MS: Final = 1_760_000_000_000


class Home(Commits, Uploads, UploadSink, Protocol):
    """A home as door and worker see it."""

    def wait_for_records(self, topic: str, positions: dict[int, int], timeout_s: float) -> bool:
        """Return whether there is more to read."""


class Pipeline(NamedTuple):
    """Door, home and worker put together."""

    home: Home
    codec: Codec
    topology: Topology
    worker: EmbeddedWorker
    ids: Any

    def send(self, body: bytes, path: str = receive.DOWNLOADED, **request: Any) -> receive.Answer:
        """Return the door's answer, after what it decided was stored."""
        number = next(self.ids)
        received = receive.Request(
            path=path,
            body=body,
            received_at_ms=NOW_MS,
            request_id=f"request-{number}",
            config_id="ds" if path == receive.EDGE else None,
            **request,
        )
        reception = self.topology.receive(received, lambda: f"upload-{next(self.ids)}")
        asyncio.run(self.home.store(self.topology.upload_records(reception)))
        return reception.answer

    def carry(self) -> None:
        """Let the worker carry everything that waits."""
        while self.worker.step():
            pass

    def values(self, topic: str) -> list[dict[str, Any]]:
        """Return the decoded values of a topic, partition by partition."""
        return [
            self.codec.decode(stored.value)
            for partition in range(load_topics()[topic].partitions)
            for stored in self.home.read(topic, partition, 0, 10**6)
        ]


def make_pipeline(
    home: Home,
    codec: Codec,
    directory: Directory = OPEN_DIRECTORY,
    meters: Meters | None = None,
    partitions: int = PARTITIONS,
) -> Pipeline:
    """Return a pipeline on this home, with a clock that stands still."""
    topics = load_topics(partitions)
    topology = Topology(codec, topics, directory)
    worker = EmbeddedWorker(
        topology,
        home,
        meters or Meters(),
        partitions=partitions,
        batch_records=50,
        now_ms=lambda: NOW_MS + 1_000,
    )
    return Pipeline(home, codec, topology, worker, itertools.count(1))
