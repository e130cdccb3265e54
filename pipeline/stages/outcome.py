"""The records of an upload that does not count: a duplicate, or a rejected one with its dead letter."""

from __future__ import annotations

from typing import Final

from pipeline.contract import records as r
from pipeline.stages.derive import INDEX, OUTCOMES, Output
from pipeline.stages.judge import Judgement, upload_key
from pipeline.stages.prepare import Prepared

DEAD_LETTERS: Final = "media.uploads.dlq"
MOST_KEY_BYTES: Final = 4 * 1024
MOST_HEADER_BYTES: Final = 16 * 1024
MOST_PROBLEMS: Final = 100
MOST_TEXT: Final = 500
"""How much is kept of what comes with a body, where a dead letter has to be cut."""


def duplicate(step: Prepared, judgement: Judgement, now_ms: int) -> tuple[Output, ...]:
    """Return the outcome of a session that was counted before, and nothing else but its index entry."""
    first = judgement.first.upload_id if judgement.first else None
    return _ended(step, "duplicate", None, first, now_ms)


def refused(step: Prepared, now_ms: int) -> tuple[Output, ...]:
    """Return the outcome and the dead letter of an upload that is rejected: original bytes, every reason."""
    refusal = step.refusal
    assert refusal is not None  # noqa: S101 - only judged `rejected` with a refusal
    upload, stored = step.upload, step.stored
    letter = r.DeadLetter(
        upload_id=step.upload_id,
        replay_id=upload.replay_id if upload else None,
        reason=refusal.reason,
        problems=tuple(r.Problem(*problem) for problem in refusal.problems),
        fault=refusal.fault,
        session_id=_session_id(step),
        received_at_ms=upload.received_at_ms if upload else stored.timestamp_ms,
        rejected_at_ms=now_ms,
        source_topic=stored.topic,
        source_partition=stored.partition,
        source_offset=stored.offset,
        source_key=stored.key,
        headers=tuple(r.Header(name, value) for name, value in stored.headers),
        form=upload.form if upload else "",
        path=upload.path if upload else "",
        event_index=upload.event_index if upload else None,
        datastream_id=upload.datastream_id if upload else "",
        content_type=upload.content_type if upload else "",
        content_encoding=upload.content_encoding if upload else None,
        truncated=upload.truncated if upload else False,
        body=upload.body if upload else stored.value or b"",
    )
    ended = _ended(step, "rejected", refusal.reason, None, now_ms)
    return (Output(DEAD_LETTERS, step.upload_id.encode(), letter), *ended)


def without_weight(letter: r.DeadLetter) -> r.DeadLetter:
    """Return the letter with so much of its key, headers and problems that its body has nearly all room."""
    headers, room = [], MOST_HEADER_BYTES
    for header in letter.headers:
        size = len(header.name) + len(header.value)
        if size <= room:
            headers.append(header)
            room -= size
    return letter._replace(
        source_key=letter.source_key[:MOST_KEY_BYTES],
        headers=tuple(headers),
        problems=tuple(
            one._replace(pointer=one.pointer[:MOST_TEXT], message=one.message[:MOST_TEXT])
            for one in letter.problems[:MOST_PROBLEMS]
        ),
        fault=letter.fault and letter.fault[:MOST_TEXT],
        truncated=True,
    )


def _ended(
    step: Prepared, outcome: str, reason: str | None, first_upload_id: str | None, now_ms: int
) -> tuple[Output, ...]:
    upload, stored = step.upload, step.stored
    record = r.Outcome(
        upload_id=step.upload_id,
        replay_id=upload.replay_id if upload else None,
        request_id=upload.request_id if upload else "",
        datastream_id=upload.datastream_id if upload else "",
        form=upload.form if upload else "",
        outcome=outcome,
        reason=reason,
        session_id=_session_id(step),
        first_upload_id=first_upload_id,
        received_at_ms=upload.received_at_ms if upload else stored.timestamp_ms,
        processed_at_ms=now_ms,
        body_bytes=len(upload.body) if upload else len(stored.value or b""),
        event_count=0,
        analytics_calls=0,
        reporting_rows=0,
        source_topic=stored.topic,
        source_partition=stored.partition,
        source_offset=stored.offset,
    )
    entry = r.IndexEntry(
        kind="upload",
        # Bytes that are no text come from no device of ours: their upload ids never come again.
        visitor_key=stored.key[:MOST_KEY_BYTES].decode("utf-8", "backslashreplace"),
        upload_id=step.upload_id,
        replay_id=upload.replay_id if upload else None,
        source_topic=stored.topic,
        source_partition=stored.partition,
        source_offset=stored.offset,
        outcome=outcome,
        reason=reason,
        recorded_at_ms=now_ms,
    )
    return (
        Output(OUTCOMES, step.upload_id.encode(), record),
        Output(INDEX, upload_key(step.upload_id), entry),
    )


def _session_id(step: Prepared) -> str | None:
    if step.identified is not None:
        return step.identified.session_id
    return step.upload.session_id if step.upload else None
