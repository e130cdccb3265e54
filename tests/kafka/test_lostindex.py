"""An index that lost what it held, while its topic is the same: nobody goes on, and a rebuild mends it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.contract.codec import Codec
from pipeline.contract.ports import PositionUnusable
from pipeline.contract.record import StoredRecord
from pipeline.contract.topics import load_topics
from pipeline.kafka import mend
from pipeline.kafka.indexstore import IndexStore, make_cache
from pipeline.kafka.lanes import Lanes
from pipeline.kafka.transactions import Transactions
from pipeline.session.model import Visitor
from pipeline.settings import SettingError, Settings
from pipeline.stages.datastreams import OPEN_DIRECTORY
from pipeline.stages.judge import session_key
from pipeline.stages.receive import DOWNLOADED, Request
from pipeline.topology import Topology
from pipeline.wire.encode import to_media_collection
from tests.fakes import FakeSchemaIds
from tests.kafka.home import made_topics, remove_records, settings_of
from tests.lender import LentKafka
from tests.stories import story

pytestmark = pytest.mark.kafka

CODEC = Codec(FakeSchemaIds())
TOPICS = load_topics(3)
TOPOLOGY = Topology(CODEC, TOPICS, OPEN_DIRECTORY)
NOW_MS = time.time_ns() // 1_000_000  # retention would take what is old


@pytest.fixture
def settings(kafka: LentKafka, tmp_path: Path) -> Iterator[Settings]:
    settings = settings_of(kafka, tmp_path / "a")
    with made_topics(settings, TOPICS):
        yield settings


def upload_of(partition: int) -> StoredRecord:
    """Return an upload of a viewer whose uploads this partition has."""
    for number in range(1_000):
        viewer = f"{number:038d}"
        session = story("0 start, 0 play, 10 complete")._replace(
            visitor=Visitor(ecid=viewer, key_value=viewer)
        )
        request = Request(DOWNLOADED, to_media_collection(session), NOW_MS, "request")
        (r,) = TOPOLOGY.upload_records(TOPOLOGY.receive(request, lambda: f"upload of {partition}"))
        if r.partition == partition:
            return StoredRecord(r.topic, partition, 0, r.key, r.value, r.timestamp_ms)
    raise AssertionError(partition)


def carry(lanes: Lanes, partition: int) -> bytes:
    """Carry the upload of a partition; return what its session is known by."""
    lanes.take_over(partition)
    processed = TOPOLOGY.process([upload_of(partition)], lambda keys: lanes.known(partition, keys), NOW_MS)
    lanes.commit(partition, processed.records, 1)
    return next(session_key(r.key.decode()) for r in processed.records if r.topic == "media.sessions")


def lanes_at(settings: Settings, data_dir: Path) -> Lanes:
    return Lanes(replace(settings, data_dir=data_dir), CODEC, TOPICS)


def empty(settings: Settings, *partitions: int) -> None:
    """Remove all records of these index partitions, as too short a retention does."""
    for partition in partitions:
        assert remove_records(settings, "media.index", partition) > 0, partition


def refused(settings: Settings, data_dir: Path, partition: int, why: str) -> None:
    """Assert that whoever takes the partition over is told why not, and so at every start."""
    for _ in range(2):
        lanes = lanes_at(settings, data_dir)
        try:
            with pytest.raises(PositionUnusable, match=rf"{why}.*pipeline index rebuild"):
                lanes.take_over(partition)
        finally:
            lanes.close()


def known_after_rebuild(settings: Settings, data_dir: Path, partition: int, key: bytes) -> None:
    mend.rebuild(settings, CODEC, TOPICS, NOW_MS)
    lanes = lanes_at(settings, data_dir)
    assert lanes.take_over(partition) == 0
    assert key in lanes.known(partition, [key])
    lanes.close()


def test_an_index_that_was_emptied_is_not_taken_for_a_new_one(settings: Settings, tmp_path: Path) -> None:
    first = lanes_at(settings, tmp_path / "a")
    key = carry(first, 1)
    first.close()
    empty(settings, 1)
    refused(settings, tmp_path / "cold", 1, "(is empty|no position) although media")
    known_after_rebuild(settings, tmp_path / "cold", 1, key)


def test_one_partition_that_was_emptied_is_found_and_others_that_never_had_an_upload_are_none(
    settings: Settings, tmp_path: Path
) -> None:
    first = lanes_at(settings, tmp_path / "a")
    key = carry(first, 1)
    carry(first, 0)
    first.take_over(2)
    first.close()
    empty(settings, 1)
    cold = lanes_at(settings, tmp_path / "cold")
    assert cold.take_over(0) == 1
    assert cold.take_over(2) == 0, "nothing was ever carried there"
    cold.close()
    refused(settings, tmp_path / "cold", 1, "no position although media.outcomes")
    known_after_rebuild(settings, tmp_path / "cold", 1, key)


def test_a_worker_whose_store_knows_it_all_does_not_go_on_beside_an_emptied_partition(
    settings: Settings, tmp_path: Path
) -> None:
    first = lanes_at(settings, tmp_path / "a")
    key = carry(first, 1)
    carry(first, 0)
    first.close()
    empty(settings, 1)
    refused(settings, tmp_path / "a", 1, "media.index 1 has lost records")
    known_after_rebuild(settings, tmp_path / "a", 1, key)
    known_after_rebuild(settings, tmp_path / "a", 1, key)


def test_a_store_that_is_ahead_of_its_topic_is_kept_until_a_rebuild(
    settings: Settings, tmp_path: Path
) -> None:
    first = lanes_at(settings, tmp_path / "a")
    key = carry(first, 1)
    first.close()
    path = next((tmp_path / "a" / "index").glob("*/*media.index-1"))
    store = IndexStore(path, first._origin, make_cache())
    store.apply([], 10_000)  # the topic has lost what came after
    store.close()
    refused(settings, tmp_path / "a", 1, "media.index 1 has lost records")
    known_after_rebuild(settings, tmp_path / "b", 1, key)
    again = lanes_at(settings, tmp_path / "a")
    assert again.take_over(1) == 0
    assert key in again.known(1, [key])
    again.close()


def test_a_rebuild_that_was_broken_off_is_not_adopted(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = lanes_at(settings, tmp_path / "a")
    key = carry(first, 1)
    first.close()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(mend, "_entries", killed)
    with pytest.raises(KeyboardInterrupt):
        mend.rebuild(settings, CODEC, TOPICS, NOW_MS)
    monkeypatch.undo()
    for _ in range(2):
        with pytest.raises(SettingError, match=r"not rebuilt to the end: run `pipeline index rebuild`"):
            mend.adopt(settings, CODEC, TOPICS)
    worker = lanes_at(settings, tmp_path / "b")
    with pytest.raises(PositionUnusable, match="pipeline index rebuild"):
        worker.resume(1)
    worker.close()
    known_after_rebuild(settings, tmp_path / "b", 1, key)
    mend.adopt(settings, CODEC, TOPICS)


@pytest.mark.parametrize(
    "mended",
    [
        lambda settings: mend.adopt(settings, CODEC, TOPICS),
        lambda settings: mend.rebuild(settings, CODEC, TOPICS, NOW_MS),
    ],
    ids=["adopt", "rebuild"],
)
def test_a_worker_that_starts_meanwhile_stops_it_with_one_line(
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mended: Callable[[Settings], object],
) -> None:
    commit = Lanes.commit

    def overtaken(lanes: Lanes, partition: int, *rest: Any) -> None:
        Transactions(settings, f"{settings.worker_group}-{partition}")
        commit(lanes, partition, *rest)

    monkeypatch.setattr(Lanes, "commit", overtaken)
    with pytest.raises(SettingError, match="stop all workers, and run it again"):
        mended(settings)
    monkeypatch.undo()
    mended(settings)
    worker = lanes_at(settings, tmp_path / "b")
    assert worker.take_over(1) == 0
    worker.close()
