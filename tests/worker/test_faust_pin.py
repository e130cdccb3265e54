"""What the worker rests on inside Faust, which no public promise covers: a new version must be looked at."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from typing import Any

import faust
import pytest
from aiokafka import codec
from faust.transport.consumer import Consumer
from faust.transport.drivers import aiokafka as driver

from pipeline.contract.codec import Codec
from pipeline.contract.topics import load_topics
from pipeline.metrics import Meters
from pipeline.settings import load
from pipeline.stages.datastreams import OPEN_DIRECTORY
from pipeline.topology import Topology
from pipeline.worker.faust_worker import (
    BUFFERED,
    BUFFERED_LEAST,
    TransactionalConsumer,
    credentials,
    make_app,
)
from pipeline.worker.progress import Progress
from tests.fakes import FakeSchemaIds
from tests.worker.carrying import FakeLanes


def test_faust_is_the_version_that_was_measured() -> None:
    assert version("faust-streaming") == "0.15.3"


@pytest.mark.parametrize(
    "name",
    [
        "commit",
        "ack",
        "verify_event_path",
        "on_partitions_assigned",
        "perform_seek",
        "seek_wait",
        "highwater",
    ],
)
def test_the_methods_that_are_overridden_or_called_are_there(name: str) -> None:
    assert callable(getattr(driver.Consumer, name))
    if name in TransactionalConsumer.__dict__:
        theirs = inspect.signature(getattr(driver.Consumer, name)).parameters
        assert list(inspect.signature(getattr(TransactionalConsumer, name)).parameters) == list(theirs)


def test_the_private_attributes_are_there() -> None:
    source = inspect.getsource(Consumer)
    assert "_waiting_for_ack" in source
    assert "_unacked_messages" in source
    assert "_new_transport" in faust.App.__dict__ or hasattr(faust.App, "_new_transport")


def test_credentials_follow_the_security_protocol() -> None:
    assert credentials(load({})) is None
    sasl = load(
        {},
        kafka_security_protocol="SASL_PLAINTEXT",
        kafka_sasl_mechanism="PLAIN",
        kafka_sasl_username="me",
        kafka_sasl_password="secret",
    )
    found = credentials(sasl)
    assert (found.username, str(found.mechanism.value), str(found.protocol.value)) == (
        "me",
        "PLAIN",
        "SASL_PLAINTEXT",
    )
    assert str(credentials(load({}, kafka_security_protocol="SSL")).protocol.value) == "SSL"


def test_the_consumer_reads_every_compression_that_producers_use() -> None:
    assert codec.has_lz4()
    assert codec.has_zstd()
    assert codec.has_snappy()
    assert codec.has_gzip()


def test_no_environment_variable_changes_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wait a batch in hand is fenced by its own worker's next take-over."""
    given = {"STREAM_WAIT_EMPTY": "0", "STREAM_BUFFER_MAXSIZE": "7", "CONSUMER_AUTO_OFFSET_RESET": "latest"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    conf = conf_of()
    assert conf.stream_wait_empty is True
    assert (conf.stream_buffer_maxsize, conf.consumer_auto_offset_reset) == (512, "earliest")


@pytest.mark.parametrize("session_timeout_s", [1, 300])
def test_every_session_timeout_that_the_settings_allow_is_one_for_faust(session_timeout_s: int) -> None:
    assert conf_of(worker_session_timeout_s=session_timeout_s).broker_session_timeout == session_timeout_s


def test_faust_reads_ahead_so_much_that_the_largest_bodies_fit_the_memory() -> None:
    assert conf_of(ingest_body_limit_bytes=1024).stream_buffer_maxsize == BUFFERED
    assert conf_of(ingest_body_limit_bytes=16 * 1024 * 1024).stream_buffer_maxsize == 128
    assert conf_of(ingest_body_limit_bytes=64 * 1024 * 1024).stream_buffer_maxsize == BUFFERED_LEAST


def conf_of(**given: Any) -> Any:
    """Return Faust's settings of a worker with these settings."""
    settings = load({}, kafka_bootstrap="127.0.0.1:1", **given)
    topology = Topology(Codec(FakeSchemaIds()), load_topics(), OPEN_DIRECTORY)
    lanes: Any = FakeLanes()
    return make_app(settings, topology, lanes, Meters(), Progress(10)).conf


def test_a_rebalance_waits_for_the_batch_in_hand() -> None:
    for revoked in (faust.App._on_partitions_revoked, faust.App._stop_consumer):
        assert "_consumer_wait_empty" in inspect.getsource(revoked)
