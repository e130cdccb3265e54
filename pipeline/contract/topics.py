"""The topics as `schemas/topics.toml` declares them, each with its Avro schema."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from pipeline.settings import PARTITIONS

SCHEMAS_DIR: Final = Path(__file__).resolve().parents[2] / "schemas"

ENVELOPE_BYTES: Final = 64 * 1024
"""Room for everything in an upload's record beside its body: headers, problems, framing."""

DERIVED_FACTOR: Final = 2
"""What is derived from a body is hardly more than so many times its size (measured on ping-only Edge bodies).

A body whose long texts are repeated can give more: its dead letter is `record_too_large`.
"""


class Topic(NamedTuple):
    """One topic; `retention_ms` None is for ever; `cleanup` holds "delete", "compact" or both.

    `placed_by` is "key", or "upload" for records on the partition number of the upload they were made of.
    """

    name: str
    partitions: int
    cleanup: frozenset[str]
    retention_ms: int | None = None
    key: str = ""
    schema_file: str = ""
    bytes: str = "derived"
    placed_by: str = "key"

    def max_record_bytes(self, body_limit_bytes: int) -> int:
        """Return the largest record that the topic must take, given the limit of a request body."""
        factor = 1 if self.bytes == "upload" else DERIVED_FACTOR
        return factor * body_limit_bytes + ENVELOPE_BYTES


@cache
def load_topics(partitions: int = PARTITIONS) -> Mapping[str, Topic]:
    """Return every topic by name, in the order of the file, each with so many partitions."""
    tables: dict[str, Any] = tomllib.loads((SCHEMAS_DIR / "topics.toml").read_text())["topic"]
    return {
        name: Topic(
            name=name,
            partitions=partitions,
            cleanup=frozenset(table["cleanup"]),
            retention_ms=table["retention_ms"] or None,
            key=table["key"],
            schema_file=table["schema"],
            bytes=table["bytes"],
            placed_by=table["placed_by"],
        )
        for name, table in tables.items()
    }


@cache
def load_schema(topic: str) -> dict[str, Any]:
    """Return the Avro schema of a topic's values, or raise KeyError."""
    schema: dict[str, Any] = json.loads((SCHEMAS_DIR / load_topics()[topic].schema_file).read_text())
    return schema
