"""A session is known for 13 months: uploads go through the stages and the local store, months apart."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.contract.codec import Codec
from pipeline.contract.ports import PositionUnusable
from pipeline.contract.positions import Source
from pipeline.contract.record import StoredRecord
from pipeline.contract.records import IndexEntry
from pipeline.contract.topics import load_topics
from pipeline.kafka.indexstore import Entry, IndexStore, Origin, make_cache
from pipeline.kafka.takeover import Bounds, Start, start_of
from pipeline.stages.datastreams import OPEN_DIRECTORY
from pipeline.stages.receive import DOWNLOADED, Request
from pipeline.topology import INDEX, Topology
from pipeline.wire.encode import to_media_collection
from tests.fakes import FakeSchemaIds
from tests.stories import story

CODEC = Codec(FakeSchemaIds())
TOPOLOGY = Topology(CODEC, load_topics(), OPEN_DIRECTORY)
BODY = to_media_collection(story("0 start, 0 play, 10 complete"))


def at(year: int, month: int, day: int = 15) -> int:
    return int(datetime(year, month, day, tzinfo=UTC).timestamp() * 1000)


class Worker:
    """A worker's stages on a store that is opened anew for each upload, as after a restart."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._offset = 0

    def carry(self, upload_id: str, now_ms: int) -> list[str]:
        """Return the outcomes of one upload that is received and carried now."""
        request = Request(DOWNLOADED, BODY, now_ms, "request")
        (r,) = TOPOLOGY.upload_records(TOPOLOGY.receive(request, lambda: upload_id))
        stored = StoredRecord(r.topic, 0, self._offset, r.key, r.value, r.timestamp_ms)
        store = IndexStore(self._directory, Origin("cluster", "topic"), make_cache())
        while not store.sweep(now_ms, 1_000):
            pass
        processed = TOPOLOGY.process([stored], store.known, now_ms)
        self._offset += 1
        made = [Entry(r.key, r.value, r.timestamp_ms) for r in processed.records if r.topic == INDEX]
        store.apply(made, self._offset)
        store.close()
        outcomes = [CODEC.decode(r.value) for r in processed.records if r.topic == "media.outcomes"]
        return [str(outcome["outcome"]) for outcome in outcomes]


def test_an_upload_that_is_sent_again_after_12_months_is_a_duplicate(tmp_path: Path) -> None:
    worker = Worker(tmp_path / "store")
    assert worker.carry("first", at(2026, 1)) == ["accepted"]
    assert worker.carry("again", at(2027, 1)) == ["duplicate"]
    assert worker.carry("first", at(2027, 1)) == [], "the same upload id is a redelivery"
    assert worker.carry("again", at(2027, 1)) == []


def test_it_is_one_to_the_end_of_the_13th_month_and_counts_again_later(tmp_path: Path) -> None:
    worker = Worker(tmp_path / "store")
    assert worker.carry("first", at(2026, 1, 1)) == ["accepted"]
    assert worker.carry("again", at(2027, 2, 28)) == ["duplicate"]
    assert worker.carry("the first of the month", at(2027, 3, 1)) == ["duplicate"], "it tells that it is time"
    assert worker.carry("much later", at(2027, 3, 1)) == ["accepted"]


POSITION = IndexEntry(
    kind="position", next_offset=5, cluster_id="cluster", topic_id="topic", recorded_at_ms=0
)


@pytest.mark.parametrize("what", ["cluster", "topic"])
def test_a_position_of_another_cluster_or_topic_names_the_command_that_mends_it(what: str) -> None:
    bounds, here = Bounds(0, 9), Source("cluster", "topic")
    assert start_of(POSITION, 3, bounds, here) == Start(5)
    elsewhere = here._replace(**{f"{what}_id": "another"})
    with pytest.raises(PositionUnusable, match=rf"of another {what}.*now another.*pipeline index adopt"):
        start_of(POSITION, 3, bounds, elsewhere)
