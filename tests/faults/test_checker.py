"""The checker of the fault matrix finds what it is there to find: planted losses and doubles."""

from __future__ import annotations

import random
import time
import uuid
from pathlib import Path

import pytest
from confluent_kafka import Producer

from bench.core import sdk_session
from faults.check import main as check
from faults.fleet import PATH, bad, rebuilt
from faults.outputs import CALLS, DEAD_LETTERS, WANTED, Outputs, Verdict, await_ended_transactions
from pipeline.commands.home import kafka_codec
from pipeline.contract.record import Record, StoredRecord
from pipeline.contract.topics import load_topics
from pipeline.session.datastream import OPEN_DATASTREAM
from pipeline.session.identity import session_id
from pipeline.session.model import Visitor
from pipeline.settings import Settings
from pipeline.stages.datastreams import OPEN_DIRECTORY
from pipeline.stages.receive import Request
from pipeline.topology import UPLOADS, Topology
from pipeline.wire.encode import to_media_collection
from pipeline.wire.media_collection import decode
from tests.kafka.home import made_topics, settings_of
from tests.lender import LentKafka

SESSIONS = ("a", "b", "c")


def seen(*planted: tuple[str, str, int]) -> Outputs:
    """Return one of each record of each session, with `planted` (session, kind, number) instead."""
    numbers = {(session, kind): 1 for session in SESSIONS for kind in WANTED}
    numbers |= {(session, kind): number for session, kind, number in planted}
    outputs = Outputs()
    for (session, kind), number in numbers.items():
        for _ in range(number):
            topic = kind if kind.startswith("media.") else CALLS
            outputs.add(topic, {"session_id": session, "revision": 1, "call": kind})
    return outputs


def test_what_came_out_once_is_good() -> None:
    verdict = seen().verdict(SESSIONS)
    assert verdict.is_good
    assert verdict.line() == "sessions 3, lost 0, duplicated 0"


@pytest.mark.parametrize("kind", WANTED)
def test_each_record_that_is_missing_makes_its_session_lost(kind: str) -> None:
    verdict = seen(("b", kind, 0)).verdict(SESSIONS)
    assert verdict == Verdict(2, frozenset({"b"}), frozenset())
    assert verdict.line() == "sessions 2, lost 1, duplicated 0"


@pytest.mark.parametrize("kind", WANTED)
def test_each_record_that_comes_twice_makes_its_session_duplicated(kind: str) -> None:
    verdict = seen(("b", kind, 2)).verdict(SESSIONS)
    assert verdict == Verdict(3, frozenset(), frozenset({"b"}))
    assert verdict.line() == "sessions 3, lost 0, duplicated 1"


def test_a_session_of_which_nothing_came_out_is_lost() -> None:
    assert seen().verdict([*SESSIONS, "d"]).lost == {"d"}


def test_half_a_session_is_lost_although_no_device_was_told_of_it() -> None:
    assert seen(("x", "mediaStart", 1)).verdict(SESSIONS).lost == {"x"}


def test_a_session_that_no_device_sent_is_one_too_many() -> None:
    assert seen(*(("x", kind, 1) for kind in WANTED)).verdict(SESSIONS).duplicated == {"x"}


def test_a_refused_body_is_one_dead_letter_or_it_is_lost_or_duplicated() -> None:
    outputs = seen()
    for mark in ("bad-20-1", "bad-40-2", "bad-40-2"):
        outputs.add(DEAD_LETTERS, {"body": bad(mark)})
    outputs.add(DEAD_LETTERS, {"body": b"[]"})
    assert outputs.verdict(SESSIONS, {"bad-20-1"}).lost == frozenset()
    assert outputs.verdict(SESSIONS, {"bad-20-1", "bad-60-1"}).lost == {"bad-60-1"}
    assert outputs.verdict(SESSIONS, {"bad-20-1"}).duplicated == {"bad-40-2"}


def test_another_revision_is_no_duplicate_and_other_calls_are_not_counted() -> None:
    outputs = seen()
    for kind in WANTED:
        topic = kind if kind.startswith("media.") else CALLS
        outputs.add(topic, {"session_id": "a", "revision": 2, "call": kind})
    for _ in range(2):
        outputs.add(CALLS, {"session_id": "a", "revision": 1, "call": "adStart"})
    assert outputs.verdict(SESSIONS).is_good
    assert outputs.revised == {"a"}, "the matrix, without replays, has none"
    assert not seen().revised


def test_a_rebuilt_body_has_other_bytes_and_is_the_same_session() -> None:
    body = to_media_collection(sdk_session(12))
    rng = random.Random(1)
    bodies = {body, *(rebuilt(body, rng) for _ in range(10))}
    assert len(bodies) == 11
    assert len({id_of(body) for body in bodies}) == 1


def id_of(body: bytes) -> str:
    return session_id(decode(body, PATH), OPEN_DATASTREAM)


@pytest.mark.kafka
def test_the_check_on_kafka_finds_a_planted_loss_and_a_planted_double(
    kafka: LentKafka, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(kafka, tmp_path / "data")
    with made_topics(settings):
        sessions = carried(settings, 3)
        ids = [*sessions]
        wanted = tmp_path / "acknowledged"
        wanted.write_text("\n".join(ids))
        where = [kafka.bootstrap, settings.kafka_topic_prefix, str(wanted)]

        produce(settings, *(record for records in sessions.values() for record in records))
        assert check(where) == 0
        assert last_line(capsys) == "sessions 3, lost 0, duplicated 0"

        of_one = sessions[ids[0]]
        produce(settings, *of_one, is_committed=False)
        assert check(where) == 0, "what was aborted is not there for a consumer"
        assert last_line(capsys) == "sessions 3, lost 0, duplicated 0"

        produce(settings, next(r for r in of_one if r.topic == "media.events"))
        assert check(where) == 1
        assert last_line(capsys) == "sessions 3, lost 0, duplicated 1"

        late = carried(settings, 1, first=100)
        [(more, records)] = late.items()
        produce(settings, *(r for r in records if r.topic != "media.events"))
        wanted.write_text("\n".join([*ids, more]))
        assert check(where) == 1
        assert last_line(capsys) == "sessions 3, lost 1, duplicated 1"


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.splitlines()[-1]


def carried(settings: Settings, number: int, first: int = 1) -> dict[str, list[Record]]:
    """Return by session id the records that the stages make of so many uploads."""
    topology = Topology(kafka_codec(settings), load_topics(settings.partitions), OPEN_DIRECTORY)
    found = {}
    for viewer in range(first, first + number):
        ecid = f"{viewer:038d}"
        session = sdk_session(12)._replace(visitor=Visitor(ecid=ecid, key_value=ecid))
        body = to_media_collection(session)
        request = Request(PATH, body, time.time_ns() // 1_000_000, f"request-{viewer}")
        [upload] = topology.upload_records(topology.receive(request, lambda: uuid.uuid4().hex))
        stored = StoredRecord(
            UPLOADS, upload.partition, viewer, upload.key, upload.value, upload.timestamp_ms
        )
        found[id_of(body)] = [*topology.process([stored], lambda _keys: {}, upload.timestamp_ms).records]
    return found


def produce(settings: Settings, *records: Record, is_committed: bool = True) -> None:
    """Write records in one transaction, and commit or abort it."""
    producer = Producer(
        {"bootstrap.servers": settings.kafka_bootstrap, "transactional.id": f"planted-{uuid.uuid4()}"}
    )
    producer.init_transactions(20)
    producer.begin_transaction()
    for record in records:
        producer.produce(
            settings.kafka_topic_prefix + record.topic, record.value, record.key, record.partition
        )
    producer.flush(20)
    if is_committed:
        producer.commit_transaction(20)
    else:
        producer.abort_transaction(20)
    await_ended_transactions(settings.kafka_bootstrap, settings.kafka_topic_prefix, list(load_topics()))
