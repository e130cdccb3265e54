"""An ingest starts without Kafka when it is away, and not when Kafka refuses the settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import KafkaError

from pipeline.commands.ingest import RAN_BEFORE, _require_kafka_once
from pipeline.kafka import admin
from pipeline.kafka.clients import Heard, Unreachable, unreachable
from pipeline.settings import SettingError, Settings, load

BOOTSTRAP = "kafka:9092"
AWAY = Unreachable("away")

Kafka = Callable[[SettingError | None], None]


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Kafka:
    """Return what sets how Kafka receives the next start; None is well."""

    def set_to(refusal: SettingError | None) -> None:
        def require_topics(*_arguments: object) -> None:
            if refusal is not None:
                raise refusal

        monkeypatch.setattr(admin, "require_topics", require_topics)

    monkeypatch.setattr(admin, "require_retention", lambda _settings: None)
    return set_to


def settings(data_dir: Path, partitions: int = 24) -> Settings:
    return load({}, kafka_bootstrap=BOOTSTRAP, data_dir=data_dir, partitions=partitions)


def test_an_ingest_that_never_reached_kafka_does_not_start_without_it(kafka: Kafka, tmp_path: Path) -> None:
    kafka(AWAY)
    with pytest.raises(Unreachable):
        _require_kafka_once(settings(tmp_path))
    kafka(None)
    assert not _require_kafka_once(settings(tmp_path))
    assert _require_kafka_once(settings(tmp_path))
    kafka(AWAY)
    assert _require_kafka_once(settings(tmp_path))


@pytest.mark.parametrize(
    "refusal",
    [
        SettingError("topic media.uploads has 24 partitions, PIPELINE_PARTITIONS is 48"),
        SettingError("topic media.uploads is missing"),
        SettingError("PIPELINE_KAFKA_SASL_PASSWORD"),
        admin.RetentionTooShort("media.uploads"),
    ],
    ids=str,
)
def test_what_kafka_refuses_ends_an_ingest_that_ran_before_too(
    kafka: Kafka, tmp_path: Path, refusal: SettingError
) -> None:
    kafka(None)
    _require_kafka_once(settings(tmp_path))
    kafka(refusal)
    with pytest.raises(type(refusal), match=str(refusal)):
        _require_kafka_once(settings(tmp_path))


def test_while_kafka_is_away_another_number_of_partitions_is_refused(kafka: Kafka, tmp_path: Path) -> None:
    kafka(None)
    _require_kafka_once(settings(tmp_path, 24))
    kafka(AWAY)
    with pytest.raises(SettingError, match="PIPELINE_PARTITIONS is 48, but the topics had 24"):
        _require_kafka_once(settings(tmp_path, 48))
    assert _require_kafka_once(settings(tmp_path, 24))


def test_what_an_earlier_version_wrote_down_holds_and_gets_its_partitions(
    kafka: Kafka, tmp_path: Path
) -> None:
    (tmp_path / RAN_BEFORE).write_text(f"{BOOTSTRAP} ")
    kafka(AWAY)
    assert _require_kafka_once(settings(tmp_path, 48))
    kafka(None)
    assert _require_kafka_once(settings(tmp_path, 24))
    kafka(AWAY)
    with pytest.raises(SettingError, match="PIPELINE_PARTITIONS"):
        _require_kafka_once(settings(tmp_path, 48))


@pytest.mark.parametrize(
    ("code", "is_away"),
    [
        (KafkaError._TRANSPORT, True),
        (KafkaError._ALL_BROKERS_DOWN, True),
        (KafkaError._AUTHENTICATION, False),
        (KafkaError._SSL, False),
    ],
)
def test_a_broker_that_refuses_us_is_not_away(tmp_path: Path, code: int, *, is_away: bool) -> None:
    heard = Heard()
    heard(KafkaError(code, "said"))
    assert isinstance(unreachable(settings(tmp_path), "no answer", heard), Unreachable) == is_away
