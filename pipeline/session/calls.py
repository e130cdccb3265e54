"""The derived analytics calls: media start, ad start, ad close, chapter close, media close.

Order, `pe`, `pev3`, context variables and conventions: `spec/media-collection.md` 4 and
`spec/analytics-hits.csv`. Values are strings; flags are `true` and only sent when true.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from pipeline.session.custom import (
    OPT_OUTS,
    SURELY_SHORT,
    Custom,
    analytics_custom,
    cut_to_variable,
    merged_without_case,
    within_context_limit,
)
from pipeline.session.datastream import Datastream, VidRule
from pipeline.session.fields import AD, CHAPTER, POD, SESSION, Field
from pipeline.session.identity import ecid_of, pod_or_chapter_id
from pipeline.session.model import (
    Ad,
    Call,
    CallKind,
    Chapter,
    Details,
    Identity,
    Metrics,
    Scalar,
    Session,
    Viewing,
)
from pipeline.session.rounding import seconds

MISSING_CONTENT_TYPE: Final = "missing_content_type"
"""What reports call an empty content type, which only Media Edge lets through (6.20)."""

_ON_START: Final = frozenset({"isDownloaded"})
_ON_CLOSE_ONLY: Final = frozenset({"appVersion", "libraryVersion", "hasResume"})


class _Form(NamedTuple):
    """What one kind of call is called by Analytics; None is "not documented"."""

    pe: str | None
    page_event: int | None
    is_ad: bool = False


FORMS: Final[dict[CallKind, _Form]] = {
    CallKind.MEDIA_START: _Form("ms_s", 50),
    CallKind.AD_START: _Form("msa_s", 54, is_ad=True),
    CallKind.AD_CLOSE: _Form(None, 55, is_ad=True),
    CallKind.CHAPTER_CLOSE: _Form(None, None),
    CallKind.MEDIA_CLOSE: _Form(None, 51),
}

_LISTS: Final = frozenset({"genre"})
"""Variables that hold a list, each item of which may be as long as another variable."""


class _Variable(NamedTuple):
    """A context variable and the member that it shows; `is_limited` to what a media variable holds."""

    member: str
    name: str
    is_limited: bool


def _variables(rows: Iterable[Field]) -> tuple[_Variable, ...]:
    return tuple(_Variable(row.member, row.context, row.member not in _LISTS) for row in rows if row.context)


_REPEATED: Final = _variables(row for row in SESSION if row.member not in _ON_START | _ON_CLOSE_ONLY)
_CLOSE_ONLY: Final = _variables(row for row in SESSION if row.member in _ON_CLOSE_ONLY)
_POD: Final = _variables(POD)
_AD: Final = _variables(AD)
_CHAPTER: Final = _variables(CHAPTER)


class _Moment(NamedTuple):
    """A call before it is ordered: closes come before the starts that the same event makes."""

    sequence: int
    rank: int
    number: int
    kind: CallKind
    at_ms: int
    context: dict[str, str]


def analytics_calls(
    session: Session, viewing: Viewing, session_id: str, datastream: Datastream
) -> tuple[Call, ...]:
    """Return every call of the session in the documented order, `ts` on each (4.1, 4.3)."""
    audio = session.details.get("streamType") == "audio"
    query, flags = _query(session, session_id, datastream, audio=audio)
    repeated = _metadata(session, session_id, flags)

    def custom(own: Custom | None = None) -> dict[str, str]:
        narrower = analytics_custom(own, session, datastream, flags)
        merged = merged_without_case(of_upload, of_session, narrower)
        if repeated.keys().isdisjoint(OPT_OUTS):
            return merged
        return {name: value for name, value in merged.items() if name.lower() not in repeated}

    of_upload = analytics_custom(session.context_data, session, datastream, flags)
    of_session = analytics_custom(session.events[0].custom_metadata, session, datastream, flags)
    moments = [_start(viewing, {**custom(), **repeated})]
    content_id = session.content_id
    for number, ad in enumerate(viewing.ads):
        own = {**custom(ad.custom_metadata), **repeated, **_ad_context(ad, content_id, flags)}
        moments += _ad_moments(number, ad, own)
    for number, chapter in enumerate(viewing.chapters):
        own = {**custom(chapter.custom_metadata), **repeated, **_chapter_context(chapter, content_id, flags)}
        rank = _rank(chapter.closed_by, 1)
        moments.append(
            _Moment(chapter.closed_sequence, rank, number, CallKind.CHAPTER_CLOSE, chapter.closed_at_ms, own)
        )
    close = {
        **custom(),
        **repeated,
        **_values(session.details, _CLOSE_ONLY, flags),
        **_close_context(viewing.metrics),
    }
    close["a.media.downloaded"] = "true"
    moments.sort()
    moments.append(_Moment(len(viewing.events), 9, -1, CallKind.MEDIA_CLOSE, viewing.ended_at_ms, close))
    shown = tuple(sorted(flags))
    return tuple(
        _call(sequence, moment, query, shown, audio=audio) for sequence, moment in enumerate(moments)
    )


def _call(
    sequence: int, moment: _Moment, query: Mapping[str, str], flags: tuple[str, ...], *, audio: bool
) -> Call:
    form = FORMS[moment.kind]
    context = within_context_limit(moment.context)
    is_cut = len(context) < len(moment.context) and "context_truncated" not in flags
    return Call(
        call=moment.kind,
        sequence=sequence,
        ts=moment.at_ms // 1000,
        ts_ms=moment.at_ms,
        pe=form.pe,
        pev3=("audio" if audio else "video") + ("Ad" if form.is_ad else ""),
        page_event=form.page_event,
        query=query,
        context=context,
        flags=(*flags, "context_truncated") if is_cut else flags,
        part=None if moment.number < 0 else moment.number,
    )


def _query(
    session: Session, session_id: str, datastream: Datastream, *, audio: bool
) -> tuple[dict[str, str], set[str]]:
    """Return the query parameters, and the flags that belong to them."""
    visitor, routing = session.visitor, session.routing
    query: dict[str, str] = {}
    flags: set[str] = set()
    ecid, generated = ecid_of(session, session_id)
    if ecid:
        query["mid"] = ecid
    if generated:
        flags.add("mid_generated")
    if visitor.aid:
        query["aid"] = visitor.aid
    is_only_id = not ecid and not visitor.aid
    if visitor.vid and (is_only_id or datastream.rules.vid_rule is VidRule.ALWAYS):
        query["vid"] = visitor.vid
        flags.add("vid_with_ts")
    if routing.organisation:
        query["mcorgid"] = routing.organisation
    if visitor.location_hint is not None:
        query["aamlh"] = str(visitor.location_hint)
    for identity in _customers(session):
        query[f"cid.{identity.namespace}.id"] = identity.id
        query[f"cid.{identity.namespace}.as"] = str(identity.auth_state)
    if audio:
        query["ms_a"] = "1"
    return query, flags


def _customers(session: Session) -> Iterable[Identity]:
    """Return the customer ids: of an identityMap one for each namespace, the primary or else the first."""
    if session.form == "media_collection":
        return session.visitor.identities
    found: dict[str, Identity] = {}
    for identity in session.visitor.identities:
        held = found.setdefault(identity.namespace, identity)
        if identity.primary and not held.primary:
            found[identity.namespace] = identity
    return [identity for identity in found.values() if not identity.is_ecid]


def _metadata(session: Session, session_id: str, flags: set[str]) -> dict[str, str]:
    """Return the session's standard metadata and opt-outs, which every call repeats (4.2)."""
    context = _values(session.details, _REPEATED, flags)
    context["a.media.vsid"] = session_id
    if not context.get("a.contentType"):
        context["a.contentType"] = MISSING_CONTENT_TYPE
    if session.routing.opt_out_forwarding:
        context["cm.ssf"] = "1"
        context["opt.dmp"] = "N"
    if session.routing.opt_out_share:
        context["opt.oos"] = "1"
    return context


def _start(viewing: Viewing, context: dict[str, str]) -> _Moment:
    context["a.media.view"] = "true"
    context["a.media.downloaded"] = "true"
    return _Moment(0, -1, -1, CallKind.MEDIA_START, viewing.started_at_ms, context)


def _ad_moments(number: int, ad: Ad, own: dict[str, str]) -> tuple[_Moment, _Moment]:
    close = dict(own)
    close["a.media.ad.timePlayed"] = str(seconds(ad.time_spent_ms))
    if ad.is_completed:
        close["a.media.ad.complete"] = "true"
    own["a.media.ad.view"] = "true"
    return (
        _Moment(ad.started_sequence, 2, number, CallKind.AD_START, ad.started_at_ms, own),
        _Moment(
            ad.closed_sequence, _rank(ad.closed_by, 0), number, CallKind.AD_CLOSE, ad.closed_at_ms, close
        ),
    )


def _rank(closed_by: str, rank: int) -> int:
    """Return the place among the calls of one event; what the session's end closes comes after them all."""
    return rank + 3 if closed_by == "end" else rank


def _ad_context(ad: Ad, content_id: str, flags: set[str]) -> dict[str, str]:
    context = _values(ad.pod, _POD, flags)
    context.update(_values(ad.details, _AD, flags))
    context["a.media.ad.pod"] = pod_or_chapter_id(content_id, ad.pod.get("index", 0))
    return context


def _chapter_context(chapter: Chapter, content_id: str, flags: set[str]) -> dict[str, str]:
    context = _values(chapter.details, _CHAPTER, flags)
    context["a.media.chapter.name"] = pod_or_chapter_id(content_id, chapter.details["index"])
    context["a.media.chapter.view"] = "true"
    context["a.media.chapter.timePlayed"] = str(seconds(chapter.time_spent_ms))
    if chapter.is_completed:
        context["a.media.chapter.complete"] = "true"
    return context


def _close_context(m: Metrics) -> dict[str, str]:
    context = {
        "a.media.timePlayed": str(seconds(m.content_time_spent_ms)),
        "a.media.totalTimePlayed": str(seconds(m.media_time_spent_ms)),
        "a.media.uniqueTimePlayed": str(seconds(m.unique_time_played_ms)),
        "a.media.adCount": str(m.ad_count),
        "a.media.chapterCount": str(m.chapter_count),
        "a.media.pauseCount": str(m.pause_count),
        "a.media.pauseTime": str(seconds(m.pause_time_ms)),
        "a.media.estimatedStreams": str(m.estimated_streams),
        "a.media.secondsSinceLastCall": str(m.seconds_since_last_call),
    }
    if m.average_minute_audience is not None:
        context["a.media.averageMinuteAudience"] = f"{m.average_minute_audience:.6f}".rstrip("0").rstrip(".")
    if m.segment is not None:
        context["a.media.segment"] = m.segment
    context.update({f"a.media.progress{marker}": "true" for marker in m.progress_markers})
    context.update({name: "true" for name, is_set in _flags(m) if is_set})
    context.update({name: str(number) for name, number in _when_positive(m) if number})
    if m.time_to_start_ms is not None:
        context["a.media.qoe.timeToStart"] = str(m.time_to_start_ms)
    if m.bitrate_average_kbps is not None and m.bitrate_average_bucket is not None:
        context["a.media.qoe.bitrateAverage"] = str(m.bitrate_average_kbps)
        context["a.media.qoe.bitrateAverageBucket"] = m.bitrate_average_bucket
    if m.player_sdk_errors:
        context["a.media.qoe.playerSdkErrors"] = ",".join(m.player_sdk_errors)
    if m.external_errors:
        context["a.media.qoe.externalErrors"] = ",".join(m.external_errors)
    totals: dict[str, tuple[int, int]] = {}
    for state in m.states:  # Analytics knows no case: names that differ in it only are one
        count, time_ms = totals.get(state.name.lower(), (0, 0))
        totals[state.name.lower()] = count + state.count, time_ms + state.time_ms
    for name, (count, time_ms) in totals.items():
        context[f"a.media.states.{name}.set"] = "true"
        context[f"a.media.states.{name}.count"] = str(count)
        context[f"a.media.states.{name}.time"] = str(seconds(time_ms))
    return context


def _flags(m: Metrics) -> Iterable[tuple[str, bool]]:
    return (
        ("a.media.play", m.is_played),
        ("a.media.segmentView", m.is_played),
        ("a.media.complete", m.is_completed),
        ("a.media.federated", m.is_federated),
        ("a.media.pause", m.pause_count > 0),
        ("a.media.qoe.dropBeforeStart", m.is_dropped_before_start),
        ("a.media.qoe.buffer", m.buffer_count > 0),
        ("a.media.qoe.stall", m.stall_count > 0),
        ("a.media.qoe.error", m.error_count > 0),
        ("a.media.qoe.bitrateChange", m.bitrate_change_count > 0),
        ("a.media.qoe.droppedFrames", bool(m.dropped_frames and m.dropped_frames > 0)),
    )


def _when_positive(m: Metrics) -> Iterable[tuple[str, int | None]]:
    return (
        ("a.media.qoe.bufferCount", m.buffer_count),
        ("a.media.qoe.bufferTime", seconds(m.buffer_time_ms)),
        ("a.media.qoe.stallCount", m.stall_count),
        ("a.media.qoe.stallTime", seconds(m.stall_time_ms)),
        ("a.media.qoe.errorCount", m.error_count),
        ("a.media.qoe.bitrateChangeCount", m.bitrate_change_count),
        ("a.media.qoe.droppedFrameCount", m.dropped_frames),
    )


def _values(details: Details, table: tuple[_Variable, ...], flags: set[str]) -> dict[str, str]:
    """Return the context variables of these details, each as far as it holds; a false flag is left out."""
    found: dict[str, str] = {}
    for member, name, is_limited in table:
        value = details.get(member)
        if value is None or value is False:
            continue
        text = value if type(value) is str else _text(value)
        if is_limited and len(text) > SURELY_SHORT:
            whole, text = text, cut_to_variable(text)
            if len(text) < len(whole):
                flags.add("context_truncated")
        found[name] = text
    return found


def _text(value: Scalar) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
