"""What the worker rests on inside Faust, which no public promise covers: a new version must be looked at."""

from __future__ import annotations

import inspect
from importlib.metadata import version

import faust
import pytest
from aiokafka import codec
from faust.transport.consumer import Consumer
from faust.transport.drivers import aiokafka as driver

from pipeline.settings import load
from pipeline.worker.faust_worker import TransactionalConsumer, credentials


def test_faust_is_the_version_that_was_measured() -> None:
    assert version("faust-streaming") == "0.15.3"


@pytest.mark.parametrize(
    "name", ["commit", "ack", "verify_event_path", "perform_seek", "seek_wait", "highwater"]
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
