"""The promise of the port that commits, on every home: all of a batch or nothing, by one owner."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pytest

from pipeline.contract.codec import Codec
from pipeline.contract.ports import Commits, Fenced, Uploads, UploadSink
from pipeline.contract.positions import position_maker
from pipeline.contract.record import Record
from pipeline.contract.records import IndexEntry
from pipeline.contract.topics import load_topics
from pipeline.log.log import INDEX, Log
from tests.fakes import FakeDisk, FakeLog, FakeSchemaIds
from tests.kafka.home import KafkaHome, made_topics, settings_of

UPLOADS, OUTCOMES = "media.uploads", "media.outcomes"


class Home(Commits, Uploads, UploadSink, Protocol):
    """Everything that a home is to the pipeline."""


class Opened(Protocol):
    """Opens the same home anew, as a restarted process would, or `beside` an owner that lives on."""

    def __call__(self, *, beside: bool = False) -> Home: ...


@pytest.fixture(params=["fake", "embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def opened(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Opened]:
    """Yield what opens the same home anew."""
    codec = Codec(FakeSchemaIds())
    position = position_maker(codec)
    if request.param == "kafka":
        settings = settings_of(request.getfixturevalue("kafka"), tmp_path)
        homes: list[KafkaHome] = []

        def open_kafka(*, beside: bool = False) -> KafkaHome:
            homes.append(KafkaHome(settings, codec))
            return homes[-1]

        with made_topics(settings):
            yield open_kafka
            for home in homes:
                home.close()
        return
    if request.param == "fake":
        disk = FakeDisk()

        def open_fake(*, beside: bool = False) -> FakeLog:
            return FakeLog(position, disk)

        yield open_fake
        return
    logs: list[Log] = []

    def open_log(*, beside: bool = False) -> Log:
        if beside:  # as on a file system whose locks hold nobody back
            monkeypatch.setattr("fcntl.flock", lambda *_: None)
        else:
            for log in logs:
                log.close()
        logs.append(Log(tmp_path, load_topics(), position))
        logs[-1].open()
        return logs[-1]

    yield open_log
    for log in logs:
        log.close()


def output(key: str, value: bytes = b"v", partition: int = 3) -> Record:
    return Record(OUTCOMES, partition, key.encode(), value, 1_000)


def entry(key: str, value: bytes = b"known", partition: int = 3) -> Record:
    return Record(INDEX, partition, key.encode(), value, 1_000)


def keys(home: Home, topic: str = OUTCOMES, partition: int = 3) -> list[bytes]:
    return [stored.key for stored in home.read(topic, partition, 0, 100)]


def test_outputs_entries_and_position_become_visible_together(opened: Opened) -> None:
    home = opened()
    assert home.take_over(3) == 0
    home.commit(3, [output("a"), entry("session:1")], 5)
    assert keys(home) == [b"a"]
    assert home.known(3, [b"session:1", b"session:2"]) == {b"session:1": b"known"}
    assert home.take_over(3) == 5


def test_everything_committed_is_there_after_a_restart(opened: Opened) -> None:
    home = opened()
    home.take_over(3)
    home.commit(3, [output("a"), entry("session:1")], 5)
    again = opened()
    assert again.take_over(3) == 5
    assert keys(again) == [b"a"]
    assert set(again.known(3, [b"session:1"])) == {b"session:1"}


def test_the_position_is_a_record_of_the_index_on_the_partition_of_its_source(opened: Opened) -> None:
    home = opened()
    home.take_over(3)
    home.commit(3, [], 7)
    stored = home.read(INDEX, 3, 0, 10)[-1]
    assert stored.key == b"position:media.uploads:3"
    codec = Codec(_ids_of_position())
    assert codec.decode_record(IndexEntry, stored.value).next_offset == 7


def test_an_owner_that_was_fenced_commits_nothing(opened: Opened) -> None:
    home = opened()
    home.take_over(3)
    home.commit(3, [output("a")], 1)
    newer = opened(beside=True)
    newer.take_over(3)
    with pytest.raises(Fenced):
        home.commit(3, [output("b"), entry("session:b")], 2)
    assert keys(newer) == [b"a"]
    assert newer.known(3, [b"session:b"]) == {}
    assert newer.take_over(3) == 1


def test_a_partition_that_was_never_taken_over_refuses_commits(opened: Opened) -> None:
    home = opened()
    with pytest.raises(Fenced):
        home.commit(3, [output("a")], 1)
    assert keys(home) == []


def test_what_is_known_is_known_in_its_own_partition_only(opened: Opened) -> None:
    home = opened()
    home.take_over(3)
    home.take_over(4)
    home.commit(3, [entry("session:1")], 1)
    assert home.known(4, [b"session:1"]) == {}


def test_the_latest_entry_of_a_key_is_the_one_that_is_known(opened: Opened) -> None:
    home = opened()
    home.take_over(3)
    home.commit(3, [entry("session:1", b"old")], 1)
    home.commit(3, [entry("session:1", b"mid"), entry("session:1", b"new")], 2)
    assert home.known(3, [b"session:1"]) == {b"session:1": b"new"}


def test_stored_uploads_are_read_back_in_order_with_dense_offsets(opened: Opened) -> None:
    home = opened()
    records = [Record(UPLOADS, 2, b"k", str(n).encode(), n, (("h", b"\x00"),)) for n in range(5)]
    asyncio.run(_stored(home, [records[:2], records[2:]]))
    read = home.read(UPLOADS, 2, 1, 3)
    assert [(r.offset, r.value, r.timestamp_ms) for r in read] == [(1, b"1", 1), (2, b"2", 2), (3, b"3", 3)]
    assert read[0].headers == (("h", b"\x00"),)
    assert home.end_offset(UPLOADS, 2) == 5


async def _stored(home: Home, batches: Sequence[Sequence[Record]]) -> None:
    for batch in batches:
        await home.store(batch)


def _ids_of_position() -> FakeSchemaIds:
    from pipeline.contract.codec import schema_text, subject_of
    from pipeline.contract.topics import load_schema

    ids = FakeSchemaIds()
    ids.id_of(subject_of(INDEX), schema_text(load_schema(INDEX)))
    return ids
