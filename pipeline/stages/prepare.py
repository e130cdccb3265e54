"""Decode, validate and identify: from a stored record of `media.uploads` to a session with its id.

The front door has judged the upload already; the worker runs the same `wire` code again, and where
the two disagree (two versions in a rolling upgrade, other datastreams) the reason is `door_disagrees`
(DESIGN.md 4).
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

from pipeline.contract.codec import Codec, Undecodable
from pipeline.contract.record import StoredRecord
from pipeline.contract.records import Upload
from pipeline.session.datastream import Datastream
from pipeline.session.identity import session_id, visitor_key
from pipeline.session.model import Form, Session
from pipeline.session.pseudonyms import pseudonymised
from pipeline.stages.datastreams import Directory
from pipeline.stages.receive import ACCEPTED
from pipeline.wire import media_collection, media_edge
from pipeline.wire.problems import MOST_PROBLEMS, Problem, Rejected, cut

REASONS: Final[dict[str, str]] = {
    "body_too_large": "The body was larger than the limit; what arrived up to it is kept.",
    "config_id": "A Media Edge request without configId.",
    "content_encoding": "The content coding is not supported, or could not be undone.",
    "content_type": "The content type is not JSON.",
    "datastream_disabled": "The datastream is switched off.",
    "door_disagrees": "Door and worker judged the upload differently, or have other datastreams: an alarm.",
    "internal_error": "An unexpected exception at the door or in a stage: an alarm.",
    "invalid": f"The body broke rules of its API; the first {MOST_PROBLEMS} problems are listed.",
    "record_too_large": "What the upload gives is larger than the topics take, or than "
    "PIPELINE_WORKER_OUTPUT_BYTES.",
    "undecodable": "The record of media.uploads could not be decoded.",
    "unknown_datastream": "No datastream claims the report suite or configId.",
}
"""Why an upload is rejected: the closed list of reasons of `media.outcomes` and the dead letters."""


class Refusal(NamedTuple):
    """Why an upload is rejected: a reason of `REASONS` and every problem."""

    reason: str
    problems: tuple[Problem, ...] = ()
    fault: str | None = None
    """The unexpected exception behind `internal_error`."""


class Identified(NamedTuple):
    """A valid upload: its session, whose it is and by which id it counts."""

    session: Session
    datastream: Datastream
    session_id: str
    visitor_key: str


class Prepared(NamedTuple):
    """One stored record, decoded and judged; exactly one of `identified` and `refusal` is set."""

    stored: StoredRecord
    upload_id: str
    upload: Upload | None
    identified: Identified | None
    refusal: Refusal | None


def prepare(stored: StoredRecord, codec: Codec, directory: Directory) -> Prepared:
    """Return the record with its session or its refusal; never raises for what it holds."""
    try:
        upload = codec.decode_record(Upload, stored.value)
    except Undecodable as error:
        refusal = Refusal("undecodable", (Problem("", "undecodable", str(error)),))
        return Prepared(stored, id_of_undecodable(stored), None, None, refusal)
    try:
        judged = _identified(upload, directory)
    except Exception as error:  # noqa: BLE001 - a stage that fails on one upload is that upload's dead letter
        judged = Refusal("internal_error", fault=repr(error))
    if isinstance(judged, Refusal):
        return Prepared(stored, upload.upload_id, upload, None, judged)
    return Prepared(stored, upload.upload_id, upload, judged, None)


def id_of_undecodable(stored: StoredRecord) -> str:
    """Return the upload id of a record that has none: where it is, and what it is.

    A topic that is made anew, or migrated, has the same places again.
    """
    held = hashlib.blake2b(stored.timestamp_ms.to_bytes(8, "big", signed=True), digest_size=8)
    for part in (stored.key, stored.value or b""):
        held.update(len(part).to_bytes(8, "big") + part)
    return f"{stored.topic}:{stored.partition}:{stored.offset}:{held.hexdigest()}"


def _identified(upload: Upload, directory: Directory) -> Identified | Refusal:
    if upload.verdict != ACCEPTED and upload.reason != "invalid":
        return Refusal(upload.reason or "invalid", _problems(upload))
    datastream = directory.by_id(upload.datastream_id)
    if upload.verdict == ACCEPTED and (datastream is None or datastream.id != upload.datastream_id):
        message = cut(f"the worker has no datastream {upload.datastream_id!r}")
        return Refusal("door_disagrees", (Problem("", "unknown_datastream", message),))
    if datastream is None:
        return Refusal("invalid", _problems(upload))
    try:
        session = _decoded(upload, datastream)
    except Rejected as rejected:
        if upload.verdict == ACCEPTED:
            return Refusal("door_disagrees", rejected.problems)
        return Refusal("invalid", _problems(upload))
    if upload.verdict != ACCEPTED:
        return Refusal("door_disagrees", _problems(upload))
    identity = session_id(session, datastream)
    if upload.session_id is not None and upload.session_id != identity:
        message = cut(f"the door gave {upload.session_id}, the worker {identity}")
        return Refusal("door_disagrees", (Problem("", "session_id", message),))
    key = visitor_key(session, datastream, identity)
    return Identified(outward(session, datastream, directory), datastream, identity, key)


def outward(session: Session, datastream: Datastream, directory: Directory) -> Session:
    """Return the session as outputs show it: with pseudonyms where the datastream wants them.

    What no API documents may name a person in any place: it is left out then, but for its flag.
    """
    if not datastream.pseudonymise:
        return session
    hidden = pseudonymised(session.visitor, datastream.pseudonymise, directory.pseudonym_key)
    events = tuple([event._replace(unknown=None) for event in session.events])
    return session._replace(visitor=hidden, events=events)


def _decoded(upload: Upload, datastream: Datastream) -> Session:
    """Return the session of the body, or raise `Rejected`.

    How strict a datastream is, is the door's business, and may have changed while the upload waited: what
    was accepted is read leniently, and what was refused strictly.
    """
    strict = upload.verdict != ACCEPTED
    if upload.form == Form.MEDIA_EDGE.value:
        if upload.event_index is None:
            media_edge.split(upload.body)  # the door could not split it: nor should we
        datastream = datastream._replace(ignore_session_id=not strict)
        return media_edge.decode(upload.body, datastream, strict=strict)
    return media_collection.decode(upload.body, upload.path, strict=strict)


def _problems(upload: Upload) -> tuple[Problem, ...]:
    return tuple(Problem(p.pointer, p.rule, p.message, p.index, p.event_type) for p in upload.problems)
