"""Client settings in one place: brokers, TLS and SASL, limits; and what an unreachable broker becomes."""

from __future__ import annotations

from typing import Any, Final

from pipeline.contract.topics import load_topics
from pipeline.settings import SettingError, Settings

ISOLATION: Final = {"isolation.level": "read_committed"}
REACH_DEADLINE_S: Final = 5.0


def client_config(settings: Settings, **more: Any) -> dict[str, Any]:
    """Return the settings that every confluent-kafka client shares, with `more` on top."""
    config: dict[str, Any] = {
        "bootstrap.servers": settings.kafka_bootstrap,
        "security.protocol": settings.kafka_security_protocol,
        "client.id": "pipeline",
        "log_level": 2,  # a connection that fails is reported by the call that needs it
    }
    if settings.kafka_ca_file:
        config["ssl.ca.location"] = settings.kafka_ca_file
    if settings.kafka_sasl_mechanism:
        config["sasl.mechanism"] = settings.kafka_sasl_mechanism
        config["sasl.username"] = settings.kafka_sasl_username
        config["sasl.password"] = settings.kafka_sasl_password
    return config | more


def largest_record_bytes(settings: Settings) -> int:
    """Return the largest record that any topic must take, which bounds every client."""
    return max(t.max_record_bytes(settings.ingest_body_limit_bytes) for t in load_topics().values())


def unreachable(settings: Settings, error: object) -> SettingError:
    """Return the one line for brokers that can't be reached."""
    return SettingError(
        f"PIPELINE_KAFKA_BOOTSTRAP: can't reach Kafka at {settings.kafka_bootstrap}: {error}. "
        "Is the broker running, and is the address right?"
    )


def quiet(_error: object) -> None:
    """Take a client's transport errors: calls report what matters, and a client reconnects by itself."""
