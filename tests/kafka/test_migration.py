"""`pipeline topics migrate`: other numbers of partitions, and nothing is counted twice."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipeline.contract.codec import Codec
from pipeline.contract.partition import partition_of
from pipeline.contract.record import Record, StoredRecord
from pipeline.contract.records import IndexEntry
from pipeline.contract.topics import load_topics
from pipeline.kafka import admin, migration
from pipeline.kafka.clients import Unreachable
from pipeline.kafka.migration import NotVerified, migrate
from pipeline.kafka.reader import KafkaReader
from pipeline.kafka.uploads import UploadProducer
from pipeline.settings import SettingError, Settings
from pipeline.wire.encode import to_media_collection
from tests.fakes import FakeSchemaIds
from tests.homes.uploading import Pipeline, make_pipeline
from tests.kafka.home import KafkaHome, delete_topics, made_topics, remove_records, settings_of
from tests.kafka.running import Ingest, Worker, command, records, rows, settled
from tests.lender import LentKafka
from tests.stories import story

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

INDEX, UPLOADS = "media.index", "media.uploads"
BEFORE, AFTER = 3, 5
SESSIONS = 12
BODIES = [to_media_collection(story("0 start, 0 play, 10 end", name=f"film-{n}")) for n in range(SESSIONS)]


class Deployment(NamedTuple):
    """Topics under two prefixes, and the pipeline on either."""

    old: Settings
    new: Settings
    codec: Codec
    homes: list[KafkaHome]

    def pipeline(self, settings: Settings, partitions: int) -> Pipeline:
        home = KafkaHome(settings, self.codec, load_topics(partitions))
        self.homes.append(home)
        made = make_pipeline(home, self.codec, partitions=partitions)
        return made._replace(ids=itertools.count(1_000 * len(self.homes)))

    def migrate(self) -> migration.Migrated:
        return migrate(self.old, self.new, self.codec)

    def stored(self, settings: Settings, topic: str) -> list[StoredRecord]:
        reader = KafkaReader(settings)
        try:
            places = {p: reader.first_offset(topic, p) for p in range(reader.partitions(topic))}
            return sorted(reader.read(topic, places), key=lambda r: (r.partition, r.offset))
        finally:
            reader.close()

    def entries(self, settings: Settings) -> list[tuple[int, bytes, IndexEntry]]:
        return [
            (r.partition, r.key, self.codec.decode_record(IndexEntry, r.value))
            for r in self.stored(settings, INDEX)
        ]


@pytest.fixture
def deployment(kafka: LentKafka, tmp_path: Path) -> Iterator[Deployment]:
    """Yield a deployment whose old topics hold sessions, duplicates and dead letters."""
    old = settings_of(kafka, tmp_path)
    new = dataclasses.replace(old, kafka_topic_prefix=old.kafka_topic_prefix + "b.")
    found = Deployment(old, new, Codec(FakeSchemaIds()), [])
    try:
        admin.apply(old, load_topics(BEFORE))
        admin.apply(new, load_topics(AFTER))
        before = found.pipeline(old, BEFORE)
        for body in (*BODIES, *BODIES[:4], b"{}", b"[]"):
            before.send(body)
        before.carry()
        yield found
    finally:
        # When the set-up fails, too: what it leaves open would fail another test.
        for home in found.homes:
            home.close()
        delete_topics(old)
        delete_topics(new)


def test_sessions_and_uploads_are_known_on_their_new_partitions_and_a_second_run_changes_nothing(
    deployment: Deployment,
) -> None:
    done = deployment.migrate()
    assert (done.partitions_before, done.partitions) == (BEFORE, AFTER)
    assert done.kinds == {"session": SESSIONS, "upload": 6}
    assert done.written == SESSIONS + 6
    moved = [e for e in deployment.entries(deployment.new) if e[2].kind in {"session", "upload"}]
    assert {entry.migrated_from for _, _, entry in moved} == {deployment.old.kafka_topic_prefix}
    for partition, _, entry in moved:
        assert entry.visitor_key is not None
        assert partition == partition_of(entry.visitor_key.encode(), AFTER)
    times = {r.key: r.timestamp_ms for r in deployment.stored(deployment.old, INDEX)}
    assert {
        r.timestamp_ms - times[r.key] for r in deployment.stored(deployment.new, INDEX) if r.key in times
    } == {0}
    before = deployment.stored(deployment.new, INDEX)
    again = deployment.migrate()
    assert (again.written, again.kinds) == (0, done.kinds)
    assert deployment.stored(deployment.new, INDEX) == before


def test_after_it_the_same_sessions_are_duplicates_and_the_same_uploads_redelivered(
    deployment: Deployment,
) -> None:
    deployment.migrate()
    after = deployment.pipeline(deployment.new, AFTER)
    for stored in deployment.stored(deployment.old, UPLOADS):  # late copies, as a spool would forward them
        partition = partition_of(stored.key, AFTER)
        copy = Record(UPLOADS, partition, stored.key, stored.value, stored.timestamp_ms)
        asyncio.run(after.home.store([copy]))
    after.carry()
    assert deployment.stored(deployment.new, "media.outcomes") == []
    for body in BODIES:
        after.send(body)
    after.carry()
    outcomes = [deployment.codec.decode(r.value) for r in deployment.stored(deployment.new, "media.outcomes")]
    assert [outcome["outcome"] for outcome in outcomes] == ["duplicate"] * SESSIONS
    assert deployment.stored(deployment.new, "media.sessions") == []
    again = deployment.migrate()
    assert again.written == 0, "topics in use are left alone"


def test_it_goes_on_where_it_was_killed(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration, "TRANSACTION_RECORDS", 2)
    commit, commits = migration._Lane.commit, itertools.count(1)

    def killed(lane: migration._Lane, records: list[Record]) -> None:
        if next(commits) == 4:
            raise KeyboardInterrupt
        commit(lane, records)

    monkeypatch.setattr(migration._Lane, "commit", killed)
    with pytest.raises(KeyboardInterrupt):
        deployment.migrate()
    done = deployment.migrate()
    assert done.kinds == {"session": SESSIONS, "upload": 6}
    assert 0 < done.written < SESSIONS + 6
    keys = [r.key for r in deployment.stored(deployment.new, INDEX) if not r.key.startswith(b"migration:")]
    assert len(keys) == len(set(keys)) == SESSIONS + 6, "nothing was written twice"


def test_entries_of_versions_that_noted_no_key_go_to_every_partition(deployment: Deployment) -> None:
    entry = IndexEntry(
        kind="upload", upload_id="old-one", outcome="rejected", reason="invalid", recorded_at_ms=1
    )
    value = deployment.codec.encode(INDEX, entry)
    home = deployment.homes[0]
    asyncio.run(home.store([Record(INDEX, 1, b"upload:old-one", value, time.time_ns() // 1_000_000)]))
    assert deployment.migrate().kinds["upload"] == 7
    found = [p for p, key, _ in deployment.entries(deployment.new) if key == b"upload:old-one"]
    assert found == list(range(AFTER))


def test_it_refuses_while_uploads_wait(deployment: Deployment) -> None:
    waiting = deployment.pipeline(deployment.old, BEFORE)
    waiting.send(to_media_collection(story("0 start, 0 play, 10 end", name="another")))
    with pytest.raises(SettingError, match=r"1 uploads under the prefix .* are not carried yet"):
        deployment.migrate()
    assert deployment.stored(deployment.new, INDEX) == []


@pytest.mark.parametrize(
    ("position", "mends"),
    [
        ({"cluster_id": "another"}, "another cluster.*pipeline index adopt"),
        ({"topic_id": "another"}, "another topic.*pipeline index adopt"),
        ({"next_offset": 1_000}, "beyond the end.*pipeline index adopt"),
        ({"cluster_id": "unfinished rebuild", "next_offset": 0}, "pipeline index rebuild"),
    ],
    ids=["cluster", "topic", "end", "rebuild"],
)
def test_it_refuses_a_position_that_no_worker_would_go_on_from(
    deployment: Deployment, position: dict[str, Any], mends: str
) -> None:
    partition, key, held = next(e for e in deployment.entries(deployment.old) if e[2].kind == "position")
    value = deployment.codec.encode(INDEX, held._replace(**position))
    asyncio.run(
        deployment.homes[0].store([Record(INDEX, partition, key, value, time.time_ns() // 1_000_000)])
    )
    with pytest.raises(SettingError, match=rf"{mends}.*run the migration again"):
        deployment.migrate()
    assert deployment.stored(deployment.new, INDEX) == []


def test_it_refuses_to_go_into_topics_that_are_in_use(deployment: Deployment) -> None:
    other = deployment.pipeline(deployment.new, AFTER)
    other.send(BODIES[0])
    with pytest.raises(SettingError, match="in use already"):
        deployment.migrate()


def test_a_worker_that_takes_over_meanwhile_stops_it(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = migration._Lane.commit

    def overtaken(lane: migration._Lane, records: list[Record]) -> None:
        deployment.homes[0].take_over(lane._partition)
        commit(lane, records)

    monkeypatch.setattr(migration._Lane, "commit", overtaken)
    with pytest.raises(SettingError, match=r"took partition . over meanwhile"):
        deployment.migrate()
    assert deployment.stored(deployment.new, INDEX) == []


def test_an_entry_that_got_lost_on_the_way_is_found(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = migration._Lane.commit
    monkeypatch.setattr(migration._Lane, "commit", lambda lane, records: commit(lane, records[1:]))
    with pytest.raises(NotVerified):
        deployment.migrate()


def test_entries_that_retention_removes_while_they_are_read_are_missed(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = next(
        r.partition for r in deployment.stored(deployment.old, INDEX) if r.key[:8] == b"session:"
    )
    index_starts = migration._Migration._index_starts

    def removed_after(migrating: migration._Migration) -> list[int]:
        starts = index_starts(migrating)
        remove_records(deployment.old, INDEX, partition)
        return starts

    monkeypatch.setattr(migration._Migration, "_index_starts", removed_after)
    with pytest.raises(SettingError, match=r"retention removed entries .* run it again"):
        deployment.migrate()
    assert deployment.stored(deployment.new, INDEX) == []


def test_as_a_person_runs_it_with_the_services(kafka: LentKafka, tmp_path: Path) -> None:
    old = dataclasses.replace(settings_of(kafka, tmp_path / "data"), partitions=BEFORE)
    to = old.kafka_topic_prefix + "b."
    set_anew = dataclasses.replace(old, partitions=AFTER)
    new = dataclasses.replace(set_anew, kafka_topic_prefix=to)
    migrating = ("topics", "migrate", "--to-prefix", to)
    assert command(old, "topics", "apply").returncode == 0
    try:
        with Worker(old, tmp_path / "old.log") as worker:
            worker.await_assignment()
            with Ingest(old) as ingest, ingest.client() as client:
                sent = {"content-type": "application/json"}
                for body in (*BODIES, BODIES[0], b"{}"):
                    client.post("/api/v1/downloaded", content=body, headers=sent)
                ingest.await_forwarded()
            assert settled(old)["accepted"] == SESSIONS
            done = command(set_anew, *migrating)
            assert done.returncode == 2
            assert b"1 workers of the group" in done.stderr
        await_members(old, 0)
        done = command(set_anew, "topics", "apply")
        assert done.returncode == 2
        assert b"pipeline topics migrate --to-prefix" in done.stderr
        done = command(set_anew, *migrating)
        assert done.returncode == 0, done.stderr.decode()
        assert f"PIPELINE_KAFKA_TOPIC_PREFIX={to}" in done.stdout.decode()
        with Worker(new, tmp_path / "new.log") as worker, Ingest(new) as ingest:
            worker.await_assignment()
            forward_again(old, new)
            with ingest.client() as client:
                for body in BODIES:
                    assert client.post("/api/v1/downloaded", content=body, headers=sent).status_code == 201
            ingest.await_forwarded()
            ledger = settled(new)
        assert ledger["balances"], ledger
        # What Kafka acknowledges late is there twice; of all the copies only those of the uploads sent now
        # are no redeliveries.
        copies = [upload["upload_id"] for upload in rows(new, UPLOADS)]
        assert len(set(copies)) == SESSIONS + (SESSIONS + 2)
        counted = (ledger["accepted"], ledger["duplicate"], ledger["redelivered"])
        assert counted == (0, SESSIONS, len(copies) - SESSIONS)
        assert rows(new, "media.sessions") == []
        await_members(new, 0)
        held = in_order(new, INDEX)
        assert command(set_anew, *migrating).returncode == 0
        assert in_order(new, INDEX) == held, "a second run changes nothing"
    finally:
        delete_topics(old)
        delete_topics(new)


def in_order(settings: Settings, topic: str) -> list[dict[str, Any]]:
    """Return the records of a topic, each partition's after the other's."""
    return sorted(records(settings, topic), key=lambda record: (record["partition"], record["offset"]))


def forward_again(old: Settings, new: Settings) -> None:
    """Send every upload of the old topics once more, as a spool does after a late acknowledgement."""
    patient = dataclasses.replace(new, ingest_ack_deadline_ms=120_000)
    reader, producer = KafkaReader(old), UploadProducer(patient, time.monotonic)
    copies = [
        Record(UPLOADS, partition_of(r.key, AFTER), r.key, r.value, r.timestamp_ms)
        for r in reader.read(UPLOADS, dict.fromkeys(range(BEFORE), 0))
    ]
    asyncio.run(producer.store(copies))
    reader.close()
    producer.close()


def await_members(settings: Settings, number: int) -> None:
    """Wait until the group has so many members; one whose worker was killed stays for a while."""
    end = time.monotonic() + 180
    found: tuple[str, ...] | None = None
    while found is None or len(found) != number:
        assert time.monotonic() < end, found
        time.sleep(0.1)
        with suppress(Unreachable):  # a broker that has just started does not know of any group yet
            found = admin.members(settings)


# A process of its own, to be killed: `Consumer.close` of confluent-kafka 2.16 may never return.
MEMBER = """
import signal, sys
from confluent_kafka import Consumer

bootstrap, group, topic = sys.argv[1:]
member = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "client.id": "lives-on"})
member.subscribe([topic])
signal.signal(signal.SIGTERM, lambda *_: member.unsubscribe())
while True:
    member.poll(0.1)
"""


@contextmanager
def running_member(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a process that is in the group of the workers; it leaves at SIGTERM, and goes on."""
    where = [settings.kafka_bootstrap, settings.worker_group, settings.kafka_topic_prefix + UPLOADS]
    with subprocess.Popen([sys.executable, "-c", MEMBER, *where]) as member:
        try:
            await_members(settings, 1)
            yield member
        finally:
            member.kill()


def test_a_member_of_the_group_makes_the_command_refuse(kafka: LentKafka, tmp_path: Path) -> None:
    settings = settings_of(kafka, tmp_path)
    await_members(settings, 0)
    with made_topics(settings, load_topics(1)), running_member(settings):
        done = command(settings, "topics", "migrate", "--to-prefix", "other.")
        assert done.returncode == 2
        assert b"lives-on@" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("migrate",), b"needs --to-prefix"),
        (("migrate", "--to-prefix", "a b"), b"letters, digits"),
        (("migrate", "--to-prefix", "same."), b"already"),
        (("apply", "--to-prefix", "b."), b"belongs to"),
    ],
)
def test_a_prefix_that_can_not_be_is_one_line(
    kafka: LentKafka, tmp_path: Path, arguments: tuple[str, ...], said: bytes
) -> None:
    settings = dataclasses.replace(settings_of(kafka, tmp_path), kafka_topic_prefix="same.")
    done = command(settings, "topics", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count(b"\n") == 1
