"""The embedded runner around a log in memory."""

from __future__ import annotations

import asyncio
import json
from functools import partial

from pipeline.contract.codec import Codec
from pipeline.contract.positions import position_maker
from pipeline.contract.topics import load_topics
from pipeline.metrics import Meters
from pipeline.stages.datastreams import OPEN_DIRECTORY
from pipeline.stages.receive import DOWNLOADED, Request
from pipeline.stages.sizes import DEFAULT_SIZES, Sizes
from pipeline.topology import Topology
from pipeline.wire.encode import to_media_collection
from pipeline.worker.embedded import EmbeddedWorker
from tests.fakes import FakeLog, FakeSchemaIds
from tests.stories import BASE_MS, story


def test_what_is_too_much_for_one_commit_is_carried_in_several() -> None:
    codec = Codec(FakeSchemaIds())
    topology = Topology(
        codec, load_topics(), OPEN_DIRECTORY, sizes=Sizes(DEFAULT_SIZES.body_bytes, 1024 * 1024)
    )
    log = FakeLog(position_maker(codec))
    long = json.loads(to_media_collection(story("0 start, 0 play, 10 complete")))
    long[0]["customMetadata"] = {"note": "x" * 200_000}
    for number in range(6):
        long[0]["params"]["media.id"] = f"film-{number}"
        request = Request(DOWNLOADED, json.dumps(long).encode(), BASE_MS, "request")
        reception = topology.receive(request, partial("upload-{}".format, number))
        asyncio.run(log.store(topology.upload_records(reception)))
    worker = EmbeddedWorker(topology, log, Meters(), partitions=24, batch_records=100)
    steps = []
    while carried := worker.step():
        steps.append(carried)
    assert len(steps) > 1
    assert sum(steps) == 6
    outcomes = [r for (topic, _), rows in log.disk.records.items() if topic == "media.outcomes" for r in rows]
    assert {codec.decode(r.value)["outcome"] for r in outcomes} == {"accepted"}
    assert len(outcomes) == 6
