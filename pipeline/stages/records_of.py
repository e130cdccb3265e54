"""Lay a session's results out as records of the contract: domain names to Avro fields, nothing decided.

Measured, this is a third of the hot path, so what all records of one session share is made once, and
wide records are made from tuples in the order of their fields.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pipeline.contract import records as r
from pipeline.session.fields import AD, CHAPTER, SESSION, Type
from pipeline.session.identity import ecid_of, pod_or_chapter_id
from pipeline.session.model import (
    Ad,
    Call,
    CallKind,
    Chapter,
    Event,
    Kind,
    Metrics,
    Row,
    Session,
    TimeLedger,
    Viewing,
)
from pipeline.session.rounding import seconds
from pipeline.stages.prepare import Identified

REVISION: Final = 1

_AUTH_STATES: Final = {0: "ambiguous", 1: "authenticated", 2: "loggedOut"}


class Derived(NamedTuple):
    """Everything that one session gives, before it is laid out as records."""

    viewing: Viewing
    times: TimeLedger
    calls: tuple[Call, ...]
    rows: tuple[Row, ...]
    flags: tuple[str, ...]


def session_record(
    identified: Identified, upload: r.Upload, derived: Derived, visitor: r.Visitor, metrics: r.SessionMetrics
) -> r.MediaSession:
    """Return the record of `media.sessions`."""
    session, datastream, session_id, visitor_key = identified
    viewing, times = derived.viewing, derived.times
    return r.MediaSession(
        session_id=session_id,
        revision=REVISION,
        upload_id=upload.upload_id,
        replay_id=upload.replay_id,
        datastream_id=datastream.id,
        form=session.form.value,
        organisation=session.routing.organisation,
        report_suites=session.routing.report_suites,
        visitor_key=visitor_key,
        visitor=visitor,
        implementation=r.Implementation(*session.implementation),
        dimensions=r.Dimensions(**_named(session.details, _DIMENSIONS)),
        custom_metadata=session.events[0].custom_metadata or {},
        context_data=session.context_data or {},
        metrics=metrics,
        ads=tuple(_ad_record(ad, session.content_id) for ad in viewing.ads),
        chapters=tuple(_chapter_record(chapter, session.content_id) for chapter in viewing.chapters),
        is_downloaded=True,
        complete_added=viewing.complete_added,
        event_count=len(viewing.events),
        time_ledger=r.TimeLedger(
            started_at_ms=times.started_at_ms,
            ended_at_ms=times.ended_at_ms,
            received_at_ms=times.received_at_ms,
            sent_at_ms=times.sent_at_ms,
            lateness_ms=times.lateness_ms,
            viewing_day=times.viewing_day,
            is_late_day=times.is_late_day,
            skew_ms=times.skew_ms,
        ),
        flags=derived.flags,
    )


def metrics_record(m: Metrics) -> r.SessionMetrics:
    """Return the metrics with each duration in ms and in seconds."""
    return r.SessionMetrics(
        content_time_spent_ms=m.content_time_spent_ms,
        content_time_spent_s=seconds(m.content_time_spent_ms),
        media_time_spent_ms=m.media_time_spent_ms,
        media_time_spent_s=seconds(m.media_time_spent_ms),
        unique_time_played_ms=m.unique_time_played_ms,
        unique_time_played_s=seconds(m.unique_time_played_ms),
        average_minute_audience=m.average_minute_audience,
        estimated_streams=m.estimated_streams,
        progress_markers=m.progress_markers,
        segment=m.segment,
        is_viewed=m.is_viewed,
        is_played=m.is_played,
        is_completed=m.is_completed,
        has_resume=m.has_resume,
        is_authorized=m.is_authorized,
        is_federated=m.is_federated,
        is_dropped_before_start=m.is_dropped_before_start,
        pause_count=m.pause_count,
        pause_time_ms=m.pause_time_ms,
        pause_time_s=seconds(m.pause_time_ms),
        buffer_count=m.buffer_count,
        buffer_time_ms=m.buffer_time_ms,
        buffer_time_s=seconds(m.buffer_time_ms),
        stall_count=m.stall_count,
        stall_time_ms=m.stall_time_ms,
        stall_time_s=seconds(m.stall_time_ms),
        ad_count=m.ad_count,
        ad_time_spent_ms=m.ad_time_spent_ms,
        ad_time_spent_s=seconds(m.ad_time_spent_ms),
        chapter_count=m.chapter_count,
        seconds_since_last_call=m.seconds_since_last_call,
        bitrate_average_kbps=m.bitrate_average_kbps,
        bitrate_average_bucket=m.bitrate_average_bucket,
        bitrate_change_count=m.bitrate_change_count,
        dropped_frames=m.dropped_frames,
        frames_per_second=m.frames_per_second,
        time_to_start_ms=m.time_to_start_ms,
        error_count=m.error_count,
        player_sdk_errors=m.player_sdk_errors,
        external_errors=m.external_errors,
        states=tuple(r.StateTotal(s.name, s.count, s.time_ms, seconds(s.time_ms)) for s in m.states),
    )


def events_record(identified: Identified, upload: r.Upload, viewing: Viewing) -> r.SessionEvents:
    """Return the record of `media.events`: every accepted event in order, the added one included."""
    events = [_event_record(sequence, event) for sequence, event in enumerate(viewing.events)]
    if viewing.complete_added:
        events[-1] = events[-1]._replace(is_added=True)
    return r.SessionEvents(
        session_id=identified.session_id,
        revision=REVISION,
        upload_id=upload.upload_id,
        datastream_id=identified.datastream.id,
        events=tuple(events),
    )


def _event_record(sequence: int, event: Event) -> r.SessionEvent:
    # By position, since one of these is made for every event.
    kind, occurred_at_ms, playhead_s, details, qoe, metadata, started, ended, offset_min, unknown = event
    return r.SessionEvent(
        sequence,
        _KIND_NAMES[kind],
        occurred_at_ms,
        playhead_s,
        details,
        None if qoe is None else r.Qoe(*qoe),
        _NO_METADATA if metadata is None else metadata,
        started,
        ended,
        offset_min,
        False,
        None if unknown is None else json.dumps(unknown, ensure_ascii=False, default=str),
    )


def call_records(
    identified: Identified,
    upload: r.Upload,
    derived: Derived,
    visitor: r.Visitor,
    metrics: r.SessionMetrics,
) -> list[r.AnalyticsCall]:
    """Return the records of `media.analytics.calls`, in their order."""
    routing = identified.session.routing
    routes = tuple(
        r.Route(
            report_suite=suite,
            tracking_server=routing.tracking_server,
            ssl=routing.ssl,
            organisation=routing.organisation,
        )
        for suite in routing.report_suites
    )
    viewing = derived.viewing
    of_session = viewing.flags.union(derived.times.flags)
    return [
        r.AnalyticsCall(
            session_id=identified.session_id,
            revision=REVISION,
            sequence=call.sequence,
            upload_id=upload.upload_id,
            datastream_id=identified.datastream.id,
            call=_CALL_NAMES[call.call],
            ts=call.ts,
            ts_ms=call.ts_ms,
            received_at_ms=upload.received_at_ms,
            pe=call.pe,
            pev3=call.pev3,
            page_event=call.page_event,
            routes=routes,
            visitor=visitor,
            query=call.query,
            context=call.context,
            metrics=metrics if call.call is CallKind.MEDIA_CLOSE else None,
            time_spent_ms=None if part is None else part.time_spent_ms,
            is_completed=None if part is None else part.is_completed,
            flags=tuple(sorted(of_session.union(call.flags))),
        )
        for call in derived.calls
        for part in (_closed_part(call, viewing),)
    ]


def _closed_part(call: Call, viewing: Viewing) -> Ad | Chapter | None:
    """Return the ad or chapter that this call closes."""
    if call.part is None:
        return None
    if call.call is CallKind.AD_CLOSE:
        return viewing.ads[call.part]
    return viewing.chapters[call.part] if call.call is CallKind.CHAPTER_CLOSE else None


def row_records(
    identified: Identified, upload: r.Upload, rows: tuple[Row, ...], visitor: r.Visitor
) -> list[r.ReportingRow]:
    """Return the records of `media.reporting`, in their order."""
    session_id = identified.session_id
    identity_map = _identity_map(identified.session, visitor)
    implementation = r.Implementation(*identified.session.implementation)
    made: dict[int, Any] = {}
    return [
        r.ReportingRow(
            session_id=session_id,
            revision=REVISION,
            sequence=row.sequence,
            row_id=f"{session_id}-{REVISION}-{row.sequence}",
            upload_id=upload.upload_id,
            datastream_id=identified.datastream.id,
            event_type=row.event_type,
            timestamp_ms=row.timestamp_ms,
            identity_map=identity_map,
            implementation=implementation,
            media_reporting=_media_reporting(row.media_reporting, made),
            tenant_fields=row.tenant_fields,
        )
        for row in rows
    ]


def _media_reporting(xdm: Mapping[str, Any], made: dict[int, Any]) -> r.MediaReporting:
    """Return the record; `made` holds parts by the identity of what they are made of, which rows share."""
    parts: dict[str, Any] = {}
    for name, (field, make, members) in _XDM_PARTS.items():
        part = xdm.get(name)
        if part is not None:
            found = made.get(id(part))
            if found is None:
                made[id(part)] = found = make(map(part.get, members))
            parts[field] = found
    if "states" in xdm:
        parts["states"] = tuple(
            r.XdmState(name=s["name"], is_set=s["isSet"], count=s["count"], time=s["time"])
            for s in xdm["states"]
        )
    if "customMetadata" in xdm:
        parts["custom_metadata"] = tuple(r.CustomMetadata(**pair) for pair in xdm["customMetadata"])
    return r.MediaReporting(playhead=xdm.get("playhead"), **parts)


def visitor_record(session: Session, session_id: str) -> r.Visitor:
    """Return who watched, with the ECID that was sent or derived."""
    ecid, generated = ecid_of(session, session_id)
    sent = session.visitor
    return r.Visitor(
        ecid=ecid,
        ecid_generated=generated,
        aid=sent.aid,
        vid=sent.vid,
        location_hint=sent.location_hint,
        app_installation_id=sent.app_installation_id,
        identities=tuple(
            r.Identity(namespace=i.namespace, id=i.id, auth_state=i.auth_state, primary=i.primary)
            for i in sent.identities
        ),
    )


def _identity_map(session: Session, visitor: r.Visitor) -> dict[str, tuple[r.XdmIdentity, ...]]:
    """Return XDM identityMap; the ECID is added where it is not there (`spec/media-edge.md` 3)."""
    found: dict[str, list[r.XdmIdentity]] = {}
    for identity in session.visitor.identities:
        item = r.XdmIdentity(
            id=identity.id,
            authenticated_state=_AUTH_STATES.get(identity.auth_state, "ambiguous"),
            primary=identity.primary,
        )
        found.setdefault(identity.namespace, []).append(item)
    if visitor.ecid and "ECID" not in found:
        has_primary = any(item.primary for items in found.values() for item in items)
        found["ECID"] = [r.XdmIdentity(id=visitor.ecid, primary=not has_primary)]
    return {namespace: tuple(items) for namespace, items in found.items()}


def _ad_record(ad: Ad, content_id: str) -> r.Ad:
    offset = ad.pod.get("offset")
    name = ad.pod.get("friendlyName")
    index = ad.pod.get("index")
    return r.Ad(
        sequence=ad.started_sequence,
        closed_sequence=ad.closed_sequence,
        pod_id=pod_or_chapter_id(content_id, index),
        pod_index=None if index is None else int(index),
        pod_offset_s=None if offset is None else float(offset),
        pod_friendly_name=None if name is None else str(name),
        custom_metadata=ad.custom_metadata or {},
        started_at_ms=ad.started_at_ms,
        closed_at_ms=ad.closed_at_ms,
        time_spent_ms=ad.time_spent_ms,
        time_spent_s=seconds(ad.time_spent_ms),
        is_completed=ad.is_completed,
        closed_by=ad.closed_by,
        **_named(ad.details, _AD_NAMES),
    )


def _chapter_record(chapter: Chapter, content_id: str) -> r.Chapter:
    return r.Chapter(
        sequence=chapter.started_sequence,
        closed_sequence=chapter.closed_sequence,
        chapter_id=pod_or_chapter_id(content_id, chapter.details["index"]),
        custom_metadata=chapter.custom_metadata or {},
        started_at_ms=chapter.started_at_ms,
        closed_at_ms=chapter.closed_at_ms,
        time_spent_ms=chapter.time_spent_ms,
        time_spent_s=seconds(chapter.time_spent_ms),
        is_completed=chapter.is_completed,
        closed_by=chapter.closed_by,
        **_named(chapter.details, _CHAPTER_NAMES),
    )


def _named(details: Mapping[str, Any], names: Mapping[str, tuple[str, bool]]) -> dict[str, Any]:
    """Return details under their record's field names; whole numbers as the schema wants them."""
    return {
        names[member][0]: int(value) if names[member][1] else value
        for member, value in details.items()
        if member in names
    }


def _field_names(table: Any, xdm_names: Mapping[str, str]) -> dict[str, tuple[str, bool]]:
    return {row.member: (xdm_names[row.member], row.type is Type.INTEGER) for row in table}


_DIMENSIONS: Final = _field_names(SESSION, r.DIMENSIONS_XDM)
_AD_NAMES: Final = _field_names(AD, r.AD_XDM)
_CHAPTER_NAMES: Final = _field_names(CHAPTER, r.CHAPTER_XDM)
_KIND_NAMES: Final = {kind: kind.value for kind in Kind}
_CALL_NAMES: Final = {kind: kind.value for kind in CallKind}
_NO_METADATA: Final[Mapping[str, str]] = {}


def _part(name: str, record: Any, xdm_names: Mapping[str, str]) -> tuple[str, Any, tuple[str, ...]]:
    """Return how a part is made: its field, what makes it of values, and their XDM names in that order."""
    xdm_of = {field: xdm for xdm, field in xdm_names.items()}
    return r.MEDIA_REPORTING_XDM[name], record._make, tuple(xdm_of[field] for field in record._fields)


_XDM_PARTS: Final = {
    name: _part(name, record, names)
    for name, record, names in (
        ("sessionDetails", r.SessionDetails, r.SESSION_DETAILS_XDM),
        ("advertisingDetails", r.AdvertisingDetails, r.ADVERTISING_DETAILS_XDM),
        ("advertisingPodDetails", r.AdvertisingPodDetails, r.ADVERTISING_POD_DETAILS_XDM),
        ("chapterDetails", r.ChapterDetails, r.CHAPTER_DETAILS_XDM),
        ("qoeDataDetails", r.QoeDataDetails, r.QOE_DATA_DETAILS_XDM),
    )
}
