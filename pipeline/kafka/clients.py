"""Client settings in one place: brokers, TLS and SASL, limits; and what an unreachable broker becomes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ClusterMetadata

from pipeline.contract.topics import load_topics
from pipeline.settings import SettingError, Settings

ISOLATION: Final = {"isolation.level": "read_committed"}
REACH_DEADLINE_S: Final = 5.0
ASK_AGAIN_S: Final = 1.0

C = TypeVar("C")


NEVER_TAKEN: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.INVALID_RECORD,
        KafkaError.RECORD_LIST_TOO_LARGE,
    }
)
"""What a broker (or the client) answers to a record that it will never take.

A time that it does not take is none of these: a clock is wrong, or a limit of the topic; both can be mended.
"""


class Unreachable(SettingError):
    """No broker answers; that may be the address, or the brokers are away."""


def client_config(settings: Settings, **more: Any) -> dict[str, Any]:
    """Return the settings that every confluent-kafka client shares, with `more` on top."""
    config: dict[str, Any] = {
        "bootstrap.servers": settings.kafka_bootstrap,
        "security.protocol": settings.kafka_security_protocol,
        "client.id": "pipeline",
        "log_level": 2,  # a connection that fails is reported by the call that needs it
        # A leader that hangs is given up in the time that a session of the workers has, not in minutes.
        "socket.timeout.ms": 10_000,
        "topic.metadata.refresh.interval.ms": 10_000,
    }
    if settings.kafka_ca_file:
        config["ssl.ca.location"] = settings.kafka_ca_file
    if settings.kafka_cert_file:
        config["ssl.certificate.location"] = settings.kafka_cert_file
        config["ssl.key.location"] = settings.kafka_key_file
    if settings.kafka_sasl_mechanism:
        config["sasl.mechanism"] = settings.kafka_sasl_mechanism
        config["sasl.username"] = settings.kafka_sasl_username
        config["sasl.password"] = settings.kafka_sasl_password
    return config | more


def made(kind: Callable[[dict[str, Any]], C], settings: Settings, **more: Any) -> C:
    """Return a client, or raise `SettingError` when the settings don't go together or a file is bad."""
    _require_whole(settings)
    try:
        return kind(client_config(settings, **more))
    except KafkaException as error:
        raise SettingError(f"PIPELINE_KAFKA_*: {error.args[0].str()}") from None


def largest_record_bytes(settings: Settings) -> int:
    """Return the largest record that any topic must take, which bounds every client."""
    return max(t.max_record_bytes(settings.ingest_body_limit_bytes) for t in load_topics().values())


class Heard:
    """A client's error callback that remembers why it could not connect."""

    def __init__(self) -> None:
        self.errors: dict[int, str] = {}

    def __call__(self, error: KafkaError) -> None:
        """Take a client's transport error: the call that needs the connection reports it."""
        self.errors[error.code()] = error.str()


_REFUSALS: Final = {
    KafkaError._AUTHENTICATION: (  # noqa: SLF001 - the library's public name of it
        "PIPELINE_KAFKA_SASL_MECHANISM / _USERNAME / _PASSWORD",
        "Does the broker know this user, with this mechanism?",
    ),
    KafkaError._SSL: (  # noqa: SLF001 - as above
        "PIPELINE_KAFKA_SECURITY_PROTOCOL / PIPELINE_KAFKA_CA_FILE",
        "Does this port speak TLS, and is its certificate known?",
    ),
}
_PASSING: Final = {KafkaError._ALL_BROKERS_DOWN}  # noqa: SLF001 - as above; it says nothing of the cause


def described(admin: AdminClient, settings: Settings, heard: Heard) -> ClusterMetadata:
    """Return what the brokers say of the cluster, or raise `SettingError` with the cause."""
    end = time.monotonic() + REACH_DEADLINE_S
    while True:
        try:
            return admin.list_topics(timeout=ASK_AGAIN_S)
        except KafkaException as error:
            admin.poll(0)
            if not _REFUSALS.keys().isdisjoint(heard.errors) or time.monotonic() > end:
                raise unreachable(settings, error.args[0].str(), heard) from None


def unreachable(settings: Settings, error: object, heard: Heard | None = None) -> SettingError:
    """Return the one line for brokers that can't be reached, with the cause where a client heard one.

    It is `Unreachable` unless they refuse us.
    """
    said = heard.errors if heard else {}
    for code, (names, question) in _REFUSALS.items():
        if code in said:
            return SettingError(
                f"{names}: no connection to {settings.kafka_bootstrap}: {said[code]}. {question}"
            )
    causes = [text for code, text in said.items() if code not in _PASSING]
    cause = causes[-1] if causes else str(error) or "no answer"
    demands = " Does it demand a certificate of ours, PIPELINE_KAFKA_CERT_FILE?"
    return Unreachable(
        f"PIPELINE_KAFKA_BOOTSTRAP: can't reach Kafka at {settings.kafka_bootstrap}: "
        f"{cause}. Is the broker running, and are the address and "
        "PIPELINE_KAFKA_SECURITY_PROTOCOL right?"
        + (demands if settings.kafka_security_protocol == "SSL" and not settings.kafka_cert_file else "")
    )


def quiet(_error: object) -> None:
    """Take a client's transport errors: calls report what matters, and a client reconnects by itself."""


def _require_whole(settings: Settings) -> None:
    """Raise `SettingError` for security settings of which one would silently do nothing."""
    protocol = settings.kafka_security_protocol
    uses_sasl, uses_tls = protocol.startswith("SASL"), protocol.endswith("SSL")
    if uses_sasl and not settings.kafka_sasl_mechanism:
        raise SettingError(f"PIPELINE_KAFKA_SASL_MECHANISM is not set, but {protocol} needs it")
    if settings.kafka_sasl_mechanism and not uses_sasl:
        raise SettingError(
            f"PIPELINE_KAFKA_SASL_MECHANISM is set, but PIPELINE_KAFKA_SECURITY_PROTOCOL is {protocol}: "
            "nobody would be authenticated"
        )
    if bool(settings.kafka_cert_file) != bool(settings.kafka_key_file):
        raise SettingError("PIPELINE_KAFKA_CERT_FILE and PIPELINE_KAFKA_KEY_FILE need each other")
    for name in ("kafka_ca_file", "kafka_cert_file", "kafka_key_file"):
        file = getattr(settings, name)
        if file and not uses_tls:
            raise SettingError(
                f"PIPELINE_{name.upper()} is set, but PIPELINE_KAFKA_SECURITY_PROTOCOL is {protocol}: "
                "nothing would be encrypted"
            )
        if file and not Path(file).is_file():
            raise SettingError(f"PIPELINE_{name.upper()}: there is no file {file}")
