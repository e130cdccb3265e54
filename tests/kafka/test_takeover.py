"""Taking a partition over on Apache Kafka: what is known, where to go on, and what must not be believed."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.contract.codec import Codec
from pipeline.contract.ports import Fenced, NeverTaken, PositionUnusable, Unavailable
from pipeline.contract.record import Record, StoredRecord
from pipeline.contract.topics import load_topics
from pipeline.kafka import admin, mend, takeover
from pipeline.kafka import lanes as lanes_module
from pipeline.kafka.lanes import Lanes
from pipeline.settings import SettingError, Settings, load
from pipeline.stages.datastreams import OPEN_DIRECTORY
from pipeline.stages.receive import DOWNLOADED, Request
from pipeline.topology import Topology
from pipeline.wire.encode import to_media_collection
from pipeline.worker.ownership import Ownership, Stuck
from tests.fakes import FakeSchemaIds
from tests.kafka.home import PARTITIONS, made_topics, remove_records, settings_of
from tests.kafka.test_migration import await_members, running_member
from tests.lender import LentKafka
from tests.stories import story

pytestmark = pytest.mark.kafka

INDEX, UPLOADS, OUTCOMES, SESSIONS = "media.index", "media.uploads", "media.outcomes", "media.sessions"
NOW_MS = int(datetime(2026, 11, 24, tzinfo=UTC).timestamp() * 1000)
MONTH_MS = 30 * 86_400_000
MANY = 200_000
FILLED_AT_ONCE = 100_000
MOVES = 20
CODEC = Codec(FakeSchemaIds())


@pytest.fixture
def settings(kafka: LentKafka, tmp_path: Path) -> Iterator[Settings]:
    settings = settings_of(kafka, tmp_path / "a")
    with made_topics(settings):
        yield settings


class Heard:
    """What a worker's lanes reported."""

    def __init__(self) -> None:
        self.lost: list[tuple[int, int]] = []
        self.made_anew: list[int] = []


def lanes_of(settings: Settings, data_dir: Path | None = None, heard: Heard | None = None) -> Lanes:
    said = heard or Heard()
    return Lanes(
        settings if data_dir is None else settings_at(settings, data_dir),
        CODEC,
        load_topics(PARTITIONS),
        now_ms=lambda: NOW_MS,
        lost=lambda partition, offsets: said.lost.append((partition, offsets)),
        made_anew=lambda partition, _why: said.made_anew.append(partition),
    )


def settings_at(settings: Settings, data_dir: Path) -> Settings:
    return replace(settings, data_dir=data_dir)


def entry(key: str, value: bytes = b"known", timestamp_ms: int = NOW_MS) -> Record:
    return Record(INDEX, 3, key.encode(), value, timestamp_ms)


def known(lanes: Lanes, *keys: str) -> set[str]:
    return {key.decode() for key in lanes.known(3, [key.encode() for key in keys])}


def store_path(lanes_data_dir: Path) -> Path:
    return next((lanes_data_dir / "index").glob("*/*.media.index-3"))


def put_uploads(settings: Settings, number: int) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap, "enable.idempotence": True})
    for n in range(number):
        producer.produce(settings.kafka_topic_prefix + UPLOADS, b"%d" % n, b"k", 3, timestamp=NOW_MS)
    assert producer.flush(120) == 0


def recreate(settings: Settings, topic: str) -> None:
    client = AdminClient({"bootstrap.servers": settings.kafka_bootstrap})
    name = settings.kafka_topic_prefix + topic
    client.delete_topics([name])[name].result(120)
    end = time.monotonic() + 120
    while name in client.list_topics(timeout=60).topics:
        assert time.monotonic() < end
        time.sleep(0.1)
    admin.apply(settings, load_topics(PARTITIONS))


def test_a_partition_that_moves_there_and_back_is_known_at_every_step(
    settings: Settings, tmp_path: Path
) -> None:
    a, b = lanes_of(settings), lanes_of(settings, tmp_path / "b")
    for step, (owner, other) in enumerate([(a, b), (b, a), (a, b), (b, a)]):
        assert owner.take_over(3) == step
        seen = [f"session:{n}" for n in range(step)]
        assert known(owner, *seen, f"session:{step}") == set(seen)
        owner.commit(3, [entry(f"session:{step}")], step + 1)
        if step:
            with pytest.raises(Fenced):
                other.commit(3, [entry("session:zombie")], 99)
    a.close()
    b.close()


def test_re_uploads_are_duplicates_at_every_step_of_a_partition_that_moves_there_and_back(
    settings: Settings, tmp_path: Path
) -> None:
    """A, B and A again carry a new session each, and what was sent before once more."""
    topology = Topology(CODEC, load_topics(PARTITIONS), OPEN_DIRECTORY)

    def upload(film: int, upload_id: str) -> StoredRecord:
        body = to_media_collection(story("0 start, 0 play, 10 complete", name=f"film-{film}"))
        reception = topology.receive(Request(DOWNLOADED, body, NOW_MS, "request"), lambda: upload_id)
        (r,) = topology.upload_records(reception)
        return StoredRecord(r.topic, r.partition, 0, r.key, r.value, r.timestamp_ms)

    a, b = lanes_of(settings), lanes_of(settings, tmp_path / "b")
    partition = upload(0, "any").partition
    for step, owner in enumerate((a, b, a, b)):
        assert owner.take_over(partition) == step
        sent = [
            upload(step, f"first of {step}"),
            *(upload(film, f"of {film} again at {step}") for film in range(step)),
            *(upload(film, f"first of {film}") for film in range(step)),
        ]
        processed = topology.process(sent, partial(owner.known, partition), NOW_MS)
        owner.commit(partition, processed.records, step + 1)
        expected: dict[tuple[str, ...], int] = {("pipeline_outcomes_total", "accepted"): 1}
        if step:
            expected |= {
                ("pipeline_outcomes_total", "duplicate"): step,
                ("pipeline_redelivered_total",): step,
            }
        assert processed.counts == expected
    a.close()
    b.close()


@pytest.mark.parametrize("fault", ["deleted", "truncated", "bit-flipped", "from last week"])
def test_whatever_happens_to_the_store_what_was_committed_is_known(settings: Settings, fault: str) -> None:
    first = lanes_of(settings)
    first.take_over(3)
    first.commit(3, [entry(f"session:{n}") for n in range(500)], 1)
    first.close()
    path = store_path(settings.data_dir)
    shutil.copytree(path, path.with_name("old"))
    second = lanes_of(settings)
    second.take_over(3)
    second.commit(3, [entry(f"session:{n}") for n in range(500, 1_000)], 2)
    second.close()
    if fault in {"deleted", "from last week"}:
        shutil.rmtree(path)
    if fault == "from last week":
        shutil.move(path.with_name("old"), path)
    for file in [*path.glob("*.sst"), *path.glob("MANIFEST*")] if path.exists() else []:
        content = bytearray(file.read_bytes())
        middle = len(content) // 2
        if fault == "truncated":
            del content[middle:]
        elif fault == "bit-flipped":
            content[middle] ^= 0x10
        file.write_bytes(content)
    heard = Heard()
    third = lanes_of(settings, heard=heard)
    assert third.take_over(3) == 2
    everything = [f"session:{n}" for n in range(1_000)]
    assert known(third, *everything, "session:unknown") == set(everything)
    assert heard.made_anew == ([3] if fault in {"truncated", "bit-flipped"} else [])
    third.close()


def test_a_broker_that_says_an_old_end_hides_nothing(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was frozen while another became leader: the mark of the taking over is beyond all commits."""
    first = lanes_of(settings)
    first.take_over(3)
    first.commit(3, [entry("session:1")], 0)
    first.close()
    old = takeover.Bounds(0, 0)
    monkeypatch.setattr(takeover, "bounds_of", lambda _admin, _topic, parts: dict.fromkeys(parts, old))
    monkeypatch.setattr(lanes_module, "REACH_DEADLINE_S", 0.5)
    second = lanes_of(settings, tmp_path / "b")
    assert second.take_over(3) == 0
    assert known(second, "session:1") == {"session:1"}
    second.commit(3, [], 7)
    with pytest.raises(PositionUnusable, match="beyond the end"):  # asked again for a while, then said
        second.resume(3)
    second.close()


def test_a_session_is_known_after_12_simulated_months_and_forgotten_after_15(settings: Settings) -> None:
    lanes = lanes_of(settings)
    lanes.take_over(3)
    old = [entry("session:12 months", timestamp_ms=NOW_MS - 12 * MONTH_MS)]
    old.append(entry("session:15 months", timestamp_ms=NOW_MS - 15 * MONTH_MS))
    lanes.commit(3, [*old, entry("session:of now")], 1)
    lanes.sweep(3)
    assert known(lanes, "session:12 months", "session:15 months") == {"session:12 months"}
    lanes.close()


def test_a_store_that_a_wrong_clock_has_swept_ends_the_worker_and_is_read_again(settings: Settings) -> None:
    heard = Heard()
    lanes = lanes_of(settings, heard=heard)
    lanes.take_over(3)
    lanes.commit(3, [entry("session:1"), entry("session:2", timestamp_ms=NOW_MS + 24 * MONTH_MS)], 1)
    lanes._lanes[3].store.sweep(NOW_MS + 24 * MONTH_MS, 100)
    assert known(lanes, "session:1", "session:2") == {"session:2"}
    with pytest.raises(Unavailable, match="by a clock that was ahead"):
        lanes.sweep(3)
    lanes.take_over(3)
    assert known(lanes, "session:1", "session:2") == {"session:1", "session:2"}
    assert heard.made_anew == [3]
    lanes.sweep(3)
    assert known(lanes, "session:1", "session:2") == {"session:1", "session:2"}
    lanes.close()


def test_a_worker_of_another_group_does_not_start_beside_those_of_the_first(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "REACH_DEADLINE_S", 60.0)  # a broker that does not tell stops nothing
    first = lanes_of(settings)
    renamed = replace(settings, worker_group=f"{settings.worker_group}-renamed")
    with running_member(settings) as worker:
        place = [TopicPartition(settings.kafka_topic_prefix + UPLOADS, 3)]
        end = time.monotonic() + 120
        while first._advisor.committed(place)[0].offset != 5:  # as the worker tells it every few seconds
            first.advise({3: 5})
            assert time.monotonic() < end
        with pytest.raises(SettingError, match=f"Stop the workers of group {settings.worker_group} first"):
            lanes_of(renamed)
        lanes_of(settings).close()
        elsewhere = replace(renamed, kafka_topic_prefix=f"{settings.kafka_topic_prefix}other.")
        admin.require_no_other_group(elsewhere)
        worker.terminate()
        await_members(settings, 0)
        lanes_of(renamed).close()
    first.close()


def test_brokers_that_do_not_tell_of_groups_stop_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        """An admin client that may not ask."""

        def list_consumer_groups(self, **_more: object) -> Future[object]:
            answer: Future[object] = Future()
            answer.set_exception(KafkaException(KafkaError(KafkaError.CLUSTER_AUTHORIZATION_FAILED)))
            return answer

    monkeypatch.setattr(admin, "_admin", lambda _settings: Silent())
    admin.require_no_other_group(load({}, kafka_bootstrap="127.0.0.1:1"))


def test_a_record_that_the_client_refuses_leaves_nothing_and_the_lane_goes_on(settings: Settings) -> None:
    lanes = lanes_of(settings)
    lanes.take_over(3)
    with pytest.raises(NeverTaken):
        lanes.commit(3, [entry("session:1"), Record(OUTCOMES, 0, b"k", b"x" * 20_000_000, NOW_MS)], 1)
    assert known(lanes, "session:1") == set()
    lanes.commit(3, [entry("session:2")], 1)
    assert lanes.take_over(3) == 1
    assert known(lanes, "session:1", "session:2") == {"session:2"}
    lanes.close()


def test_a_hold_of_an_earlier_taking_over_commits_nothing(settings: Settings) -> None:
    lanes = lanes_of(settings)
    lanes.take_over(3)
    hold = lanes.hold(3)
    lanes.take_over(3)
    with pytest.raises(Fenced):
        lanes.commit(3, [entry("session:1")], 1, hold)
    lanes.commit(3, [entry("session:1")], 1, lanes.hold(3))
    lanes.close()


def test_uploads_that_retention_removed_before_they_were_read_are_counted_as_lost(settings: Settings) -> None:
    put_uploads(settings, 7)
    heard = Heard()
    lanes = lanes_of(settings, heard=heard)
    lanes.resume(3)
    lanes.commit(3, [], 2)
    remove_records(settings, UPLOADS, 3, 5)
    assert lanes.resume(3) == 5
    assert heard.lost == [(3, 3)]
    assert lanes.first_upload_from(3, 2) == 5
    assert lanes.first_upload_from(3, 7) is None
    lanes.close()


def test_a_first_start_on_a_topic_that_has_lost_its_beginning_is_no_loss(settings: Settings) -> None:
    put_uploads(settings, 4)
    remove_records(settings, UPLOADS, 3, 3)
    heard = Heard()
    lanes = lanes_of(settings, heard=heard)
    assert lanes.resume(3) == 3
    assert heard.lost == []
    lanes.close()


def test_a_position_beyond_the_end_of_its_topic_names_the_command_that_mends_it(settings: Settings) -> None:
    lanes = lanes_of(settings)
    lanes.take_over(3)
    lanes.commit(3, [entry("session:1")], 10)
    with pytest.raises(PositionUnusable, match=r"beyond the end.*pipeline index adopt"):
        lanes.resume(3)
    lanes.close()
    mend.adopt(settings, CODEC, load_topics(PARTITIONS))
    mended = lanes_of(settings)
    assert mended.resume(3) == 0
    assert known(mended, "session:1") == {"session:1"}
    mended.close()


def test_a_topic_of_uploads_that_was_made_anew_is_not_taken_for_the_old_one(settings: Settings) -> None:
    put_uploads(settings, 3)
    lanes = lanes_of(settings)
    lanes.resume(3)
    lanes.commit(3, [entry("session:1")], 3)
    lanes.close()
    recreate(settings, UPLOADS)
    put_uploads(settings, 5)
    again = lanes_of(settings)
    with pytest.raises(PositionUnusable, match=r"another topic.*pipeline index adopt"):
        again.resume(3)
    again.close()
    mend.adopt(settings, CODEC, load_topics(PARTITIONS))
    mended = lanes_of(settings)
    assert mended.resume(3) == 0
    assert known(mended, "session:1") == {"session:1"}
    mended.close()


def test_an_empty_index_although_sessions_exist_is_not_believed(settings: Settings) -> None:
    lanes = lanes_of(settings)
    lanes.take_over(3)
    lanes.commit(3, [entry("session:1"), Record(SESSIONS, 0, b"1", b"v", NOW_MS)], 3)
    lanes.close()
    recreate(settings, INDEX)
    again = lanes_of(settings)
    with pytest.raises(PositionUnusable, match="pipeline index rebuild"):
        again.resume(3)
    again.close()


def fill_index(settings: Settings, number: int) -> None:
    producer = Producer(
        {
            "bootstrap.servers": settings.kafka_bootstrap,
            "linger.ms": 50,
            "queue.buffering.max.messages": 2 * FILLED_AT_ONCE,
        }
    )
    topic = settings.kafka_topic_prefix + INDEX
    for begin in range(0, number, FILLED_AT_ONCE):
        entries = [
            {"key": b"session:%d" % n, "value": b"v"}
            for n in range(begin, min(number, begin + FILLED_AT_ONCE))
        ]
        assert producer.produce_batch(topic, entries, 3) == len(entries)
        assert producer.flush(120) == 0


@pytest.mark.slow
def test_a_taking_over_of_many_entries_is_not_stuck(settings: Settings) -> None:
    fill_index(settings, MANY)
    lanes = lanes_of(settings)
    asyncio.run(Ownership(lanes, no_progress_s=120).taken(1, [3]))
    assert lanes.progress >= MOVES, "a deadline that ends one without progress would have ended this one"
    assert known(lanes, "session:0", f"session:{MANY - 1}", f"session:{MANY}") == {
        "session:0",
        f"session:{MANY - 1}",
    }
    lanes.close()


def test_a_taking_over_without_progress_is_stuck(settings: Settings) -> None:
    lanes = lanes_of(settings)
    producer = Producer(
        {"bootstrap.servers": settings.kafka_bootstrap, "transactional.id": settings.kafka_topic_prefix}
    )
    producer.init_transactions(120)
    producer.begin_transaction()  # a stranger's open transaction hides the end of the index
    producer.produce(settings.kafka_topic_prefix + INDEX, b"v", b"session:1", 3)
    assert producer.flush(30) == 0
    with pytest.raises(Stuck):
        asyncio.run(Ownership(lanes, no_progress_s=2).taken(1, [3]))
    producer.abort_transaction(120)
    lanes.close()
