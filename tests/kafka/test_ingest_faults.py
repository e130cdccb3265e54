"""The front door loses nothing: whatever happens to Kafka, the disk or the ingest, a 201 is kept."""

from __future__ import annotations

import dataclasses
import re
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from deploy.process import is_open
from deploy.servers import Kafka
from pipeline.device.sender import Platform
from pipeline.settings import Settings
from tests.ingest.serving import post, read_to_end, status_of
from tests.ingest.test_door import GOOD
from tests.kafka.home import made_topics, settings_of
from tests.kafka.running import LONG_SESSION_S, Ingest, Worker, copies_of, rows, settled
from tests.load import Senders
from tests.waiting import until

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

LEAST = 30
ACK_S = 2.0
"""An upload that is given to a Kafka that does not answer takes at least so long."""
FROZEN_S = 5.0
"""Shorter than the session of the broker with its controller (9 s), which would fence it at the thaw: what
was on its way to it would then be refused, or not, as chance has it."""
FREEZES = 4
"""At most so many, until one stored something late: what is on its way at a freeze is chance."""


@contextmanager
def loaded(ingest: Ingest, platforms: tuple[Platform, ...] = tuple(Platform)) -> Iterator[Senders]:
    """Send uploads while the block runs."""
    senders = Senders(platforms=platforms)
    try:
        senders.to(ingest)
        yield senders
    finally:
        senders.stop()


@pytest.fixture(scope="module")
def own_broker(kafka_can_run: None) -> Iterator[Kafka]:
    """Yield a broker of these tests alone: they ill-treat it, and each leaves it running."""
    with Kafka() as kafka:
        yield kafka


@pytest.fixture
def broker(own_broker: Kafka) -> Kafka:
    """Return the broker, running although a test before may have failed while it was down or frozen."""
    if own_broker.is_running:
        own_broker.freeze(frozen=False)
    else:
        own_broker.start_again()
    return own_broker


@pytest.fixture
def settings(broker: Kafka, tmp_path: Path) -> Iterator[Settings]:
    """Yield settings with their topics made."""
    found = settings_of(broker, tmp_path / "data")
    with made_topics(found):
        yield found


def stored(settings: Settings) -> set[str]:
    """Return the session ids of the uploads that are in Kafka."""
    return {str(value["session_id"]) for value in rows(settings, "media.uploads")}


def check_nothing_lost(settings: Settings, senders: Senders, least: int = LEAST) -> None:
    assert len(senders.acknowledged) >= least, "the load was too small to prove anything"
    assert senders.deleted == 0, "an SDK gave a session up"
    assert senders.acknowledged <= stored(settings), "lost"
    assert senders.overdue() == [], "answers that did not come in time"
    assert not {status for status in senders.statuses if status not in (201, 503)}
    for answers in senders.answers:
        assert answers[-1] == 201, "every upload ends with its 201"
        assert set(answers[:-1]) <= {None, 503}, "and before it there was only what makes a device try again"


def check_none_refused(senders: Senders) -> None:
    """Assert that no answer was 503; a disk that stands still for 2 s makes one."""
    assert {exchange.status for exchange in senders.undisturbed()} == {201}


def test_a_broker_that_dies_and_comes_back_costs_no_upload_and_no_503(
    broker: Kafka, settings: Settings
) -> None:
    with Ingest(settings) as ingest:
        with loaded(ingest) as senders:
            senders.await_acknowledged(LEAST)
            broker.kill()
            ingest.await_spooled()
            time.sleep(2)
            broker.start_again()
            time.sleep(1)
        check_none_refused(senders)
        ingest.await_forwarded()
        check_nothing_lost(settings, senders)
        assert ingest.stop() == 0


def test_a_broker_that_accepts_but_never_acknowledges_does_not_slow_answers_beyond_the_sdks_patience(
    broker: Kafka, settings: Settings, tmp_path: Path
) -> None:
    during: list[float] = []
    with Ingest(settings) as ingest:
        for _ in range(FREEZES):
            with loaded(ingest) as senders:
                senders.await_acknowledged(LEAST)
                broker.freeze()
                frozen_at = time.monotonic()
                time.sleep(FROZEN_S)
                thawed_at = time.monotonic()
                broker.freeze(frozen=False)
                time.sleep(1)
            check_none_refused(senders)
            during += [e.took_s for e in senders.undisturbed() if frozen_at + 3 < e.ended < thawed_at]
            ingest.await_forwarded()
            check_nothing_lost(settings, senders)
            if during and max(copies_of(settings).values()) > 1:
                break
        assert ingest.stop() == 0
    # Each partition is waited for once; then its uploads go to the spool without waiting.
    assert during, "no answer tells how quick they become"
    assert median(during) < ACK_S / 2, during
    check_late_acknowledgements_count_once(settings, tmp_path / "worker.log")


def check_late_acknowledgements_count_once(settings: Settings, log: Path) -> None:
    """Assert that an upload that Kafka stored late and the forwarder sent again has one outcome."""
    copies = copies_of(settings)
    assert max(copies.values()) > 1, "nothing was both stored late and forwarded"
    with Worker(settings, log, worker_session_timeout_s=LONG_SESSION_S):
        ledger = settled(settings)
    assert ledger["balances"], ledger
    assert ledger["redelivered"] == copies.total() - len(copies)
    outcomes = Counter(str(value["upload_id"]) for value in rows(settings, "media.outcomes"))
    assert outcomes == Counter(dict.fromkeys(copies, 1))


def test_kill_9_with_a_full_spool_and_a_start_without_broker_lose_nothing(
    broker: Kafka, settings: Settings
) -> None:
    with Ingest(settings) as ingest, loaded(ingest) as first:
        first.await_acknowledged(LEAST)
        broker.kill()
        ingest.await_spooled()
        time.sleep(2)
        ingest.kill()
    with Ingest(settings) as again:  # the broker is still away: these settings have worked before
        with again.client() as client:
            assert client.get("/health/ready").status_code == 200
        with loaded(again) as second:
            time.sleep(4)
            second.await_acknowledged(10)
        broker.start_again()
        again.await_forwarded()
        check_nothing_lost(settings, first)
        check_nothing_lost(settings, second, least=10)
        assert again.stop() == 0
    spools = list((settings.data_dir / "spool").iterdir())
    assert spools == [], "an empty spool leaves nothing behind"


def test_a_running_ingest_adopts_the_spool_of_a_dead_one(broker: Kafka, settings: Settings) -> None:
    with Ingest(settings) as living, Ingest(settings) as dying:
        with loaded(dying) as senders:
            senders.await_acknowledged(LEAST)
            broker.kill()
            dying.await_spooled()
            time.sleep(2)
            dying.kill()
        broker.start_again()
        end = time.monotonic() + 180
        while len(list((settings.data_dir / "spool").iterdir())) > 1:
            assert time.monotonic() < end, "the dead one's spool is still there"
            time.sleep(0.2)
        living.await_forwarded()
        assert senders.acknowledged <= stored(settings), "lost"
        assert senders.overdue() == [], "answers that did not come in time"
        assert living.stop() == 0


def test_sigterm_with_requests_in_flight_keeps_what_was_acknowledged(
    broker: Kafka, settings: Settings
) -> None:
    patient = dataclasses.replace(settings, ingest_drain_s=60)
    with Ingest(patient) as ingest, loaded(ingest) as senders:
        senders.await_acknowledged(LEAST)
        request = post(GOOD, b"expect: 100-continue")
        with socket.create_connection(("127.0.0.1", ingest.port), timeout=60) as in_flight:
            in_flight.sendall(request[:-10])
            assert status_of(in_flight.recv(65_536)) == 100, "the ingest has not begun with it"
            ingest.begin_to_stop()
            until(lambda: not is_open(ingest.port), "it still takes connections")
            in_flight.sendall(request[-10:])
            answer = read_to_end(in_flight)
        assert status_of(answer) == 201
        session_id = re.search(rb"location: /api/v1/sessions/(\w+)", answer)
        assert session_id is not None
        assert ingest.await_end() == 0
    senders.acknowledged.add(session_id[1].decode())
    check_nothing_lost(settings, senders)


def test_sigterm_drains_the_spool_when_kafka_is_back_in_time(broker: Kafka, settings: Settings) -> None:
    with Ingest(dataclasses.replace(settings, ingest_drain_s=60)) as ingest:
        with loaded(ingest) as senders:
            senders.await_acknowledged(LEAST)
            broker.freeze()
            ingest.await_spooled()
        ingest.begin_to_stop()
        time.sleep(1)
        broker.freeze(frozen=False)
        assert ingest.await_end() == 0
    assert list((settings.data_dir / "spool").iterdir()) == []
    check_nothing_lost(settings, senders)


def test_sigterm_while_the_broker_is_away_keeps_the_spool_for_the_next_process(
    broker: Kafka, settings: Settings
) -> None:
    with Ingest(settings) as ingest:
        with loaded(ingest) as senders:
            broker.kill()
            ingest.await_spooled()
            senders.await_acknowledged(10)
        assert ingest.stop() == 0
    broker.start_again()
    with Ingest(settings) as again:
        again.await_forwarded()
        check_nothing_lost(settings, senders, least=10)


@contextmanager
def small_disk(at: Path) -> Iterator[None]:
    """Mount a disk of a few MB here, or skip the test where that is not allowed."""
    at.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=22m", "tmpfs", str(at)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(at)], check=True)


def test_a_disk_without_room_is_503_in_time_and_drains_when_kafka_is_back(
    broker: Kafka, settings: Settings, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk):
        on_disk = dataclasses.replace(settings, data_dir=disk)
        with Ingest(on_disk) as ingest:
            with loaded(ingest, (Platform.IOS,)) as senders:
                senders.await_acknowledged(LEAST)
                broker.kill()
                (disk / "other").write_bytes(bytes(5 * 1024 * 1024))  # somebody else fills the disk
                end = time.monotonic() + 180
                while not senders.statuses[503]:
                    assert time.monotonic() < end, senders.statuses
                    time.sleep(0.2)
                with ingest.client() as client:
                    assert client.get("/health/ready").status_code == 503
                broker.start_again()
                time.sleep(4)
            ingest.await_forwarded()
            check_nothing_lost(on_disk, senders)  # the disk has the schema ids, too
            with ingest.client() as client:
                assert client.get("/health/ready").status_code == 200
            assert ingest.stop() == 0


def test_a_full_disk_is_503_and_what_was_acknowledged_stays(broker: Kafka, settings: Settings) -> None:
    with Ingest(settings, file_limit_bytes=600_000) as ingest:
        # A full disk is 503: iOS keeps its sessions for ever, Android deletes one after three of them.
        with loaded(ingest, (Platform.IOS,)) as senders:
            senders.await_acknowledged(LEAST)
            broker.kill()
            end = time.monotonic() + 180
            while not senders.statuses[503]:
                assert time.monotonic() < end, senders.statuses
                time.sleep(0.2)
        with ingest.client() as client:
            answer: Any = client.post(
                "/api/v1/downloaded", content=b"[]", headers={"content-type": "application/json"}
            )
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
        broker.start_again()
        ingest.await_forwarded()
        check_nothing_lost(settings, senders)
