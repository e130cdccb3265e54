"""Framed Avro in and out: 0x00, the schema's id in four bytes, then the record (Confluent's framing)."""

from __future__ import annotations

import io
import json
import struct
from functools import cache
from typing import Any, Final, Protocol, Self, TypeVar

import fastavro

from pipeline.contract import upload_writer
from pipeline.contract.ports import SchemaIds
from pipeline.contract.record_writer import Writer, Written
from pipeline.contract.records import Upload
from pipeline.contract.topics import load_schema, load_topics
from pipeline.contract.upload_writer import UploadWriter

MAGIC: Final = 0
NO_ID: Final = 0
"""The id in a frame whose schema id is not known yet; no registry gives it."""
_FRAME: Final = struct.Struct(">bI")
_UNKNOWN: Final = _FRAME.pack(MAGIC, NO_ID)


class Undecodable(Exception):
    """The bytes are no framed Avro record of a schema that we know."""


class AvroRecord(Protocol):
    """A generated record class of `pipeline.contract.records`."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> Self:
        """Return the record that fastavro read."""


R = TypeVar("R", bound=AvroRecord)


class Codec:
    """Encodes and decodes records; schema ids come through the registry's port."""

    def __init__(self, schema_ids: SchemaIds, subject_prefix: str = "") -> None:
        self._ids = schema_ids
        self._subject_prefix = subject_prefix
        self._writer = Writer()
        self._writers: dict[str, tuple[bytes, str, Written]] = {}
        self._upload_writer: UploadWriter | None = None
        self._readers: dict[int, tuple[Any, Any]] = {}

    def encode(self, topic: str, record: AvroRecord) -> bytes:
        """Return the framed record under the topic's schema, or raise TypeError for another record."""
        frame, name, written = self._writers.get(topic) or self.prepare(topic)
        if type(record).__name__ != name:
            raise TypeError(f"{topic} holds {name}, not {type(record).__name__}")
        if isinstance(record, Upload) and self._upload_writer is not None:
            value = self._upload_writer(record)
            if value is not None:
                return value
        return frame + written[record]

    def prepare(self, topic: str) -> tuple[bytes, str, Written]:
        """Look the topic's schema id up now, so that a registry that is away shows at the start."""
        schema = load_schema(topic)
        schema_id = self._ids.id_of(self._subject_prefix + subject_of(topic), schema_text(schema))
        found = (_FRAME.pack(MAGIC, schema_id), str(schema["name"]), self._writer.of(schema))
        self._writers[topic] = found
        if topic == upload_writer.TOPIC and UploadWriter.fits(schema):
            self._upload_writer = UploadWriter(found[0], schema, self._writer)
        return found

    def decode(self, value: bytes | None) -> dict[str, Any]:
        """Return the value as our schema of its record reads it: defaults for fields that it lacks.

        Raises `Undecodable`, or `Unavailable` when its schema can't be had.
        """
        if value is None:
            raise Undecodable("a tombstone has no value")
        try:
            magic, schema_id = _FRAME.unpack_from(value)
        except struct.error:
            raise Undecodable(f"{len(value)} bytes are too short for a frame") from None
        if magic != MAGIC:
            raise Undecodable(f"the frame starts with {magic}, not 0")
        stream = io.BytesIO(value)
        stream.seek(_FRAME.size)
        try:
            writer, reader = self._reader(schema_id)
        except KeyError:
            raise Undecodable(f"no schema has the id {schema_id}") from None
        try:
            decoded = fastavro.schemaless_reader(stream, writer, reader)
        except Exception as error:  # noqa: BLE001 - fastavro raises whatever its bytes led it to
            raise Undecodable(f"not Avro of schema {schema_id}: {error!r}") from None
        if stream.tell() != len(value):
            raise Undecodable(f"{len(value) - stream.tell()} bytes follow the record")
        if not isinstance(decoded, dict):
            raise Undecodable(f"schema {schema_id} is no record")
        return decoded

    def decode_record(self, record: type[R], value: bytes | None) -> R:
        """Return the value as a record of this class, or raise `Undecodable`."""
        decoded = self.decode(value)
        try:
            return record.from_avro(decoded)
        except (KeyError, TypeError, AttributeError) as error:
            raise Undecodable(f"not a {record.__name__}: {error!r}") from None

    def _reader(self, schema_id: int) -> tuple[Any, Any]:
        """Return the schema that a value was written with, and ours of that name to read it as.

        The second is None when it is the same, or when we have none of that name.
        """
        found = self._readers.get(schema_id)
        if found is None:
            writer = fastavro.parse_schema(json.loads(self._ids.schema_of(schema_id)))
            ours = _schemas_by_name().get(writer["name"]) if isinstance(writer, dict) else None
            found = (writer, None if ours == writer else ours)
            self._readers[schema_id] = found
        return found


@cache
def _schemas_by_name() -> dict[str, Any]:
    schemas = (fastavro.parse_schema(load_schema(topic)) for topic in load_topics())
    return {schema["name"]: schema for schema in schemas}


def framed(value: bytes, schema_id: int) -> bytes:
    """Return the record with this id in its frame."""
    return _FRAME.pack(MAGIC, schema_id) + value[_FRAME.size :]


def has_id(value: bytes | None) -> bool:
    """Return whether the frame holds a schema id."""
    return value is None or not value.startswith(_UNKNOWN)


def subject_of(topic: str) -> str:
    """Return the registry subject of a topic's values (TopicNameStrategy)."""
    return f"{topic}-value"


def schema_text(schema: dict[str, Any]) -> str:
    """Return the schema as it is registered: one line of JSON."""
    return json.dumps(schema, separators=(",", ":"))
