"""Open whichever home the settings name, for reading: the embedded log, or Kafka."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pipeline.contract.codec import Codec
from pipeline.contract.ports import SchemaIds
from pipeline.contract.record import StoredRecord
from pipeline.kafka.reader import KafkaReader
from pipeline.log.reader import open_reader
from pipeline.log.registry_file import FileRegistry
from pipeline.settings import SettingError, Settings

if TYPE_CHECKING:
    from pipeline.kafka.registry import HttpRegistry


class Reader(Protocol):
    """How committed records are read, in either home."""

    def refresh(self) -> None:
        """Go on to the present state; until then everything read is of one moment, where possible."""

    def partitions(self, topic: str) -> int:
        """Return how many partitions the topic has."""

    def first_offset(self, topic: str, partition: int) -> int:
        """Return the offset of the oldest record that is still there (or the end)."""

    def end_offset(self, topic: str, partition: int) -> int:
        """Return the offset that the next record will get."""

    def read(self, topic: str, positions: Mapping[int, int]) -> Iterator[StoredRecord]:
        """Yield the committed records of these partitions, each from its position on, to the end."""


class Home(NamedTuple):
    """A home opened for reading."""

    reader: Reader
    codec: Codec


@contextlib.contextmanager
def opened_home(settings: Settings) -> Iterator[Home]:
    """Yield the home, or raise `SettingError` naming the setting that leads nowhere."""
    if settings.kafka_bootstrap:
        kafka = KafkaReader(settings)
        with contextlib.closing(kafka):
            yield Home(kafka, kafka_codec(settings))
        return
    try:
        reader = open_reader(settings.data_dir)
    except OSError as error:
        raise SettingError(
            f"PIPELINE_DATA_DIR (--data-dir): no log in {settings.data_dir}: {error}"
        ) from None
    with contextlib.closing(reader):
        yield Home(reader, Codec(file_registry(settings)))


def require_kafka(settings: Settings) -> None:
    """Raise `SettingError` when this deployment has no Kafka."""
    if not settings.kafka_bootstrap:
        raise SettingError(
            "PIPELINE_KAFKA_BOOTSTRAP is not set: this command needs Kafka (`pipeline run` does not)"
        )


def kafka_codec(settings: Settings) -> Codec:
    """Return the codec of a Kafka deployment: ids from the registry, or from the registry file."""
    return Codec(kafka_schema_ids(settings), settings.kafka_topic_prefix)


def kafka_schema_ids(settings: Settings) -> SchemaIds:
    """Return the registry of a Kafka deployment, or its file."""
    make_data_dir(settings)
    return http_registry(settings) if settings.registry_url else file_registry(settings)


def http_registry(settings: Settings) -> HttpRegistry:
    """Return the client of the registry, with its cache in the data directory."""
    from pipeline.kafka.registry import HttpRegistry  # 0.07 s of CPU that a registry file does not need

    login = (settings.registry_username, settings.registry_password)
    return HttpRegistry(
        settings.registry_url,
        settings.data_dir / "registry-cache.json",
        login=login if settings.registry_username else None,
        ca_file=settings.registry_ca_file,
    )


def file_registry(settings: Settings) -> FileRegistry:
    """Return the registry file of the data directory, or raise `SettingError` when it can't be read."""
    try:
        return FileRegistry(settings.data_dir / "registry.json")
    except OSError as error:
        raise SettingError(
            f"PIPELINE_DATA_DIR (--data-dir): can't use {settings.data_dir}: {error}"
        ) from None


def make_data_dir(settings: Settings) -> None:
    """Make the data directory, or raise `SettingError` when it can't be written to."""
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        probe = settings.data_dir / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)  # several processes may look at the same time
    except OSError as error:
        raise SettingError(
            f"PIPELINE_DATA_DIR (--data-dir): can't use {settings.data_dir}: {error}"
        ) from None
