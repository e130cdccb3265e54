"""The records of every topic. Generated from `schemas/*.avsc`: change those, not this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple


class Route(NamedTuple):
    """One report suite that the call goes to."""

    report_suite: str
    """Report suite id."""
    tracking_server: str
    """Tracking server."""
    organisation: str
    """Experience Cloud organisation."""
    ssl: bool = True
    """Whether to use TLS."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> Route:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            report_suite=value["report_suite"],
            tracking_server=value["tracking_server"],
            organisation=value["organisation"],
            ssl=value.get("ssl", True),
        )


class Identity(NamedTuple):
    """One identity of a visitor."""

    namespace: str
    """Name of the customer id, or identity namespace."""
    id: str
    """The id."""
    auth_state: int = 0
    """0 ambiguous, 1 authenticated, 2 logged out."""
    primary: bool = False
    """The primary identity of an identityMap."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> Identity:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            namespace=value["namespace"],
            id=value["id"],
            auth_state=value.get("auth_state", 0),
            primary=value.get("primary", False),
        )


class Visitor(NamedTuple):
    """Who watched, as the upload says it."""

    ecid: str | None = None
    """Experience Cloud id (mid)."""
    ecid_generated: bool = False
    """The ECID was derived by us, not sent."""
    aid: str | None = None
    """analytics.aid."""
    vid: str | None = None
    """analytics.visitorId."""
    location_hint: int | None = None
    """visitor.aamLocationHint."""
    identities: tuple[Identity, ...] = ()
    """customerIDs or identityMap, in order of appearance."""
    app_installation_id: str | None = None
    """appInstallationId."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> Visitor:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            ecid=value.get("ecid", None),
            ecid_generated=value.get("ecid_generated", False),
            aid=value.get("aid", None),
            vid=value.get("vid", None),
            location_hint=value.get("location_hint", None),
            identities=tuple(Identity.from_avro(item) for item in value.get("identities", [])),
            app_installation_id=value.get("app_installation_id", None),
        )


class StateTotal(NamedTuple):
    """One player state of a session."""

    name: str
    """Name of the state, as first sent."""
    count: int  # type: ignore[assignment]  # hides the tuple's method, which nobody calls on a record
    """How often it was opened."""
    time_ms: int = 0
    """Wall clock time that it was open, in ms."""
    time_s: int = 0
    """Wall clock time that it was open, in seconds, rounded half up once."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> StateTotal:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            name=value["name"],
            count=value["count"],
            time_ms=value.get("time_ms", 0),
            time_s=value.get("time_s", 0),
        )


class SessionMetrics(NamedTuple):
    """Every session-level number (spec/metrics.csv); null means that it is not produced."""

    content_time_spent_ms: int = 0
    """Content time spent (timePlayed), in ms."""
    content_time_spent_s: int = 0
    """Content time spent (timePlayed), in seconds, rounded half up once."""
    media_time_spent_ms: int = 0
    """Media time spent, content and ads (totalTimePlayed), in ms."""
    media_time_spent_s: int = 0
    """Media time spent, content and ads (totalTimePlayed), in seconds, rounded half up once."""
    unique_time_played_ms: int = 0
    """Unique time played: seconds of content seen at least once, in ms."""
    unique_time_played_s: int = 0
    """Unique time played: seconds of content seen at least once, in seconds, rounded half up once."""
    average_minute_audience: float | None = None
    """Content time spent over the content length; null when the length is not positive."""
    estimated_streams: int = 1
    """Half-hours begun: floor(media time spent / 1800) + 1."""
    progress_markers: tuple[int, ...] = ()
    """The markers reached, of 10, 25, 50, 75 and 95 per cent."""
    segment: str | None = None
    """Playhead range in minutes, `[a-b]`; null when nothing was played."""
    is_viewed: bool = True
    """Media start: always true."""
    is_played: bool = False
    """Content start, and content segment view."""
    is_completed: bool = False
    """The client sent sessionComplete."""
    has_resume: bool = False
    """The client declared a resume."""
    is_authorized: bool = False
    """media.pass.auth is true."""
    is_federated: bool = False
    """Federated data: never true here."""
    is_dropped_before_start: bool = False
    """Closed without a content start."""
    pause_count: int = 0
    """Pauses."""
    pause_time_ms: int = 0
    """Total pause duration, in ms."""
    pause_time_s: int = 0
    """Total pause duration, in seconds, rounded half up once."""
    buffer_count: int = 0
    """Buffer events."""
    buffer_time_ms: int = 0
    """Total buffer duration, in ms."""
    buffer_time_s: int = 0
    """Total buffer duration, in seconds, rounded half up once."""
    stall_count: int = 0
    """Stalls."""
    stall_time_ms: int = 0
    """Total stalling duration, in ms."""
    stall_time_s: int = 0
    """Total stalling duration, in seconds, rounded half up once."""
    ad_count: int = 0
    """Ads started inside a break."""
    ad_time_spent_ms: int = 0
    """Time spent in all ads, in ms."""
    ad_time_spent_s: int = 0
    """Time spent in all ads, in seconds, rounded half up once."""
    chapter_count: int = 0
    """Chapters started."""
    seconds_since_last_call: int = 0
    """0: an upload is never closed by a time-out."""
    bitrate_average_kbps: int | None = None
    """Bitrate weighted by play time."""
    bitrate_average_bucket: str | None = None
    """Its bucket of 100 kbps, for example 100-199."""
    bitrate_change_count: int = 0
    """bitrateChange events."""
    dropped_frames: int | None = None
    """Last reported number of dropped frames."""
    frames_per_second: int | None = None
    """Last reported frame rate."""
    time_to_start_ms: int | None = None
    """Time to start, in ms."""
    error_count: int = 0
    """error events."""
    player_sdk_errors: tuple[str, ...] = ()
    """Distinct error ids of source player, in order of appearance."""
    external_errors: tuple[str, ...] = ()
    """Distinct error ids of source external, in order of appearance."""
    states: tuple[StateTotal, ...] = ()
    """Player states, the first ten names of the session."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> SessionMetrics:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            content_time_spent_ms=value.get("content_time_spent_ms", 0),
            content_time_spent_s=value.get("content_time_spent_s", 0),
            media_time_spent_ms=value.get("media_time_spent_ms", 0),
            media_time_spent_s=value.get("media_time_spent_s", 0),
            unique_time_played_ms=value.get("unique_time_played_ms", 0),
            unique_time_played_s=value.get("unique_time_played_s", 0),
            average_minute_audience=value.get("average_minute_audience", None),
            estimated_streams=value.get("estimated_streams", 1),
            progress_markers=tuple(value.get("progress_markers", [])),
            segment=value.get("segment", None),
            is_viewed=value.get("is_viewed", True),
            is_played=value.get("is_played", False),
            is_completed=value.get("is_completed", False),
            has_resume=value.get("has_resume", False),
            is_authorized=value.get("is_authorized", False),
            is_federated=value.get("is_federated", False),
            is_dropped_before_start=value.get("is_dropped_before_start", False),
            pause_count=value.get("pause_count", 0),
            pause_time_ms=value.get("pause_time_ms", 0),
            pause_time_s=value.get("pause_time_s", 0),
            buffer_count=value.get("buffer_count", 0),
            buffer_time_ms=value.get("buffer_time_ms", 0),
            buffer_time_s=value.get("buffer_time_s", 0),
            stall_count=value.get("stall_count", 0),
            stall_time_ms=value.get("stall_time_ms", 0),
            stall_time_s=value.get("stall_time_s", 0),
            ad_count=value.get("ad_count", 0),
            ad_time_spent_ms=value.get("ad_time_spent_ms", 0),
            ad_time_spent_s=value.get("ad_time_spent_s", 0),
            chapter_count=value.get("chapter_count", 0),
            seconds_since_last_call=value.get("seconds_since_last_call", 0),
            bitrate_average_kbps=value.get("bitrate_average_kbps", None),
            bitrate_average_bucket=value.get("bitrate_average_bucket", None),
            bitrate_change_count=value.get("bitrate_change_count", 0),
            dropped_frames=value.get("dropped_frames", None),
            frames_per_second=value.get("frames_per_second", None),
            time_to_start_ms=value.get("time_to_start_ms", None),
            error_count=value.get("error_count", 0),
            player_sdk_errors=tuple(value.get("player_sdk_errors", [])),
            external_errors=tuple(value.get("external_errors", [])),
            states=tuple(StateTotal.from_avro(item) for item in value.get("states", [])),
        )


class AnalyticsCall(NamedTuple):
    """One analytics call that carries ts. Topic media.analytics.calls, key: visitor key."""

    session_id: str
    """The session."""
    revision: int
    """Its revision."""
    sequence: int
    """Position among the calls of the session, from 0."""
    upload_id: str
    """The upload that it derives from."""
    datastream_id: str
    """The tenant."""
    call: str
    """mediaStart, adStart, adClose, chapterClose or mediaClose."""
    ts: int
    """Device time of its event in whole seconds since 1970 UTC: Analytics' ts."""
    ts_ms: int
    """The same in ms."""
    received_at_ms: int
    """Time of receipt, ms since 1970 UTC."""
    pev3: str
    """video, audio, videoAd or audioAd."""
    routes: tuple[Route, ...]
    """One route per report suite."""
    visitor: Visitor
    """Who watched."""
    query: Mapping[str, str]
    """Query parameters beside ts, pe and pev3."""
    context: Mapping[str, str]
    """Context data."""
    flags: tuple[str, ...]
    """Soft problems of the session and the call, sorted."""
    pe: str | None = None
    """Analytics' pe, where documented."""
    page_event: int | None = None
    """The data feed's page_event, where documented."""
    metrics: SessionMetrics | None = None
    """Typed metrics of the session, on mediaClose."""
    time_spent_ms: int | None = None
    """Time spent in the ad or chapter, in ms, on its close."""
    is_completed: bool | None = None
    """Whether the ad or chapter was completed, on its close."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> AnalyticsCall:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            session_id=value["session_id"],
            revision=value["revision"],
            sequence=value["sequence"],
            upload_id=value["upload_id"],
            datastream_id=value["datastream_id"],
            call=value["call"],
            ts=value["ts"],
            ts_ms=value["ts_ms"],
            received_at_ms=value["received_at_ms"],
            pev3=value["pev3"],
            routes=tuple(Route.from_avro(item) for item in value["routes"]),
            visitor=Visitor.from_avro(value["visitor"]),
            query=value["query"],
            context=value["context"],
            flags=tuple(value["flags"]),
            pe=value.get("pe", None),
            page_event=value.get("page_event", None),
            metrics=None if (got := value.get("metrics", None)) is None else SessionMetrics.from_avro(got),
            time_spent_ms=value.get("time_spent_ms", None),
            is_completed=value.get("is_completed", None),
        )


class DayChanged(NamedTuple):
    """A viewing day was changed by a late session or a replay. Topic media.days.changed, key: datastream and day."""

    datastream_id: str
    """The tenant."""
    viewing_day: str
    """YYYY-MM-DD in the datastream's time zone."""
    changed_at_ms: int
    """When the worker wrote this, ms since 1970 UTC."""
    session_id: str
    """The last session that changed the day."""
    replay_id: str | None = None
    """The replay that changed it."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> DayChanged:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            datastream_id=value["datastream_id"],
            viewing_day=value["viewing_day"],
            changed_at_ms=value["changed_at_ms"],
            session_id=value["session_id"],
            replay_id=value.get("replay_id", None),
        )


class Qoe(NamedTuple):
    """Quality values sent with the event."""

    bitrate: float | None = None
    """As sent; the unit is a rule of the datastream."""
    dropped_frames: float | None = None
    """Running total."""
    frames_per_second: float | None = None
    """Frame rate."""
    time_to_start_ms: float | None = None
    """Time to start, in ms."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> Qoe:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            bitrate=value.get("bitrate", None),
            dropped_frames=value.get("dropped_frames", None),
            frames_per_second=value.get("frames_per_second", None),
            time_to_start_ms=value.get("time_to_start_ms", None),
        )


class SessionEvent(NamedTuple):
    """One normalised event."""

    sequence: int
    """Position in the session, from 0."""
    event_type: str
    """Canonical event type, for example adStart."""
    occurred_at_ms: int
    """Device time as sent, ms since 1970 UTC."""
    playhead_s: float
    """Playhead as sent, in seconds."""
    details: Mapping[str, str | int | float | bool] = {}
    """Details of its kind by XDM member name."""
    qoe: Qoe | None = None
    """Quality values, where sent."""
    custom_metadata: Mapping[str, str] = {}
    """customMetadata, where it counts."""
    states_started: tuple[str, ...] = ()
    """Player states that it starts."""
    states_ended: tuple[str, ...] = ()
    """Player states that it ends."""
    utc_offset_min: int | None = None
    """UTC offset that it was sent with, in minutes (Media Edge)."""
    is_added: bool = False
    """Added by the worker: the missing sessionComplete."""
    unknown_json: str | None = None
    """Undocumented members and params as sent, and values that others overruled, as JSON."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> SessionEvent:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            sequence=value["sequence"],
            event_type=value["event_type"],
            occurred_at_ms=value["occurred_at_ms"],
            playhead_s=value["playhead_s"],
            details=value.get("details", {}),
            qoe=None if (got := value.get("qoe", None)) is None else Qoe.from_avro(got),
            custom_metadata=value.get("custom_metadata", {}),
            states_started=tuple(value.get("states_started", [])),
            states_ended=tuple(value.get("states_ended", [])),
            utc_offset_min=value.get("utc_offset_min", None),
            is_added=value.get("is_added", False),
            unknown_json=value.get("unknown_json", None),
        )


class SessionEvents(NamedTuple):
    """All accepted events of one session and revision, in order. Topic media.events, key: session id."""

    session_id: str
    """The session."""
    revision: int
    """Its revision."""
    upload_id: str
    """The upload that they came in."""
    datastream_id: str
    """The tenant."""
    events: tuple[SessionEvent, ...]
    """The events."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> SessionEvents:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            session_id=value["session_id"],
            revision=value["revision"],
            upload_id=value["upload_id"],
            datastream_id=value["datastream_id"],
            events=tuple(SessionEvent.from_avro(item) for item in value["events"]),
        )


class IndexEntry(NamedTuple):
    """What makes a session, an upload or a read position known. Topic media.index, key: session:<id>, upload:<id>, position:<topic>:<partition>, window:<topic>:<partition>, owner:<topic>:<partition>, rebuilt:<topic>:<partition> or migration:<prefix>:<partition>; same partition number as the upload."""

    kind: str
    """session, upload, position, window (dead letters of late), owner (a worker took the partition over), rebuilt (`index rebuild` made it again) or migration (how far `topics migrate` has come)."""
    recorded_at_ms: int
    """When the worker wrote the entry, ms since 1970 UTC."""
    visitor_key: str | None = None
    """Key of the upload's record, which decides its partition: for a session the visitor key."""
    upload_id: str | None = None
    """The upload that made the entry; for a session the first one."""
    replay_id: str | None = None
    """The last replay that touched the entry."""
    source_topic: str | None = None
    """Topic of the upload's record."""
    source_partition: int | None = None
    """Partition of the upload's record, of the position, or of the index that is migrated."""
    source_offset: int | None = None
    """Offset of the upload's record."""
    revision: int | None = None
    """Revision of the session that counts."""
    outcome: str | None = None
    """How the upload ended, for kind upload."""
    reason: str | None = None
    """Why it was rejected, for kind upload."""
    next_offset: int | None = None
    """The offset to read next, for kinds position and migration."""
    cluster_id: str | None = None
    """Kafka cluster of the position; null on the embedded log."""
    topic_id: str | None = None
    """Kafka topic id of the position; null on the embedded log."""
    uploads: int | None = None
    """Uploads of late in the partition, for kind window."""
    dead_letters: int | None = None
    """Dead letters of the worker's own doing among them, for kind window."""
    migrated_from: str | None = None
    """Topic prefix that `topics migrate` brought the entry from; null for one of these topics' own."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> IndexEntry:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            kind=value["kind"],
            recorded_at_ms=value["recorded_at_ms"],
            visitor_key=value.get("visitor_key", None),
            upload_id=value.get("upload_id", None),
            replay_id=value.get("replay_id", None),
            source_topic=value.get("source_topic", None),
            source_partition=value.get("source_partition", None),
            source_offset=value.get("source_offset", None),
            revision=value.get("revision", None),
            outcome=value.get("outcome", None),
            reason=value.get("reason", None),
            next_offset=value.get("next_offset", None),
            cluster_id=value.get("cluster_id", None),
            topic_id=value.get("topic_id", None),
            uploads=value.get("uploads", None),
            dead_letters=value.get("dead_letters", None),
            migrated_from=value.get("migrated_from", None),
        )


class Outcome(NamedTuple):
    """The ledger: how one upload ended. Topic media.outcomes, key: upload id."""

    upload_id: str
    """The upload."""
    outcome: str
    """accepted, duplicate or rejected."""
    received_at_ms: int
    """Time of receipt, ms since 1970 UTC."""
    processed_at_ms: int
    """The worker's clock, ms since 1970 UTC."""
    body_bytes: int
    """Size of the stored bytes."""
    event_count: int
    """Accepted events, the added sessionComplete included."""
    analytics_calls: int
    """Records that it gave in media.analytics.calls."""
    reporting_rows: int
    """Records that it gave in media.reporting."""
    source_topic: str
    """Topic of the upload's record."""
    source_partition: int
    """Partition of the upload's record."""
    source_offset: int
    """Offset of the upload's record."""
    replay_id: str | None = None
    """The replay that this is the outcome of."""
    request_id: str = ""
    """The HTTP request that it came in."""
    datastream_id: str = ""
    """Its datastream; empty where none was found."""
    form: str = ""
    """Wire form: media_collection or media_edge; empty where undecodable."""
    reason: str | None = None
    """Why it was rejected (docs/errors.md)."""
    session_id: str | None = None
    """Its session, where the body is valid."""
    first_upload_id: str | None = None
    """The upload that counted the session, for a duplicate."""
    lateness_ms: int | None = None
    """Time of receipt minus the session's end, in ms; negative when the device's clock runs ahead."""
    day_changed: str | None = None
    """Key of the media.days.changed record that it gave."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> Outcome:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            upload_id=value["upload_id"],
            outcome=value["outcome"],
            received_at_ms=value["received_at_ms"],
            processed_at_ms=value["processed_at_ms"],
            body_bytes=value["body_bytes"],
            event_count=value["event_count"],
            analytics_calls=value["analytics_calls"],
            reporting_rows=value["reporting_rows"],
            source_topic=value["source_topic"],
            source_partition=value["source_partition"],
            source_offset=value["source_offset"],
            replay_id=value.get("replay_id", None),
            request_id=value.get("request_id", ""),
            datastream_id=value.get("datastream_id", ""),
            form=value.get("form", ""),
            reason=value.get("reason", None),
            session_id=value.get("session_id", None),
            first_upload_id=value.get("first_upload_id", None),
            lateness_ms=value.get("lateness_ms", None),
            day_changed=value.get("day_changed", None),
        )


class XdmIdentity(NamedTuple):
    """One item of identityMap."""

    id: str
    """The id."""
    authenticated_state: str = "ambiguous"
    """ambiguous, authenticated or loggedOut."""
    primary: bool = False
    """The primary identity."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> XdmIdentity:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            id=value["id"],
            authenticated_state=value.get("authenticated_state", "ambiguous"),
            primary=value.get("primary", False),
        )


XDM_IDENTITY_XDM: Final[dict[str, str]] = {
    "authenticatedState": "authenticated_state",
}


class Implementation(NamedTuple):
    """XDM implementationDetails."""

    name: str
    """Name of the SDK or endpoint (URI)."""
    version: str
    """Its version."""
    environment: str
    """browser, app, device, server or iot."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> Implementation:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            name=value["name"],
            version=value["version"],
            environment=value["environment"],
        )


class SessionDetails(NamedTuple):
    """XDM sessionDetails."""

    name: str | None = None
    """`media.id` / `name`, context a.media.name."""
    friendly_name: str | None = None
    """`media.name` / `friendlyName`, context a.media.friendlyName."""
    length: int | None = None
    """`media.length` / `length`, context a.media.length."""
    content_type: str | None = None
    """`media.contentType` / `contentType`, context a.contentType."""
    stream_type: str | None = None
    """`media.streamType` / `streamType`, context a.media.streamType."""
    player_name: str | None = None
    """`media.playerName` / `playerName`, context a.media.playerName."""
    channel: str | None = None
    """`media.channel` / `channel`, context a.media.channel."""
    app_version: str | None = None
    """`media.sdkVersion` / `appVersion`, context a.media.sdkVersion."""
    has_resume: bool | None = None
    """`media.resume` / `hasResume`, context a.media.resume."""
    is_downloaded: bool | None = None
    """`media.downloaded` / `isDownloaded`, context a.media.downloaded."""
    show: str | None = None
    """`media.show` / `show`, context a.media.show."""
    season: str | None = None
    """`media.season` / `season`, context a.media.season."""
    episode: str | None = None
    """`media.episode` / `episode`, context a.media.episode."""
    asset_id: str | None = None
    """`media.assetId` / `assetID`, context a.media.asset."""
    genre: str | None = None
    """`media.genre` / `genre`, context a.media.genre."""
    first_air_date: str | None = None
    """`media.firstAirDate` / `firstAirDate`, context a.media.airDate."""
    first_digital_date: str | None = None
    """`media.firstDigitalDate` / `firstDigitalDate`, context a.media.digitalDate."""
    rating: str | None = None
    """`media.rating` / `rating`, context a.media.rating."""
    originator: str | None = None
    """`media.originator` / `originator`, context a.media.originator."""
    network: str | None = None
    """`media.network` / `network`, context a.media.network."""
    show_type: str | None = None
    """`media.showType` / `showType`, context a.media.type."""
    ad_load: str | None = None
    """`media.adLoad` / `adLoad`, context a.media.adLoad."""
    mvpd: str | None = None
    """`media.pass.mvpd` / `mvpd`, context a.media.pass.mvpd."""
    authorized: str | None = None
    """`media.pass.auth` / `authorized`, context a.media.pass.auth."""
    day_part: str | None = None
    """`media.dayPart` / `dayPart`, context a.media.dayPart."""
    feed: str | None = None
    """`media.feed` / `feed`, context a.media.feed."""
    stream_format: str | None = None
    """`media.streamFormat` / `streamFormat`, context a.media.format."""
    artist: str | None = None
    """`media.artist` / `artist`, context a.media.artist."""
    album: str | None = None
    """`media.album` / `album`, context a.media.album."""
    label: str | None = None
    """`media.label` / `label`, context a.media.label."""
    author: str | None = None
    """`media.author` / `author`, context a.media.author."""
    station: str | None = None
    """`media.station` / `station`, context a.media.station."""
    publisher: str | None = None
    """`media.publisher` / `publisher`, context a.media.publisher."""
    cdn: str | None = None
    """`cdn` of Media Edge: the delivery network that served the content."""
    id: str | None = None
    """Session id."""
    genre_list: tuple[str, ...] | None = None
    """Genres, split at commas."""
    is_viewed: bool | None = None
    """Media start."""
    is_played: bool | None = None
    """Content start."""
    is_completed: bool | None = None
    """Completed by the client."""
    is_federated: bool | None = None
    """Federated data."""
    time_played: int | None = None
    """Content time spent, in seconds."""
    total_time_played: int | None = None
    """Media time spent, in seconds."""
    unique_time_played: int | None = None
    """Unique time played, in seconds."""
    average_minute_audience: float | None = None
    """Average minute audience."""
    ad_count: int | None = None
    """Ads."""
    chapter_count: int | None = None
    """Chapters."""
    has_progress10: bool | None = None
    """10 per cent reached."""
    has_progress25: bool | None = None
    """25 per cent reached."""
    has_progress50: bool | None = None
    """50 per cent reached."""
    has_progress75: bool | None = None
    """75 per cent reached."""
    has_progress95: bool | None = None
    """95 per cent reached."""
    estimated_streams: float | None = None
    """Estimated streams."""
    has_pause_impacted_streams: bool | None = None
    """At least one pause."""
    pause_count: int | None = None
    """Pauses."""
    pause_time: int | None = None
    """Pause time, in seconds."""
    has_segment_view: bool | None = None
    """Content segment view."""
    segment: str | None = None
    """Playhead range in minutes."""
    seconds_since_last_call: float | None = None
    """Seconds since the last call."""
    pev3: str | None = None
    """video, audio, videoAd or audioAd."""
    pccr: bool | None = None
    """Redirect marker: true after the start row."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> SessionDetails:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            name=value.get("name", None),
            friendly_name=value.get("friendly_name", None),
            length=value.get("length", None),
            content_type=value.get("content_type", None),
            stream_type=value.get("stream_type", None),
            player_name=value.get("player_name", None),
            channel=value.get("channel", None),
            app_version=value.get("app_version", None),
            has_resume=value.get("has_resume", None),
            is_downloaded=value.get("is_downloaded", None),
            show=value.get("show", None),
            season=value.get("season", None),
            episode=value.get("episode", None),
            asset_id=value.get("asset_id", None),
            genre=value.get("genre", None),
            first_air_date=value.get("first_air_date", None),
            first_digital_date=value.get("first_digital_date", None),
            rating=value.get("rating", None),
            originator=value.get("originator", None),
            network=value.get("network", None),
            show_type=value.get("show_type", None),
            ad_load=value.get("ad_load", None),
            mvpd=value.get("mvpd", None),
            authorized=value.get("authorized", None),
            day_part=value.get("day_part", None),
            feed=value.get("feed", None),
            stream_format=value.get("stream_format", None),
            artist=value.get("artist", None),
            album=value.get("album", None),
            label=value.get("label", None),
            author=value.get("author", None),
            station=value.get("station", None),
            publisher=value.get("publisher", None),
            cdn=value.get("cdn", None),
            id=value.get("id", None),
            genre_list=None if (got := value.get("genre_list", None)) is None else tuple(got),
            is_viewed=value.get("is_viewed", None),
            is_played=value.get("is_played", None),
            is_completed=value.get("is_completed", None),
            is_federated=value.get("is_federated", None),
            time_played=value.get("time_played", None),
            total_time_played=value.get("total_time_played", None),
            unique_time_played=value.get("unique_time_played", None),
            average_minute_audience=value.get("average_minute_audience", None),
            ad_count=value.get("ad_count", None),
            chapter_count=value.get("chapter_count", None),
            has_progress10=value.get("has_progress10", None),
            has_progress25=value.get("has_progress25", None),
            has_progress50=value.get("has_progress50", None),
            has_progress75=value.get("has_progress75", None),
            has_progress95=value.get("has_progress95", None),
            estimated_streams=value.get("estimated_streams", None),
            has_pause_impacted_streams=value.get("has_pause_impacted_streams", None),
            pause_count=value.get("pause_count", None),
            pause_time=value.get("pause_time", None),
            has_segment_view=value.get("has_segment_view", None),
            segment=value.get("segment", None),
            seconds_since_last_call=value.get("seconds_since_last_call", None),
            pev3=value.get("pev3", None),
            pccr=value.get("pccr", None),
        )


SESSION_DETAILS_XDM: Final[dict[str, str]] = {
    "name": "name",
    "friendlyName": "friendly_name",
    "length": "length",
    "contentType": "content_type",
    "streamType": "stream_type",
    "playerName": "player_name",
    "channel": "channel",
    "appVersion": "app_version",
    "hasResume": "has_resume",
    "isDownloaded": "is_downloaded",
    "show": "show",
    "season": "season",
    "episode": "episode",
    "assetID": "asset_id",
    "genre": "genre",
    "firstAirDate": "first_air_date",
    "firstDigitalDate": "first_digital_date",
    "rating": "rating",
    "originator": "originator",
    "network": "network",
    "showType": "show_type",
    "adLoad": "ad_load",
    "mvpd": "mvpd",
    "authorized": "authorized",
    "dayPart": "day_part",
    "feed": "feed",
    "streamFormat": "stream_format",
    "artist": "artist",
    "album": "album",
    "label": "label",
    "author": "author",
    "station": "station",
    "publisher": "publisher",
    "cdn": "cdn",
    "ID": "id",
    "genreList": "genre_list",
    "isViewed": "is_viewed",
    "isPlayed": "is_played",
    "isCompleted": "is_completed",
    "isFederated": "is_federated",
    "timePlayed": "time_played",
    "totalTimePlayed": "total_time_played",
    "uniqueTimePlayed": "unique_time_played",
    "averageMinuteAudience": "average_minute_audience",
    "adCount": "ad_count",
    "chapterCount": "chapter_count",
    "hasProgress10": "has_progress10",
    "hasProgress25": "has_progress25",
    "hasProgress50": "has_progress50",
    "hasProgress75": "has_progress75",
    "hasProgress95": "has_progress95",
    "estimatedStreams": "estimated_streams",
    "hasPauseImpactedStreams": "has_pause_impacted_streams",
    "pauseCount": "pause_count",
    "pauseTime": "pause_time",
    "hasSegmentView": "has_segment_view",
    "segment": "segment",
    "secondsSinceLastCall": "seconds_since_last_call",
    "pev3": "pev3",
    "pccr": "pccr",
}


class AdvertisingDetails(NamedTuple):
    """XDM advertisingDetails."""

    name: str | None = None
    """`media.ad.id` / `name`, context a.media.ad.name."""
    friendly_name: str | None = None
    """`media.ad.name` / `friendlyName`, context a.media.ad.friendlyName."""
    length: int | None = None
    """`media.ad.length` / `length`, context a.media.ad.length."""
    pod_position: int | None = None
    """`media.ad.podPosition` / `podPosition`, context a.media.ad.podPosition."""
    player_name: str | None = None
    """`media.ad.playerName` / `playerName`, context a.media.ad.playerName."""
    advertiser: str | None = None
    """`media.ad.advertiser` / `advertiser`, context a.media.ad.advertiser."""
    campaign_id: str | None = None
    """`media.ad.campaignId` / `campaignID`, context a.media.ad.campaign."""
    creative_id: str | None = None
    """`media.ad.creativeId` / `creativeID`, context a.media.ad.creative."""
    creative_url: str | None = None
    """`media.ad.creativeURL` / `creativeURL`, context a.media.ad.creativeURL."""
    placement_id: str | None = None
    """`media.ad.placementId` / `placementID`, context a.media.ad.placement."""
    site_id: str | None = None
    """`media.ad.siteId` / `siteID`, context a.media.ad.site."""
    is_started: bool | None = None
    """Ad start."""
    is_completed: bool | None = None
    """Ad complete."""
    time_played: int | None = None
    """Play time, in seconds."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> AdvertisingDetails:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            name=value.get("name", None),
            friendly_name=value.get("friendly_name", None),
            length=value.get("length", None),
            pod_position=value.get("pod_position", None),
            player_name=value.get("player_name", None),
            advertiser=value.get("advertiser", None),
            campaign_id=value.get("campaign_id", None),
            creative_id=value.get("creative_id", None),
            creative_url=value.get("creative_url", None),
            placement_id=value.get("placement_id", None),
            site_id=value.get("site_id", None),
            is_started=value.get("is_started", None),
            is_completed=value.get("is_completed", None),
            time_played=value.get("time_played", None),
        )


ADVERTISING_DETAILS_XDM: Final[dict[str, str]] = {
    "name": "name",
    "friendlyName": "friendly_name",
    "length": "length",
    "podPosition": "pod_position",
    "playerName": "player_name",
    "advertiser": "advertiser",
    "campaignID": "campaign_id",
    "creativeID": "creative_id",
    "creativeURL": "creative_url",
    "placementID": "placement_id",
    "siteID": "site_id",
    "isStarted": "is_started",
    "isCompleted": "is_completed",
    "timePlayed": "time_played",
}


class AdvertisingPodDetails(NamedTuple):
    """XDM advertisingPodDetails."""

    index: int | None = None  # type: ignore[assignment]  # hides the tuple's method, which nobody calls on a record
    """`media.ad.podIndex` / `index`."""
    offset: int | None = None
    """`media.ad.podSecond` / `offset`, context a.media.ad.podSecond."""
    friendly_name: str | None = None
    """`media.ad.podFriendlyName` / `friendlyName`, context a.media.ad.podFriendlyName."""
    id: str | None = None
    """Pod id."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> AdvertisingPodDetails:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            index=value.get("index", None),
            offset=value.get("offset", None),
            friendly_name=value.get("friendly_name", None),
            id=value.get("id", None),
        )


ADVERTISING_POD_DETAILS_XDM: Final[dict[str, str]] = {
    "index": "index",
    "offset": "offset",
    "friendlyName": "friendly_name",
    "ID": "id",
}


class ChapterDetails(NamedTuple):
    """XDM chapterDetails."""

    index: int | None = None  # type: ignore[assignment]  # hides the tuple's method, which nobody calls on a record
    """`media.chapter.index` / `index`, context a.media.chapter.position."""
    offset: int | None = None
    """`media.chapter.offset` / `offset`, context a.media.chapter.offset."""
    length: int | None = None
    """`media.chapter.length` / `length`, context a.media.chapter.length."""
    friendly_name: str | None = None
    """`media.chapter.friendlyName` / `friendlyName`, context a.media.chapter.friendlyName."""
    id: str | None = None
    """Chapter id."""
    is_started: bool | None = None
    """Chapter start."""
    is_completed: bool | None = None
    """Chapter complete."""
    time_played: int | None = None
    """Content time, in seconds."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> ChapterDetails:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            index=value.get("index", None),
            offset=value.get("offset", None),
            length=value.get("length", None),
            friendly_name=value.get("friendly_name", None),
            id=value.get("id", None),
            is_started=value.get("is_started", None),
            is_completed=value.get("is_completed", None),
            time_played=value.get("time_played", None),
        )


CHAPTER_DETAILS_XDM: Final[dict[str, str]] = {
    "index": "index",
    "offset": "offset",
    "length": "length",
    "friendlyName": "friendly_name",
    "ID": "id",
    "isStarted": "is_started",
    "isCompleted": "is_completed",
    "timePlayed": "time_played",
}


class QoeDataDetails(NamedTuple):
    """XDM qoeDataDetails."""

    bitrate: int | None = None
    """Bitrate."""
    dropped_frames: int | None = None
    """Dropped frames."""
    frames_per_second: int | None = None
    """Frames per second."""
    time_to_start: int | None = None
    """Time to start, in seconds."""
    bitrate_average: float | None = None
    """Average bitrate, in kbps."""
    bitrate_average_bucket: str | None = None
    """Its bucket."""
    bitrate_change_count: int | None = None
    """Bitrate changes."""
    has_bitrate_change_impacted_streams: bool | None = None
    """At least one bitrate change."""
    has_dropped_frame_impacted_streams: bool | None = None
    """Frames were dropped."""
    is_dropped_before_start: bool | None = None
    """Dropped before start."""
    buffer_count: int | None = None
    """Buffer events."""
    buffer_time: int | None = None
    """Buffer time, in seconds."""
    has_buffer_impacted_streams: bool | None = None
    """At least one buffer event."""
    error_count: int | None = None
    """Errors."""
    has_error_impacted_streams: bool | None = None
    """At least one error."""
    stall_count: int | None = None
    """Stalls."""
    stall_time: int | None = None
    """Stall time, in seconds."""
    has_stall_impacted_streams: bool | None = None
    """At least one stall."""
    player_sdk_errors: tuple[str, ...] | None = None
    """Errors of source player."""
    external_errors: tuple[str, ...] | None = None
    """Errors of source external."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> QoeDataDetails:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            bitrate=value.get("bitrate", None),
            dropped_frames=value.get("dropped_frames", None),
            frames_per_second=value.get("frames_per_second", None),
            time_to_start=value.get("time_to_start", None),
            bitrate_average=value.get("bitrate_average", None),
            bitrate_average_bucket=value.get("bitrate_average_bucket", None),
            bitrate_change_count=value.get("bitrate_change_count", None),
            has_bitrate_change_impacted_streams=value.get("has_bitrate_change_impacted_streams", None),
            has_dropped_frame_impacted_streams=value.get("has_dropped_frame_impacted_streams", None),
            is_dropped_before_start=value.get("is_dropped_before_start", None),
            buffer_count=value.get("buffer_count", None),
            buffer_time=value.get("buffer_time", None),
            has_buffer_impacted_streams=value.get("has_buffer_impacted_streams", None),
            error_count=value.get("error_count", None),
            has_error_impacted_streams=value.get("has_error_impacted_streams", None),
            stall_count=value.get("stall_count", None),
            stall_time=value.get("stall_time", None),
            has_stall_impacted_streams=value.get("has_stall_impacted_streams", None),
            player_sdk_errors=None if (got := value.get("player_sdk_errors", None)) is None else tuple(got),
            external_errors=None if (got := value.get("external_errors", None)) is None else tuple(got),
        )


QOE_DATA_DETAILS_XDM: Final[dict[str, str]] = {
    "bitrate": "bitrate",
    "droppedFrames": "dropped_frames",
    "framesPerSecond": "frames_per_second",
    "timeToStart": "time_to_start",
    "bitrateAverage": "bitrate_average",
    "bitrateAverageBucket": "bitrate_average_bucket",
    "bitrateChangeCount": "bitrate_change_count",
    "hasBitrateChangeImpactedStreams": "has_bitrate_change_impacted_streams",
    "hasDroppedFrameImpactedStreams": "has_dropped_frame_impacted_streams",
    "isDroppedBeforeStart": "is_dropped_before_start",
    "bufferCount": "buffer_count",
    "bufferTime": "buffer_time",
    "hasBufferImpactedStreams": "has_buffer_impacted_streams",
    "errorCount": "error_count",
    "hasErrorImpactedStreams": "has_error_impacted_streams",
    "stallCount": "stall_count",
    "stallTime": "stall_time",
    "hasStallImpactedStreams": "has_stall_impacted_streams",
    "playerSdkErrors": "player_sdk_errors",
    "externalErrors": "external_errors",
}


class XdmState(NamedTuple):
    """One player state."""

    name: str
    """Its name."""
    count: int  # type: ignore[assignment]  # hides the tuple's method, which nobody calls on a record
    """How often."""
    time: int
    """Wall clock time, in seconds."""
    is_set: bool = True
    """It was entered."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> XdmState:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            name=value["name"],
            count=value["count"],
            time=value["time"],
            is_set=value.get("is_set", True),
        )


XDM_STATE_XDM: Final[dict[str, str]] = {
    "isSet": "is_set",
}


class CustomMetadata(NamedTuple):
    """One pair of customMetadata."""

    name: str
    """Key."""
    value: str
    """Value."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> CustomMetadata:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            name=value["name"],
            value=value["value"],
        )


class MediaReporting(NamedTuple):
    """XDM mediaReporting."""

    playhead: int | None = None
    """Playhead of the event, in seconds."""
    session_details: SessionDetails | None = None
    """The session."""
    advertising_details: AdvertisingDetails | None = None
    """The ad."""
    advertising_pod_details: AdvertisingPodDetails | None = None
    """Its break."""
    chapter_details: ChapterDetails | None = None
    """The chapter."""
    qoe_data_details: QoeDataDetails | None = None
    """Quality of the session."""
    states: tuple[XdmState, ...] | None = None
    """Player states."""
    custom_metadata: tuple[CustomMetadata, ...] | None = None
    """Custom metadata, session items merged in."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> MediaReporting:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            playhead=value.get("playhead", None),
            session_details=None
            if (got := value.get("session_details", None)) is None
            else SessionDetails.from_avro(got),
            advertising_details=None
            if (got := value.get("advertising_details", None)) is None
            else AdvertisingDetails.from_avro(got),
            advertising_pod_details=None
            if (got := value.get("advertising_pod_details", None)) is None
            else AdvertisingPodDetails.from_avro(got),
            chapter_details=None
            if (got := value.get("chapter_details", None)) is None
            else ChapterDetails.from_avro(got),
            qoe_data_details=None
            if (got := value.get("qoe_data_details", None)) is None
            else QoeDataDetails.from_avro(got),
            states=None
            if (got := value.get("states", None)) is None
            else tuple(XdmState.from_avro(item) for item in got),
            custom_metadata=None
            if (got := value.get("custom_metadata", None)) is None
            else tuple(CustomMetadata.from_avro(item) for item in got),
        )


MEDIA_REPORTING_XDM: Final[dict[str, str]] = {
    "playhead": "playhead",
    "sessionDetails": "session_details",
    "advertisingDetails": "advertising_details",
    "advertisingPodDetails": "advertising_pod_details",
    "chapterDetails": "chapter_details",
    "qoeDataDetails": "qoe_data_details",
    "states": "states",
    "customMetadata": "custom_metadata",
}


class ReportingRow(NamedTuple):
    """One XDM reporting row. Topic media.reporting, key: session id. `xdm` beside a field is its XDM name."""

    session_id: str
    """The session."""
    revision: int
    """Its revision."""
    sequence: int
    """Position among the rows of the session, from 0."""
    row_id: str
    """XDM _id: session id, revision and sequence."""
    upload_id: str
    """The upload that it derives from."""
    datastream_id: str
    """The tenant."""
    event_type: str
    """media.sessionStart, media.adStart, media.adComplete, media.chapterComplete or media.sessionComplete."""
    timestamp_ms: int
    """Device time of its event, ms since 1970 UTC."""
    identity_map: Mapping[str, tuple[XdmIdentity, ...]]
    """XDM identityMap by namespace, ECID added."""
    implementation: Implementation
    """XDM implementationDetails."""
    media_reporting: MediaReporting
    """The row."""
    tenant_fields: Mapping[str, str] = {}
    """Custom metadata of the tenant by its path, for example `_acme.crew.lead`: unfolded at the root of an XDM row."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> ReportingRow:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            session_id=value["session_id"],
            revision=value["revision"],
            sequence=value["sequence"],
            row_id=value["row_id"],
            upload_id=value["upload_id"],
            datastream_id=value["datastream_id"],
            event_type=value["event_type"],
            timestamp_ms=value["timestamp_ms"],
            identity_map={
                key: tuple(XdmIdentity.from_avro(item) for item in items)
                for key, items in value["identity_map"].items()
            },
            implementation=Implementation.from_avro(value["implementation"]),
            media_reporting=MediaReporting.from_avro(value["media_reporting"]),
            tenant_fields=value.get("tenant_fields", {}),
        )


class Dimensions(NamedTuple):
    """Session details as sent; the names are those of XDM in snake_case."""

    name: str | None = None
    """`media.id` / `name`, context a.media.name."""
    friendly_name: str | None = None
    """`media.name` / `friendlyName`, context a.media.friendlyName."""
    length: float | None = None
    """`media.length` / `length`, context a.media.length."""
    content_type: str | None = None
    """`media.contentType` / `contentType`, context a.contentType."""
    stream_type: str | None = None
    """`media.streamType` / `streamType`, context a.media.streamType."""
    player_name: str | None = None
    """`media.playerName` / `playerName`, context a.media.playerName."""
    channel: str | None = None
    """`media.channel` / `channel`, context a.media.channel."""
    app_version: str | None = None
    """`media.sdkVersion` / `appVersion`, context a.media.sdkVersion."""
    library_version: str | None = None
    """`media.libraryVersion` / `libraryVersion`, context a.media.vhlVersion."""
    has_resume: bool | None = None
    """`media.resume` / `hasResume`, context a.media.resume."""
    is_downloaded: bool | None = None
    """`media.downloaded` / `isDownloaded`, context a.media.downloaded."""
    show: str | None = None
    """`media.show` / `show`, context a.media.show."""
    season: str | None = None
    """`media.season` / `season`, context a.media.season."""
    episode: str | None = None
    """`media.episode` / `episode`, context a.media.episode."""
    asset_id: str | None = None
    """`media.assetId` / `assetID`, context a.media.asset."""
    genre: str | None = None
    """`media.genre` / `genre`, context a.media.genre."""
    first_air_date: str | None = None
    """`media.firstAirDate` / `firstAirDate`, context a.media.airDate."""
    first_digital_date: str | None = None
    """`media.firstDigitalDate` / `firstDigitalDate`, context a.media.digitalDate."""
    rating: str | None = None
    """`media.rating` / `rating`, context a.media.rating."""
    originator: str | None = None
    """`media.originator` / `originator`, context a.media.originator."""
    network: str | None = None
    """`media.network` / `network`, context a.media.network."""
    show_type: str | None = None
    """`media.showType` / `showType`, context a.media.type."""
    ad_load: str | None = None
    """`media.adLoad` / `adLoad`, context a.media.adLoad."""
    mvpd: str | None = None
    """`media.pass.mvpd` / `mvpd`, context a.media.pass.mvpd."""
    authorized: str | None = None
    """`media.pass.auth` / `authorized`, context a.media.pass.auth."""
    day_part: str | None = None
    """`media.dayPart` / `dayPart`, context a.media.dayPart."""
    feed: str | None = None
    """`media.feed` / `feed`, context a.media.feed."""
    stream_format: str | None = None
    """`media.streamFormat` / `streamFormat`, context a.media.format."""
    artist: str | None = None
    """`media.artist` / `artist`, context a.media.artist."""
    album: str | None = None
    """`media.album` / `album`, context a.media.album."""
    label: str | None = None
    """`media.label` / `label`, context a.media.label."""
    author: str | None = None
    """`media.author` / `author`, context a.media.author."""
    station: str | None = None
    """`media.station` / `station`, context a.media.station."""
    publisher: str | None = None
    """`media.publisher` / `publisher`, context a.media.publisher."""
    cdn: str | None = None
    """`cdn` of Media Edge: the delivery network that served the content."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> Dimensions:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            name=value.get("name", None),
            friendly_name=value.get("friendly_name", None),
            length=value.get("length", None),
            content_type=value.get("content_type", None),
            stream_type=value.get("stream_type", None),
            player_name=value.get("player_name", None),
            channel=value.get("channel", None),
            app_version=value.get("app_version", None),
            library_version=value.get("library_version", None),
            has_resume=value.get("has_resume", None),
            is_downloaded=value.get("is_downloaded", None),
            show=value.get("show", None),
            season=value.get("season", None),
            episode=value.get("episode", None),
            asset_id=value.get("asset_id", None),
            genre=value.get("genre", None),
            first_air_date=value.get("first_air_date", None),
            first_digital_date=value.get("first_digital_date", None),
            rating=value.get("rating", None),
            originator=value.get("originator", None),
            network=value.get("network", None),
            show_type=value.get("show_type", None),
            ad_load=value.get("ad_load", None),
            mvpd=value.get("mvpd", None),
            authorized=value.get("authorized", None),
            day_part=value.get("day_part", None),
            feed=value.get("feed", None),
            stream_format=value.get("stream_format", None),
            artist=value.get("artist", None),
            album=value.get("album", None),
            label=value.get("label", None),
            author=value.get("author", None),
            station=value.get("station", None),
            publisher=value.get("publisher", None),
            cdn=value.get("cdn", None),
        )


DIMENSIONS_XDM: Final[dict[str, str]] = {
    "name": "name",
    "friendlyName": "friendly_name",
    "length": "length",
    "contentType": "content_type",
    "streamType": "stream_type",
    "playerName": "player_name",
    "channel": "channel",
    "appVersion": "app_version",
    "libraryVersion": "library_version",
    "hasResume": "has_resume",
    "isDownloaded": "is_downloaded",
    "show": "show",
    "season": "season",
    "episode": "episode",
    "assetID": "asset_id",
    "genre": "genre",
    "firstAirDate": "first_air_date",
    "firstDigitalDate": "first_digital_date",
    "rating": "rating",
    "originator": "originator",
    "network": "network",
    "showType": "show_type",
    "adLoad": "ad_load",
    "mvpd": "mvpd",
    "authorized": "authorized",
    "dayPart": "day_part",
    "feed": "feed",
    "streamFormat": "stream_format",
    "artist": "artist",
    "album": "album",
    "label": "label",
    "author": "author",
    "station": "station",
    "publisher": "publisher",
    "cdn": "cdn",
}


class Ad(NamedTuple):
    """One ad that started inside a break, from start to close."""

    sequence: int
    """Sequence of its adStart."""
    closed_sequence: int
    """Sequence of the event that closed it."""
    pod_id: str
    """md5(content id)_index of its break."""
    started_at_ms: int
    """Device time of the start, ms since 1970 UTC."""
    closed_at_ms: int
    """Device time of the close, ms since 1970 UTC."""
    is_completed: bool
    """adComplete came."""
    closed_by: str
    """complete, skip, adStart, adBreakStart, adBreakComplete or end."""
    name: str | None = None
    """`media.ad.id` / `name`, context a.media.ad.name."""
    friendly_name: str | None = None
    """`media.ad.name` / `friendlyName`, context a.media.ad.friendlyName."""
    length: float | None = None
    """`media.ad.length` / `length`, context a.media.ad.length."""
    pod_position: int | None = None
    """`media.ad.podPosition` / `podPosition`, context a.media.ad.podPosition."""
    player_name: str | None = None
    """`media.ad.playerName` / `playerName`, context a.media.ad.playerName."""
    advertiser: str | None = None
    """`media.ad.advertiser` / `advertiser`, context a.media.ad.advertiser."""
    campaign_id: str | None = None
    """`media.ad.campaignId` / `campaignID`, context a.media.ad.campaign."""
    creative_id: str | None = None
    """`media.ad.creativeId` / `creativeID`, context a.media.ad.creative."""
    creative_url: str | None = None
    """`media.ad.creativeURL` / `creativeURL`, context a.media.ad.creativeURL."""
    placement_id: str | None = None
    """`media.ad.placementId` / `placementID`, context a.media.ad.placement."""
    site_id: str | None = None
    """`media.ad.siteId` / `siteID`, context a.media.ad.site."""
    pod_index: int | None = None
    """`media.ad.podIndex`."""
    pod_offset_s: float | None = None
    """`media.ad.podSecond`."""
    pod_friendly_name: str | None = None
    """`media.ad.podFriendlyName`."""
    custom_metadata: Mapping[str, str] = {}
    """customMetadata of the adStart."""
    time_spent_ms: int = 0
    """Play time inside the ad, in ms."""
    time_spent_s: int = 0
    """Play time inside the ad, in seconds, rounded half up once."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> Ad:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            sequence=value["sequence"],
            closed_sequence=value["closed_sequence"],
            pod_id=value["pod_id"],
            started_at_ms=value["started_at_ms"],
            closed_at_ms=value["closed_at_ms"],
            is_completed=value["is_completed"],
            closed_by=value["closed_by"],
            name=value.get("name", None),
            friendly_name=value.get("friendly_name", None),
            length=value.get("length", None),
            pod_position=value.get("pod_position", None),
            player_name=value.get("player_name", None),
            advertiser=value.get("advertiser", None),
            campaign_id=value.get("campaign_id", None),
            creative_id=value.get("creative_id", None),
            creative_url=value.get("creative_url", None),
            placement_id=value.get("placement_id", None),
            site_id=value.get("site_id", None),
            pod_index=value.get("pod_index", None),
            pod_offset_s=value.get("pod_offset_s", None),
            pod_friendly_name=value.get("pod_friendly_name", None),
            custom_metadata=value.get("custom_metadata", {}),
            time_spent_ms=value.get("time_spent_ms", 0),
            time_spent_s=value.get("time_spent_s", 0),
        )


AD_XDM: Final[dict[str, str]] = {
    "name": "name",
    "friendlyName": "friendly_name",
    "length": "length",
    "podPosition": "pod_position",
    "playerName": "player_name",
    "advertiser": "advertiser",
    "campaignID": "campaign_id",
    "creativeID": "creative_id",
    "creativeURL": "creative_url",
    "placementID": "placement_id",
    "siteID": "site_id",
}


class Chapter(NamedTuple):
    """One chapter, from start to close."""

    sequence: int
    """Sequence of its chapterStart."""
    closed_sequence: int
    """Sequence of the event that closed it."""
    chapter_id: str
    """md5(content id)_index of the chapter."""
    started_at_ms: int
    """Device time of the start, ms since 1970 UTC."""
    closed_at_ms: int
    """Device time of the close, ms since 1970 UTC."""
    is_completed: bool
    """chapterComplete came."""
    closed_by: str
    """complete, skip, chapterStart or end."""
    index: int | None = None  # type: ignore[assignment]  # hides the tuple's method, which nobody calls on a record
    """`media.chapter.index` / `index`, context a.media.chapter.position."""
    offset: float | None = None
    """`media.chapter.offset` / `offset`, context a.media.chapter.offset."""
    length: float | None = None
    """`media.chapter.length` / `length`, context a.media.chapter.length."""
    friendly_name: str | None = None
    """`media.chapter.friendlyName` / `friendlyName`, context a.media.chapter.friendlyName."""
    custom_metadata: Mapping[str, str] = {}
    """customMetadata of the chapterStart."""
    time_spent_ms: int = 0
    """Content time spent inside the chapter, in ms."""
    time_spent_s: int = 0
    """Content time spent inside the chapter, in seconds, rounded half up once."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> Chapter:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            sequence=value["sequence"],
            closed_sequence=value["closed_sequence"],
            chapter_id=value["chapter_id"],
            started_at_ms=value["started_at_ms"],
            closed_at_ms=value["closed_at_ms"],
            is_completed=value["is_completed"],
            closed_by=value["closed_by"],
            index=value.get("index", None),
            offset=value.get("offset", None),
            length=value.get("length", None),
            friendly_name=value.get("friendly_name", None),
            custom_metadata=value.get("custom_metadata", {}),
            time_spent_ms=value.get("time_spent_ms", 0),
            time_spent_s=value.get("time_spent_s", 0),
        )


CHAPTER_XDM: Final[dict[str, str]] = {
    "index": "index",
    "offset": "offset",
    "length": "length",
    "friendlyName": "friendly_name",
}


class TimeLedger(NamedTuple):
    """The times of a session and what is doubtful about them; nothing is shifted."""

    started_at_ms: int
    """Device time of the first event, ms since 1970 UTC."""
    ended_at_ms: int
    """Device time of the last event (running maximum), ms since 1970 UTC."""
    received_at_ms: int
    """Time of receipt by the door's clock, ms since 1970 UTC."""
    lateness_ms: int
    """received - ended, by two clocks, in ms."""
    viewing_day: str
    """YYYY-MM-DD of the start in the datastream's time zone."""
    is_late_day: bool
    """Received after the viewing day had ended there."""
    sent_at_ms: int | None = None
    """Device time of the upload, where it sends one, ms since 1970 UTC."""
    skew_ms: int | None = None
    """received - sent: upper bound of how far the device's clock lags, in ms."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> TimeLedger:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            started_at_ms=value["started_at_ms"],
            ended_at_ms=value["ended_at_ms"],
            received_at_ms=value["received_at_ms"],
            lateness_ms=value["lateness_ms"],
            viewing_day=value["viewing_day"],
            is_late_day=value["is_late_day"],
            sent_at_ms=value.get("sent_at_ms", None),
            skew_ms=value.get("skew_ms", None),
        )


class MediaSession(NamedTuple):
    """One closed session with every metric. Topic media.sessions, key: session id; the highest revision counts."""

    session_id: str
    """64 lower-case hex digits; the key everywhere."""
    revision: int
    """1, until a replay under other rules supersedes it."""
    upload_id: str
    """The upload that made this revision."""
    datastream_id: str
    """The tenant."""
    form: str
    """Wire form: media_collection or media_edge."""
    organisation: str
    """Experience Cloud organisation."""
    report_suites: tuple[str, ...]
    """Report suites that its calls go to."""
    visitor_key: str
    """Key of the upload and of the calls."""
    visitor: Visitor
    """Who watched."""
    implementation: Implementation
    """What sent it."""
    dimensions: Dimensions
    """What was watched."""
    metrics: SessionMetrics
    """Every number of the session."""
    ads: tuple[Ad, ...]
    """Its ads in order of start."""
    chapters: tuple[Chapter, ...]
    """Its chapters in order of start."""
    event_count: int
    """Accepted events, the added sessionComplete included."""
    time_ledger: TimeLedger
    """Its times."""
    flags: tuple[str, ...]
    """Soft problems, sorted (docs/flags.md)."""
    replay_id: str | None = None
    """The replay that made this revision."""
    custom_metadata: Mapping[str, str] = {}
    """customMetadata of the sessionStart."""
    is_downloaded: bool = True
    """True: this pipeline takes downloaded content only."""
    complete_added: bool = False
    """The client sent no sessionComplete; it was added."""
    context_data: Mapping[str, str] = {}
    """contextData of a Media Edge upload, as sent."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> MediaSession:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            session_id=value["session_id"],
            revision=value["revision"],
            upload_id=value["upload_id"],
            datastream_id=value["datastream_id"],
            form=value["form"],
            organisation=value["organisation"],
            report_suites=tuple(value["report_suites"]),
            visitor_key=value["visitor_key"],
            visitor=Visitor.from_avro(value["visitor"]),
            implementation=Implementation.from_avro(value["implementation"]),
            dimensions=Dimensions.from_avro(value["dimensions"]),
            metrics=SessionMetrics.from_avro(value["metrics"]),
            ads=tuple(Ad.from_avro(item) for item in value["ads"]),
            chapters=tuple(Chapter.from_avro(item) for item in value["chapters"]),
            event_count=value["event_count"],
            time_ledger=TimeLedger.from_avro(value["time_ledger"]),
            flags=tuple(value["flags"]),
            replay_id=value.get("replay_id", None),
            custom_metadata=value.get("custom_metadata", {}),
            is_downloaded=value.get("is_downloaded", True),
            complete_added=value.get("complete_added", False),
            context_data=value.get("context_data", {}),
        )


class Problem(NamedTuple):
    """One problem of a body, with its place."""

    pointer: str
    """JSON Pointer from the array root (Media Collection) or JSONPath (Media Edge)."""
    rule: str
    """Name of the rule that was broken."""
    message: str
    """What is wrong, for people."""
    index: int | None = None  # type: ignore[assignment]  # hides the tuple's method, which nobody calls on a record
    """Position of the event in the body, where one is meant."""
    event_type: str | None = None
    """Its event type, as sent."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> Problem:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            pointer=value["pointer"],
            rule=value["rule"],
            message=value["message"],
            index=value.get("index", None),
            event_type=value.get("event_type", None),
        )


class Upload(NamedTuple):
    """One upload as the front door stored it: its verdict and the original bytes. Topic media.uploads, key: visitor key."""

    upload_id: str
    """Id of this upload, given at the door (UUID)."""
    request_id: str
    """Id of the HTTP request that it came in."""
    received_at_ms: int
    """Time of receipt by the door's clock, ms since 1970 UTC."""
    form: str
    """Wire form: media_collection or media_edge."""
    path: str
    """The documented path that it was sent to, without prefix or location hint."""
    datastream_id: str
    """The datastream that the door chose; empty where none was found."""
    content_type: str
    """Content-Type as sent."""
    verdict: str
    """accepted or rejected, as the door judged."""
    status: int
    """HTTP status that this upload was worth."""
    problems: tuple[Problem, ...]
    """Every problem that the door found."""
    body: bytes
    """The original bytes, content coding undone where that was possible."""
    event_index: int | None = None
    """Position in events[] of its Media Edge request; null for a whole body."""
    content_encoding: str | None = None
    """Content-Encoding as sent, where one was."""
    user_agent: str | None = None
    """User-Agent as sent."""
    client_ip: str | None = None
    """Client address, where storing it is switched on."""
    reason: str | None = None
    """Why it was rejected (docs/errors.md); null when accepted."""
    truncated: bool = False
    """The body was larger than the limit; `body` holds what arrived up to it."""
    session_id: str | None = None
    """Session id as the door computed it, where the body is valid."""
    replay_id: str | None = None
    """Id of the replay that put this record here; null for a device's own upload."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> Upload:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            upload_id=value["upload_id"],
            request_id=value["request_id"],
            received_at_ms=value["received_at_ms"],
            form=value["form"],
            path=value["path"],
            datastream_id=value["datastream_id"],
            content_type=value["content_type"],
            verdict=value["verdict"],
            status=value["status"],
            problems=tuple(Problem.from_avro(item) for item in value["problems"]),
            body=value["body"],
            event_index=value.get("event_index", None),
            content_encoding=value.get("content_encoding", None),
            user_agent=value.get("user_agent", None),
            client_ip=value.get("client_ip", None),
            reason=value.get("reason", None),
            truncated=value.get("truncated", False),
            session_id=value.get("session_id", None),
            replay_id=value.get("replay_id", None),
        )


class Header(NamedTuple):
    """One header of a Kafka record."""

    name: str
    """Its name."""
    value: bytes
    """Its value."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> Header:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            name=value["name"],
            value=value["value"],
        )


class DeadLetter(NamedTuple):
    """An upload that was rejected: original bytes and every reason. Topic media.uploads.dlq, key: upload id."""

    upload_id: str
    """The upload."""
    reason: str
    """Why it was rejected (docs/errors.md)."""
    problems: tuple[Problem, ...]
    """Every problem with its pointer."""
    received_at_ms: int
    """Time of receipt, ms since 1970 UTC."""
    rejected_at_ms: int
    """The worker's clock, ms since 1970 UTC."""
    source_topic: str
    """Topic of the upload's record."""
    source_partition: int
    """Partition of the upload's record."""
    source_offset: int
    """Offset of the upload's record."""
    source_key: bytes
    """Key of the upload's record."""
    replay_id: str | None = None
    """The replay that ended here."""
    fault: str | None = None
    """The unexpected exception behind internal_error."""
    session_id: str | None = None
    """Its session, where the body is valid."""
    headers: tuple[Header, ...] = ()
    """Headers of the upload's record."""
    form: str = ""
    """Wire form; empty where the record was undecodable."""
    path: str = ""
    """The documented path that it was sent to."""
    event_index: int | None = None
    """Position in events[] of its Media Edge request."""
    datastream_id: str = ""
    """The datastream that the door chose."""
    content_type: str = ""
    """Content-Type as sent."""
    content_encoding: str | None = None
    """Content-Encoding as sent."""
    truncated: bool = False
    """`body` is not whole: it holds what arrived up to the limit, or what the topic takes."""
    body: bytes = b""
    """The original bytes; the whole value of the record where it was undecodable."""

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> DeadLetter:
        """Return the record that fastavro read, or raise KeyError."""
        return cls(
            upload_id=value["upload_id"],
            reason=value["reason"],
            problems=tuple(Problem.from_avro(item) for item in value["problems"]),
            received_at_ms=value["received_at_ms"],
            rejected_at_ms=value["rejected_at_ms"],
            source_topic=value["source_topic"],
            source_partition=value["source_partition"],
            source_offset=value["source_offset"],
            source_key=value["source_key"],
            replay_id=value.get("replay_id", None),
            fault=value.get("fault", None),
            session_id=value.get("session_id", None),
            headers=tuple(Header.from_avro(item) for item in value.get("headers", [])),
            form=value.get("form", ""),
            path=value.get("path", ""),
            event_index=value.get("event_index", None),
            datastream_id=value.get("datastream_id", ""),
            content_type=value.get("content_type", ""),
            content_encoding=value.get("content_encoding", None),
            truncated=value.get("truncated", False),
            body=value.get("body", b""),
        )
