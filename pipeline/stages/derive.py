"""Complete, measure and derive: from a session that counts to every record that it gives.

The rules are in `pipeline.session`; here their results become the records of the contract.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pipeline.contract import records as r
from pipeline.contract.codec import AvroRecord
from pipeline.session.calls import analytics_calls
from pipeline.session.measure import measure
from pipeline.session.rows import reporting_rows
from pipeline.session.timeledger import day_of, time_ledger
from pipeline.stages.prepare import Identified, Prepared
from pipeline.stages.records_of import (
    REVISION,
    Derived,
    call_records,
    events_record,
    metrics_record,
    row_records,
    session_record,
    visitor_record,
)

SESSIONS: Final = "media.sessions"
EVENTS: Final = "media.events"
CALLS: Final = "media.analytics.calls"
REPORTING: Final = "media.reporting"
OUTCOMES: Final = "media.outcomes"
DAYS: Final = "media.days.changed"
INDEX: Final = "media.index"


class Output(NamedTuple):
    """One record to be written: its topic, key and value."""

    topic: str
    key: bytes
    value: AvroRecord


def derive_session(identified: Identified, received_at_ms: int) -> Derived:
    """Return everything that this session gives."""
    session, datastream, session_id, _ = identified
    viewing = measure(session, datastream.rules)
    times = time_ledger(session, viewing, received_at_ms, datastream)
    calls = analytics_calls(session, viewing, session_id, datastream)
    rows = reporting_rows(session, viewing, session_id, datastream)
    flags = viewing.flags.union(times.flags, *(call.flags for call in calls))
    return Derived(viewing, times, calls, rows, tuple(sorted(flags)))


def derive(step: Prepared, now_ms: int) -> tuple[Output, ...]:
    """Return every record of an accepted upload, its outcome and its index entry last."""
    identified, upload = step.identified, step.upload
    assert identified is not None  # noqa: S101 - only judged `accepted` with a session
    assert upload is not None  # noqa: S101 - a session comes from a decoded upload
    return laid_out(step, derive_session(identified, upload.received_at_ms), now_ms)


def laid_out(step: Prepared, derived: Derived, now_ms: int) -> tuple[Output, ...]:
    """Return what one session gave as records, each with its topic and key."""
    identified, upload = step.identified, step.upload
    assert identified is not None  # noqa: S101 - only judged `accepted` with a session
    assert upload is not None  # noqa: S101 - a session comes from a decoded upload
    session_id = identified.session_id
    key, visitor_key = session_id.encode(), identified.visitor_key.encode()
    visitor = visitor_record(identified.session, session_id)
    metrics = metrics_record(derived.viewing.metrics)
    outputs = [
        Output(SESSIONS, key, session_record(identified, upload, derived, visitor, metrics)),
        Output(EVENTS, key, events_record(identified, upload, derived.viewing)),
    ]
    outputs += [
        Output(CALLS, visitor_key, record)
        for record in call_records(identified, upload, derived, visitor, metrics)
    ]
    outputs += [
        Output(REPORTING, key, record) for record in row_records(identified, upload, derived.rows, visitor)
    ]
    day_key = None
    if _changes_a_past_day(identified, upload, derived, now_ms):
        day_key = f"{identified.datastream.id}:{derived.times.viewing_day}"
        day = r.DayChanged(
            identified.datastream.id, derived.times.viewing_day, now_ms, session_id, upload.replay_id
        )
        outputs.append(Output(DAYS, day_key.encode(), day))
    outputs.append(_outcome(step, identified, upload, derived, day_key, now_ms))
    outputs.append(Output(INDEX, b"session:" + key, _index_entry(step, identified, upload, now_ms)))
    return tuple(outputs)


def _changes_a_past_day(identified: Identified, upload: r.Upload, derived: Derived, now_ms: int) -> bool:
    """Return whether reports of that day may be made already: by a replay, or a wait on the way, too."""
    is_past = day_of(now_ms, identified.datastream) > derived.times.viewing_day
    return derived.times.is_late_day or is_past or upload.replay_id is not None


def _outcome(
    step: Prepared,
    identified: Identified,
    upload: r.Upload,
    derived: Derived,
    day_key: str | None,
    now_ms: int,
) -> Output:
    outcome = r.Outcome(
        upload_id=upload.upload_id,
        replay_id=upload.replay_id,
        request_id=upload.request_id,
        datastream_id=identified.datastream.id,
        form=upload.form,
        outcome="accepted",
        session_id=identified.session_id,
        lateness_ms=derived.times.lateness_ms,
        received_at_ms=upload.received_at_ms,
        processed_at_ms=now_ms,
        body_bytes=len(upload.body),
        event_count=len(derived.viewing.events),
        analytics_calls=len(derived.calls),
        reporting_rows=len(derived.rows),
        day_changed=day_key,
        source_topic=step.stored.topic,
        source_partition=step.stored.partition,
        source_offset=step.stored.offset,
    )
    return Output(OUTCOMES, upload.upload_id.encode(), outcome)


def _index_entry(step: Prepared, identified: Identified, upload: r.Upload, now_ms: int) -> r.IndexEntry:
    return r.IndexEntry(
        kind="session",
        visitor_key=identified.visitor_key,
        upload_id=upload.upload_id,
        replay_id=upload.replay_id,
        source_topic=step.stored.topic,
        source_partition=step.stored.partition,
        source_offset=step.stored.offset,
        revision=REVISION,
        recorded_at_ms=now_ms,
    )
