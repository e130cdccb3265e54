"""The front door loses nothing: whatever happens to Kafka, the disk or the ingest, a 201 is kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deploy.servers import Kafka
from pipeline.device.sender import Platform
from pipeline.settings import Settings
from tests.kafka.home import made_topics, settings_of
from tests.kafka.running import Ingest, rows
from tests.load import Senders

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

LEAST = 30
SDK_PATIENCE_S = 5.0
"""SDKs give an answer up after so long."""


@contextmanager
def loaded(ingest: Ingest, platforms: tuple[Platform, ...] = tuple(Platform)) -> Iterator[Senders]:
    """Send uploads while the block runs."""
    senders = Senders(threads=3, pause_s=0.02, platforms=platforms)
    try:
        senders.to(ingest)
        yield senders
    finally:
        senders.stop()


@pytest.fixture
def broker() -> Iterator[Kafka]:
    """Yield a broker that a test may ill-treat."""
    with Kafka() as kafka:
        yield kafka


@pytest.fixture
def settings(broker: Kafka, tmp_path: Path, kafka: Kafka) -> Iterator[Settings]:
    """Yield settings with their topics made (`kafka` only says whether servers can run here)."""
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
    assert senders.slowest_s < SDK_PATIENCE_S
    assert not {status for status in senders.statuses if status not in (201, 503)}


def test_a_broker_that_dies_and_comes_back_costs_no_upload_and_no_503(
    broker: Kafka, settings: Settings
) -> None:
    with Ingest(settings) as ingest:
        with loaded(ingest) as senders:
            senders.await_acknowledged(LEAST)
            broker.kill()
            time.sleep(4)
            broker.start_again()
            time.sleep(1)
        assert set(senders.statuses) == {201}
        assert ingest.metric("pipeline_spooled_total") > 0
        ingest.await_forwarded()
        check_nothing_lost(settings, senders)
        assert ingest.stop() == 0


def test_a_broker_that_accepts_but_never_acknowledges_does_not_slow_answers_beyond_the_sdks_patience(
    broker: Kafka, settings: Settings
) -> None:
    with Ingest(settings) as ingest:
        with loaded(ingest) as senders:
            senders.await_acknowledged(LEAST)
            broker.freeze()
            time.sleep(6)
            broker.freeze(frozen=False)
            time.sleep(1)
        assert set(senders.statuses) == {201}
        ingest.await_forwarded()
        check_nothing_lost(settings, senders)
        assert ingest.stop() == 0


def test_kill_9_with_a_full_spool_and_a_start_without_broker_lose_nothing(
    broker: Kafka, settings: Settings
) -> None:
    with Ingest(settings) as ingest, loaded(ingest) as first:
        first.await_acknowledged(LEAST)
        broker.kill()
        time.sleep(4)
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


def test_sigterm_with_requests_in_flight_keeps_what_was_acknowledged(
    broker: Kafka, settings: Settings
) -> None:
    with Ingest(settings) as ingest, loaded(ingest) as senders:
        senders.await_acknowledged(LEAST)
        assert ingest.stop() == 0
    check_nothing_lost(settings, senders)


def test_sigterm_while_the_broker_is_away_keeps_the_spool_for_the_next_process(
    broker: Kafka, settings: Settings
) -> None:
    with Ingest(settings) as ingest:
        with loaded(ingest) as senders:
            broker.kill()
            time.sleep(4)
            senders.await_acknowledged(10)
        assert ingest.stop() == 0
    broker.start_again()
    with Ingest(settings) as again:
        again.await_forwarded()
        check_nothing_lost(settings, senders, least=10)


def test_a_full_disk_is_503_and_what_was_acknowledged_stays(broker: Kafka, settings: Settings) -> None:
    with Ingest(settings, file_limit_bytes=600_000) as ingest:
        # A full disk is 503: iOS keeps its sessions for ever, Android deletes one after three of them.
        with loaded(ingest, (Platform.IOS,)) as senders:
            senders.await_acknowledged(LEAST)
            broker.kill()
            end = time.monotonic() + 90
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
