"""What makes obvious Faust workers lose or double uploads, each met by the worker as a process."""

from __future__ import annotations

import base64
import json
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from pipeline.commands.home import kafka_codec
from pipeline.contract.record import Record
from pipeline.contract.topics import load_topics
from pipeline.session.model import Visitor
from pipeline.settings import Settings
from pipeline.stages.datastreams import OPEN_DIRECTORY
from pipeline.stages.receive import Request
from pipeline.topology import UPLOADS, Topology
from pipeline.wire.encode import to_media_collection
from tests.commands.serving import PIPELINE, ROOT
from tests.kafka.home import made_topics, settings_of
from tests.kafka.running import command, environ, records, rows, settled
from tests.kafka.test_takeover import recreate
from tests.lender import LentKafka
from tests.stories import story

pytestmark = pytest.mark.kafka

VIEWER = "7" * 38
END_S = 180.0
MANY = 400
"""A minute of work for a slow stage."""


@pytest.fixture
def settings(kafka: LentKafka, tmp_path: Path) -> Iterator[Settings]:
    settings = settings_of(kafka, tmp_path / "data")
    with made_topics(settings):
        yield settings


class Running:
    """A worker process with what it said."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def await_said(self, text: str, times: int = 1) -> None:
        end = time.monotonic() + END_S
        while self.said.count(text) < times:
            assert self.process.poll() is None, self.said[-3000:]
            assert time.monotonic() < end, self.said[-3000:]
            time.sleep(0.05)

    def ended(self) -> int:
        """Return the exit code that the worker ends with by itself."""
        try:
            return self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            raise AssertionError("the worker goes on: " + self.said[-3000:]) from None


@contextmanager
def worker(settings: Settings, fault: str | None = None, name: str = "worker") -> Iterator[Running]:
    """Yield a running worker, with a fault planted in it."""
    run: list[str | Path] = (
        [PIPELINE, "worker"] if fault is None else [sys.executable, "-m", "tests.kafka.injected", fault]
    )
    log = settings.data_dir / f"{name}-{uuid.uuid4().hex[:4]}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        process = subprocess.Popen(run, cwd=ROOT, env=environ(settings), stdout=out, stderr=out)
    try:
        yield Running(process, log)
    finally:
        process.kill()
        process.wait()


def upload(
    settings: Settings, number: int | str, viewer: str = VIEWER, **metadata: str
) -> tuple[Record, ...]:
    """Return the records of one upload; those of one viewer are in one partition."""
    session = story("0 start, 0 play, 10 ping, 20 complete", name=f"film-{number}")
    session = session._replace(visitor=Visitor(ecid=viewer, key_value=viewer))
    body = to_media_collection(session)
    if metadata:
        events = json.loads(body)
        events[0]["customMetadata"] = metadata
        body = json.dumps(events).encode()
    topology = Topology(kafka_codec(settings), load_topics(settings.partitions), OPEN_DIRECTORY)
    request = Request("/api/v1/downloaded", body, time.time_ns() // 1_000_000, "request")
    return topology.upload_records(topology.receive(request, lambda: uuid.uuid4().hex))


def put(settings: Settings, uploads: Sequence[tuple[Record, ...]]) -> None:
    """Store these uploads, in order."""
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap, "enable.idempotence": True})
    for r in (record for records_ in uploads for record in records_):
        name = settings.kafka_topic_prefix + r.topic
        producer.produce(name, r.value, r.key, r.partition, timestamp=r.timestamp_ms, headers=list(r.headers))
    assert producer.flush(120) == 0


def sessions(settings: Settings) -> Counter[str]:
    """Return how many records each session has, by content."""
    return Counter(str(row["dimensions"]["name"]) for row in rows(settings, "media.sessions"))


def check(settings: Settings, numbers: Sequence[int]) -> None:
    """Assert that these sessions came out once each, with one start and one close."""
    ledger = settled(settings)
    assert (ledger["pending"], ledger["balances"]) == (0, True), json.dumps(ledger)
    assert sessions(settings) == {f"film-{number}": 1 for number in numbers}
    calls = Counter(str(call["call"]) for call in rows(settings, "media.analytics.calls"))
    assert calls == {"mediaStart": len(numbers), "mediaClose": len(numbers)}


def limit_topic(settings: Settings, topic: str, largest_bytes: int) -> None:
    entry = ConfigEntry("max.message.bytes", str(largest_bytes), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(
        ResourceType.TOPIC, settings.kafka_topic_prefix + topic, incremental_configs=[entry]
    )
    client = AdminClient({"bootstrap.servers": settings.kafka_bootstrap})
    client.incremental_alter_configs([resource])[resource].result(120)


def test_each_bad_upload_is_one_dead_letter_and_all_others_count(settings: Settings) -> None:
    """Poison bytes, a tombstone, an exception in a stage, and a record that only the broker refuses."""
    limit_topic(settings, "media.sessions", 30_000)
    good = [upload(settings, number) for number in range(6)]
    place = good[0][0]
    poison = place._replace(value=b"\x00poison\xff", key=b"\xffkey", headers=(("h", b"\xfe"),))
    boom = upload(settings, "boom")
    large = upload(settings, "large", **{f"k{n}": random.Random(n).randbytes(500).hex() for n in range(80)})
    put(
        settings,
        [
            good[0],
            (poison,),
            good[1],
            (place._replace(value=None),),
            good[2],
            boom,
            good[3],
            large,
            *good[4:],
        ],
    )
    with worker(settings, "one_exception") as running:
        running.await_said("taken_over")
        check(settings, range(6))
        assert running.process.poll() is None
    letters = {letter["reason"]: letter for letter in rows(settings, "media.uploads.dlq")}
    assert Counter(str(letter["reason"]) for letter in rows(settings, "media.uploads.dlq")) == {
        "undecodable": 2,
        "internal_error": 1,
        "record_too_large": 1,
    }
    originals = [
        letter for letter in rows(settings, "media.uploads.dlq") if letter["reason"] == "undecodable"
    ]
    kept = next(letter for letter in originals if letter["body"])
    assert base64.b64decode(kept["body"]["base64"]) == poison.value
    assert base64.b64decode(kept["source_key"]["base64"]) == poison.key
    assert [(h["name"], h["value"]) for h in kept["headers"]] == [("h", {"base64": "/g=="})]
    assert (kept["source_topic"], kept["source_partition"], kept["source_offset"]) == (
        UPLOADS,
        place.partition,
        1,
    )
    assert "a bug that one upload meets" in letters["internal_error"]["fault"]
    assert "k79" in letters["record_too_large"]["body"]


def test_a_fault_of_ours_ends_the_worker_and_the_next_one_reads_the_batch_again(settings: Settings) -> None:
    put(settings, [upload(settings, 0)])
    with worker(settings, "fault_of_ours") as running:
        running.await_said("taken_over")
        assert settled(settings)["accepted"] == 1
        put(settings, [upload(settings, number) for number in range(1, 5)])
        assert running.ended() not in {0, None}
    with worker(settings):
        check(settings, range(5))


def test_a_slow_stage_makes_small_transactions_and_sigterm_leaves_the_rest_of_its_batch(
    settings: Settings,
) -> None:
    put(settings, [upload(settings, number) for number in range(MANY)])
    with worker(settings, "slow_stage") as running:
        running.await_said("taken_over")
        await_outcomes(settings, 1)
        running.process.send_signal(signal.SIGTERM)
        assert running.ended() == 0, running.said[-3000:]
    assert 0 < len(rows(settings, "media.outcomes")) < MANY
    with worker(settings):
        check(settings, range(MANY))


@pytest.mark.slow
def test_rebalances_with_work_in_flight_and_widened_seeks_lose_nothing(settings: Settings) -> None:
    """The repeated `perform_seek`: an early return in it lost 22 sessions once."""
    viewers = [f"{number:038d}" for number in range(40)]
    put(settings, [upload(settings, n, viewer) for n, viewer in enumerate(viewers)])
    numbers = len(viewers)
    with worker(settings, "widened_seek") as first:
        first.await_said("taken_over")
        for round_ in range(3):
            with worker(settings, "slow_stage" if round_ == 1 else "widened_seek", "second") as second:
                for _ in range(4):
                    put(
                        settings,
                        [upload(settings, numbers + n, viewer) for n, viewer in enumerate(viewers[:10])],
                    )
                    numbers += 10
                second.await_said("taken_over")
                second.process.send_signal(signal.SIGTERM)
                put(
                    settings, [upload(settings, numbers + n, viewer) for n, viewer in enumerate(viewers[:10])]
                )
                numbers += 10
                assert second.ended() == 0, second.said[-3000:]
        check(settings, range(numbers))
        assert "uploads_passed_over" not in first.said


def test_a_bad_deploy_stops_the_worker_before_the_topic_is_drained(settings: Settings) -> None:
    put(settings, [upload(settings, number) for number in range(100)])
    gone = []
    for _ in range(3):  # what was lost is remembered: restarts do not drain the topic bit by bit
        with worker(settings, "bad_deploy") as running:
            assert running.ended() == 5, running.said[-3000:]
            assert "PIPELINE_WORKER_DEAD_LETTERS_PERCENT" in running.said
        gone.append(len(rows(settings, "media.uploads.dlq")))
    assert gone == sorted(gone)
    assert gone[-1] < settings.worker_dead_letters_least
    with worker(settings):
        check(settings, range(gone[-1], 100))


def index(settings: Settings, action: str) -> None:
    done = command(settings, "index", action)
    end = time.monotonic() + END_S
    while b"alive" in done.stderr and time.monotonic() < end:  # the group forgets a killed worker in a while
        time.sleep(1)
        done = command(settings, "index", action)
    assert done.returncode == 0, done.stderr.decode()


def adopted(settings: Settings) -> None:
    index(settings, "adopt")


def rebuilt(settings: Settings) -> None:
    index(settings, "rebuild")


@pytest.mark.parametrize(
    ("topic", "mended"), [(UPLOADS, adopted), ("media.index", rebuilt)], ids=["uploads", "index"]
)
def test_a_topic_that_was_made_anew_stops_the_worker_and_one_command_mends_it(
    settings: Settings, topic: str, mended: Callable[[Settings], None]
) -> None:
    first = [upload(settings, number) for number in range(8)]
    put(settings, [*first, first[0]])
    with worker(settings) as running:
        running.await_said("taken_over")
        check(settings, range(8))
        running.process.send_signal(signal.SIGTERM)
        assert running.ended() == 0
    recreate(settings, topic)
    again = [upload(settings, number) for number in range(8)]  # re-sent: other upload ids, the same sessions
    put(settings, [*again, upload(settings, 8)])
    with worker(settings) as running:
        assert running.ended() == 2, running.said[-3000:]
        assert "pipeline index" in running.said
    mended(settings)
    with worker(settings):
        outcomes = await_outcomes(settings, 17)
    assert Counter(str(value["outcome"]) for value in outcomes) == {"accepted": 9, "duplicate": 8}
    assert sessions(settings) == {f"film-{number}": 1 for number in range(9)}


def await_outcomes(settings: Settings, number: int) -> list[dict[str, Any]]:
    end = time.monotonic() + END_S
    while len(found := rows(settings, "media.outcomes")) < number:
        assert time.monotonic() < end, found
        time.sleep(0.5)
    return found


def test_the_positions_of_a_group_for_lag_tools_are_the_committed_ones(settings: Settings) -> None:
    put(settings, [upload(settings, number) for number in range(3)])
    with worker(settings) as running:
        running.await_said("taken_over")
        check(settings, range(3))
        client = AdminClient({"bootstrap.servers": settings.kafka_bootstrap})
        partition = upload(settings, 0)[0].partition
        end = time.monotonic() + END_S
        while advised(client, settings).get(partition) != 3:
            assert time.monotonic() < end, advised(client, settings)
            time.sleep(0.5)
    assert {r["partition"] for r in records(settings, UPLOADS)} == {partition}


def advised(client: AdminClient, settings: Settings) -> dict[int, int]:
    from confluent_kafka import ConsumerGroupTopicPartitions

    group = f"{settings.worker_group}-positions"
    asked = client.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
    return {p.partition: p.offset for p in asked[group].result(120).topic_partitions}
