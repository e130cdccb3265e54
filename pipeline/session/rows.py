"""The derived XDM reporting rows (`spec/media-edge.md` 3): five kinds, two more by a switch.

False flags are left out; `isCompleted` is always written on sessionComplete; numbers that XDM has as
integers are rounded half up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from pipeline.session.custom import tenant_fields
from pipeline.session.datastream import Datastream
from pipeline.session.fields import AD, CHAPTER, POD, SESSION, Field, Type
from pipeline.session.identity import pod_or_chapter_id
from pipeline.session.model import Ad, Chapter, Details, Form, Metrics, Row, Session, Viewing
from pipeline.session.rounding import half_up, seconds

SESSION_START: Final = "media.sessionStart"
AD_START: Final = "media.adStart"
AD_COMPLETE: Final = "media.adComplete"
CHAPTER_COMPLETE: Final = "media.chapterComplete"
SESSION_COMPLETE: Final = "media.sessionComplete"
AD_SKIP: Final = "media.adSkip"
CHAPTER_SKIP: Final = "media.chapterSkip"

_Member = tuple[str, bool]
"""An XDM member, and whether it is a number."""


def _members(rows: Iterable[Field]) -> tuple[_Member, ...]:
    return tuple((row.member, row.type in (Type.NUMBER, Type.INTEGER)) for row in rows)


_SESSION: Final = _members(
    row for row in SESSION if row.in_xdm and row.member not in {"hasResume", "isDownloaded"}
)
_POD: Final = _members(row for row in POD if row.member != "index")
_AD: Final = _members(AD)
_CHAPTER: Final = _members(CHAPTER)
_NO_FIELDS: Final[Mapping[str, str]] = {}
_STREAM_TYPES: Final = frozenset({"video", "audio"})


class _Moment(NamedTuple):
    """A row before it is ordered: what completes comes before what the same event starts."""

    sequence: int
    rank: int
    number: int
    event_type: str
    at_ms: int
    reporting: dict[str, Any]


def reporting_rows(
    session: Session, viewing: Viewing, session_id: str, datastream: Datastream
) -> tuple[Row, ...]:
    """Return the rows of the session in the order of the events that made them.

    A skipped ad or chapter has a row only where the datastream's rule `skip_rows` says so (6.18).
    """
    skip_rows = datastream.rules.skip_rows
    client = _client_details(session, session_id)
    pev3 = "audio" if session.details.get("streamType") == "audio" else "video"
    custom = session.events[0].custom_metadata
    content_id = session.content_id
    moments = [_Moment(0, -1, 0, SESSION_START, viewing.started_at_ms, _start(session, client, custom))]
    main = {**client, "pev3": pev3, "pccr": True}
    in_ad = {**client, "pev3": f"{pev3}Ad", "pccr": True}
    for number, ad in enumerate(viewing.ads):
        merged = _custom_metadata(custom, ad.custom_metadata)
        details = _values(ad.details, _AD)
        pod = {**_values(ad.pod, _POD), "ID": pod_or_chapter_id(content_id, ad.pod.get("index", 0))}
        moments.append(_ad_row(number, ad, AD_START, in_ad, {**details, "isStarted": True}, pod, merged))
        spent = {"timePlayed": seconds(ad.time_spent_ms)}
        if ad.is_completed:
            done = {**details, "isCompleted": True, **spent}
            moments.append(_ad_row(number, ad, AD_COMPLETE, in_ad, done, pod, merged))
        elif skip_rows and ad.closed_by == "skip":
            moments.append(_ad_row(number, ad, AD_SKIP, in_ad, {**details, **spent}, pod, merged))
    for number, chapter in enumerate(viewing.chapters):
        if chapter.is_completed or (skip_rows and chapter.closed_by == "skip"):
            merged = _custom_metadata(custom, chapter.custom_metadata)
            moments.append(_chapter_row(number, chapter, main, content_id, merged))
    moments.sort(key=lambda moment: moment[:3])
    moments.append(_complete(viewing, main, custom))
    return tuple(
        Row(
            moment.event_type,
            sequence,
            moment.at_ms,
            moment.reporting,
            _tenant_fields(moment.reporting, session.form, datastream),
        )
        for sequence, moment in enumerate(moments)
    )


def _tenant_fields(reporting: Mapping[str, Any], form: Form, datastream: Datastream) -> Mapping[str, str]:
    custom = reporting.get("customMetadata")
    if not custom:
        return _NO_FIELDS
    return tenant_fields({pair["name"]: pair["value"] for pair in custom}, form, datastream)


def _client_details(session: Session, session_id: str) -> dict[str, Any]:
    """Return the session's own metadata, which every row repeats."""
    details = _values(session.details, _SESSION)
    if details.get("streamType") not in _STREAM_TYPES:
        details.pop("streamType", None)  # XDM takes two values only; the session record keeps what was sent
    genre = details.get("genre")
    if genre:
        details["genreList"] = tuple(part.strip() for part in str(genre).split(",") if part.strip())
    details["ID"] = session_id
    return details


def _start(session: Session, client: Mapping[str, Any], custom: Mapping[str, str] | None) -> dict[str, Any]:
    details = {**client, "isViewed": True, "isDownloaded": True}
    if session.details.get("hasResume") is True:
        details["hasResume"] = True
    reporting: dict[str, Any] = {
        "sessionDetails": details,
        "playhead": int(session.events[0].playhead_s),
    }
    return _with_custom(reporting, _custom_metadata(custom, None))


def _ad_row(
    number: int,
    ad: Ad,
    event_type: str,
    session_details: Mapping[str, Any],
    details: dict[str, Any],
    pod: dict[str, Any],
    custom: list[dict[str, str]],
) -> _Moment:
    reporting = {
        "sessionDetails": session_details,
        "advertisingDetails": details,
        "advertisingPodDetails": pod,
    }
    starts = event_type == AD_START
    return _Moment(
        ad.started_sequence if starts else ad.closed_sequence,
        2 if starts else 0,
        number,
        event_type,
        ad.started_at_ms if starts else ad.closed_at_ms,
        _with_custom(reporting, custom),
    )


def _chapter_row(
    number: int,
    chapter: Chapter,
    session_details: Mapping[str, Any],
    content_id: str,
    custom: list[dict[str, str]],
) -> _Moment:
    details = {
        **_values(chapter.details, _CHAPTER),
        "ID": pod_or_chapter_id(content_id, chapter.details["index"]),
        "isStarted": True,
        "timePlayed": seconds(chapter.time_spent_ms),
    }
    if chapter.is_completed:
        details["isCompleted"] = True
    reporting = _with_custom({"sessionDetails": session_details, "chapterDetails": details}, custom)
    event_type = CHAPTER_COMPLETE if chapter.is_completed else CHAPTER_SKIP
    return _Moment(chapter.closed_sequence, 1, number, event_type, chapter.closed_at_ms, reporting)


def _complete(
    viewing: Viewing, session_details: Mapping[str, Any], custom: Mapping[str, str] | None
) -> _Moment:
    metrics = viewing.metrics
    reporting: dict[str, Any] = {"sessionDetails": {**session_details, **_session_metrics(metrics)}}
    quality = _quality(metrics)
    if quality:
        reporting["qoeDataDetails"] = quality
    if metrics.states:
        reporting["states"] = [
            {"name": state.name, "isSet": True, "count": state.count, "time": seconds(state.time_ms)}
            for state in metrics.states
        ]
    reporting = _with_custom(reporting, _custom_metadata(custom, None))
    return _Moment(len(viewing.events), 9, 0, SESSION_COMPLETE, viewing.ended_at_ms, reporting)


def _session_metrics(m: Metrics) -> dict[str, Any]:
    values: dict[str, Any] = {
        "isCompleted": m.is_completed,
        "timePlayed": seconds(m.content_time_spent_ms),
        "totalTimePlayed": seconds(m.media_time_spent_ms),
        "uniqueTimePlayed": seconds(m.unique_time_played_ms),
        "estimatedStreams": m.estimated_streams,
        "adCount": m.ad_count,
        "chapterCount": m.chapter_count,
        "pauseCount": m.pause_count,
        "pauseTime": seconds(m.pause_time_ms),
        "secondsSinceLastCall": m.seconds_since_last_call,
    }
    if m.average_minute_audience is not None:
        values["averageMinuteAudience"] = round(m.average_minute_audience, 6)
    if m.is_played:
        values["isPlayed"] = values["hasSegmentView"] = True
    if m.segment is not None:
        values["segment"] = m.segment
    if m.pause_count:
        values["hasPauseImpactedStreams"] = True
    values.update({f"hasProgress{marker}": True for marker in m.progress_markers})
    return values


def _quality(m: Metrics) -> dict[str, Any]:
    """Return qoeDataDetails: zero counts and false flags are left out (`spec/media-edge.md` 6.15)."""
    counted = (
        ("bufferCount", "bufferTime", "hasBufferImpactedStreams", m.buffer_count, m.buffer_time_ms),
        ("stallCount", "stallTime", "hasStallImpactedStreams", m.stall_count, m.stall_time_ms),
    )
    values: dict[str, Any] = {}
    for count_name, time_name, flag_name, count, time_ms in counted:
        if count:
            values |= {count_name: count, time_name: seconds(time_ms), flag_name: True}
    if m.error_count:
        values |= {"errorCount": m.error_count, "hasErrorImpactedStreams": True}
    if m.bitrate_change_count:
        values |= {"bitrateChangeCount": m.bitrate_change_count, "hasBitrateChangeImpactedStreams": True}
    if m.dropped_frames:
        values |= {"droppedFrames": m.dropped_frames, "hasDroppedFrameImpactedStreams": True}
    if m.is_dropped_before_start:
        values["isDroppedBeforeStart"] = True
    if m.bitrate_average_kbps is not None:
        values["bitrateAverage"] = m.bitrate_average_kbps
        values["bitrateAverageBucket"] = m.bitrate_average_bucket
    if m.frames_per_second:
        values["framesPerSecond"] = m.frames_per_second
    if m.time_to_start_ms is not None:
        values["timeToStart"] = seconds(m.time_to_start_ms)
    if m.player_sdk_errors:
        values["playerSdkErrors"] = m.player_sdk_errors
    if m.external_errors:
        values["externalErrors"] = m.external_errors
    return values


def _values(details: Details, table: tuple[_Member, ...]) -> dict[str, Any]:
    """Return the XDM members of these details, in the order of the table; numbers are whole."""
    return {
        name: half_up(details[name]) if is_number else details[name]  # type: ignore[arg-type]  # by its rule
        for name, is_number in table
        if name in details
    }


def _custom_metadata(
    session: Mapping[str, str] | None, own: Mapping[str, str] | None
) -> list[dict[str, str]]:
    merged = {**(session or {}), **(own or {})}
    return [{"name": name, "value": value} for name, value in merged.items()]


def _with_custom(reporting: dict[str, Any], custom: list[dict[str, str]]) -> dict[str, Any]:
    if custom:
        reporting["customMetadata"] = custom
    return reporting
