"""TLS and SASL reach every client: services work with brokers that demand them, and say why when refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from pipeline.device.examples import load_examples
from pipeline.kafka import clients
from tests.conftest import REQUIRED
from tests.kafka.home import settings_of
from tests.kafka.running import LONG_SESSION_S, Ingest, Worker, command, rows, settled
from tests.kafka.secured import SecuredKafka

FILES: Final = ("kafka_ca_file", "kafka_cert_file", "kafka_key_file")

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


@pytest.fixture(scope="module")
def secured(kafka_can_run: None) -> Iterator[SecuredKafka]:
    """Yield a broker that demands passwords and certificates."""
    if shutil.which("openssl") is None:
        why = "openssl is not installed, and it makes the certificates"
        (pytest.fail if REQUIRED else pytest.skip)(why)
    with SecuredKafka() as server:
        yield server


@pytest.mark.parametrize("protocol", ["SASL_SSL", "SSL"])
def test_every_service_works_with_a_broker_that_demands(
    secured: SecuredKafka, tmp_path: Path, protocol: str
) -> None:
    settings = settings_of(secured, tmp_path / "data", **secured.security(protocol))
    applied = command(settings, "topics", "apply")
    assert applied.returncode == 0, applied.stderr.decode()
    with (
        Ingest(settings) as ingest,
        Worker(settings, tmp_path / "worker.log", worker_session_timeout_s=LONG_SESSION_S) as worker,
    ):
        worker.await_assignment()
        example = load_examples()[0]
        with ingest.client() as client:
            answer = client.post(
                example.path, content=example.body, headers={"content-type": "application/json"}
            )
        assert answer.status_code == 201
        ingest.await_forwarded()
        ledger = settled(settings)
        assert (ledger["accepted"], ledger["balances"]) == (1, True), ledger
        assert [row["session_id"] for row in rows(settings, "media.sessions")] == [
            answer.headers["location"].rsplit("/", 1)[1]
        ]
        assert ingest.stop() == 0


def test_a_password_without_tls_lets_the_commands_in(secured: SecuredKafka, tmp_path: Path) -> None:
    settings = settings_of(secured, tmp_path, **secured.security("SASL_PLAINTEXT"))
    assert command(settings, "topics", "apply").returncode == 0
    assert command(settings, "ledger").returncode == 0


Case = tuple[str, str, dict[str, Any], str]
REFUSED: Final[tuple[Case, ...]] = (
    ("ledger", "SASL_PLAINTEXT", {"kafka_sasl_password": "guessed"}, "PIPELINE_KAFKA_SASL_"),
    ("topics diff", "SASL_SSL", {"kafka_sasl_username": "nobody"}, "PIPELINE_KAFKA_SASL_"),
    ("worker", "SASL_SSL", {"kafka_sasl_mechanism": "PLAIN"}, "PIPELINE_KAFKA_SASL_"),
    ("ingest", "SASL_SSL", {"kafka_ca_file": ""}, "PIPELINE_KAFKA_CA_FILE"),
)
UNANSWERED: Final[tuple[Case, ...]] = (
    ("ledger", "SSL", {"kafka_cert_file": "", "kafka_key_file": ""}, "PIPELINE_KAFKA_CERT_FILE"),
    (
        "topics diff",
        "SSL",
        {"kafka_security_protocol": "PLAINTEXT"} | dict.fromkeys(FILES, ""),
        "PIPELINE_KAFKA_SECURITY_PROTOCOL",
    ),
)


def test_what_a_broker_refuses_is_one_line_that_names_the_setting(
    secured: SecuredKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_refused(UNANSWERED, secured, tmp_path)
    monkeypatch.setattr(clients, "REACH_DEADLINE_S", 60.0)  # a slow broker takes its time to say no
    check_refused(REFUSED, secured, tmp_path)


def check_refused(cases: tuple[Case, ...], secured: SecuredKafka, tmp_path: Path) -> None:
    for case in cases:
        arguments, protocol, wrong, named = case
        done = command(
            settings_of(secured, tmp_path, **secured.security(protocol) | wrong), *arguments.split()
        )
        said = done.stderr.decode()
        assert (done.returncode, said.count("\n")) == (2, 1), (case, said)
        assert named in said, case
