"""What is told of a batch once it is committed: its counts, and one log line for each dead letter."""

from __future__ import annotations

from collections import Counter
from typing import Final

import structlog

from pipeline.contract.records import DeadLetter
from pipeline.metrics import Meters
from pipeline.topology import Processed

_log = structlog.get_logger("pipeline.worker")

ALARMS: Final = frozenset({"internal_error", "door_disagrees"})
"""Reasons that are our fault; each is a log event of that name."""


def report(processed: Processed, records_read: int, meters: Meters) -> None:
    """Count and log what was committed; never a body, an identity or the text of an exception."""
    meters.count("pipeline_records_read_total", by=records_read)
    for topic, number in Counter(record.topic for record in processed.records).items():
        meters.count("pipeline_records_written_total", topic, by=number)
    for (name, *labels), number in processed.counts.items():
        meters.count(name, *labels, by=number)
    for lateness_ms in processed.lateness_ms:
        meters.observe("pipeline_lateness_seconds", max(0, lateness_ms) / 1000)
    for letter in processed.dead_letters:
        meters.count("pipeline_dead_letters_total", letter.reason)
        _tell(letter)


def _tell(letter: DeadLetter) -> None:
    members = {
        "topic": letter.source_topic,
        "partition": letter.source_partition,
        "offset": letter.source_offset,
        "upload_id": letter.upload_id,
        "session_id": letter.session_id,
        "datastream": letter.datastream_id,
    }
    if letter.reason in ALARMS:
        _log.error(letter.reason, **members, error=kind_of(letter.fault))
    else:
        _log.info("dead_letter", **members, reason=letter.reason)


def kind_of(fault: str | None) -> str | None:
    """Return the type of an exception given by its `repr`: its text may hold what a device sent."""
    return None if fault is None else fault.partition("(")[0]
