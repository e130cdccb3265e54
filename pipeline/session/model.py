"""The canonical session: what both wire forms become, before anything is computed from it.

Times are integers in milliseconds since 1970, UTC, by the device's clock (`occurred_at_ms`).
Playheads are seconds of content, as sent. Details are small mappings keyed by the XDM member name
(`fields.py` holds the table that maps Media Collection params, XDM members and context variables).
Everything here is immutable by convention and by type; nothing here reads a clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

Scalar = str | int | float | bool
Details = Mapping[str, Scalar]

NO_DETAILS: Final[Details] = {}


class Form(StrEnum):
    """The wire form that an upload came in."""

    MEDIA_COLLECTION = "media_collection"
    MEDIA_EDGE = "media_edge"


class Kind(StrEnum):
    """The 18 canonical event types (`spec/media-edge.md` 1.3).

    Media Collection's `stateStart` and `stateEnd` become `statesUpdate` with one name.
    """

    __hash__ = str.__hash__  # Enum's own is Python code, and the tables of the hot path are keyed by it

    SESSION_START = "sessionStart"
    PLAY = "play"
    PING = "ping"
    PAUSE_START = "pauseStart"
    BUFFER_START = "bufferStart"
    BITRATE_CHANGE = "bitrateChange"
    AD_BREAK_START = "adBreakStart"
    AD_BREAK_COMPLETE = "adBreakComplete"
    AD_START = "adStart"
    AD_COMPLETE = "adComplete"
    AD_SKIP = "adSkip"
    CHAPTER_START = "chapterStart"
    CHAPTER_COMPLETE = "chapterComplete"
    CHAPTER_SKIP = "chapterSkip"
    STATES_UPDATE = "statesUpdate"
    ERROR = "error"
    SESSION_COMPLETE = "sessionComplete"
    SESSION_END = "sessionEnd"


class Qoe(NamedTuple):
    """Quality values that came with one event; `None` is "not sent with this event".

    `time_to_start_ms` is in ms for both forms (Edge sends seconds; `spec/media-collection.md` 6.15).
    `bitrate` is as sent; its unit is a rule of the datastream. Fractions are kept as sent.
    """

    bitrate: float | None = None
    dropped_frames: float | None = None
    frames_per_second: float | None = None
    time_to_start_ms: float | None = None


class Event(NamedTuple):
    """One event of a session, in the order of the upload.

    `details` holds what its kind needs: sessionDetails, advertisingPodDetails, advertisingDetails,
    chapterDetails or errorDetails (`name`, `source`) members; empty for the others.
    """

    kind: Kind
    occurred_at_ms: int
    playhead_s: float
    details: Details = NO_DETAILS
    qoe: Qoe | None = None
    custom_metadata: Mapping[str, str] | None = None
    states_started: tuple[str, ...] = ()
    states_ended: tuple[str, ...] = ()
    utc_offset_min: int | None = None
    """The UTC offset that an Edge event was sent with, in minutes; `None` on Media Collection."""
    unknown: Mapping[str, object] | None = None
    """Members and params that neither API documents, by their place in the event (DESIGN.md 6.1).

    Also values that another place of the event overrules; with the first event those around it, too."""


class Identity(NamedTuple):
    """One identity of a visitor; `auth_state` is 0 ambiguous, 1 authenticated, 2 logged out."""

    namespace: str
    id: str
    auth_state: int = 0
    primary: bool = False

    @property
    def is_ecid(self) -> bool:
        """Whether it is the Experience Cloud id, in any case of letters."""
        # A namespace may be long, and that of very many identities.
        return len(self.namespace) == len("ECID") and self.namespace.upper() == "ECID"


class Visitor(NamedTuple):
    """Who watched, as the upload says it.

    `ecid` is `visitor.marketingCloudUserId`, or the (primary) ECID of an identityMap. `key_value` is exactly
    the value that identity is computed from (DESIGN.md 6.3): marketingCloudUserId, else the primary
    identityMap entry as "namespace:id", else `None`.
    """

    ecid: str | None = None
    key_value: str | None = None
    aid: str | None = None
    vid: str | None = None
    location_hint: int | None = None
    app_installation_id: str | None = None
    identities: tuple[Identity, ...] = ()
    """customerIDs, or the whole identityMap, in order of appearance."""
    ecid_seed: str | None = None
    """What the ECID of an Edge visitor without one is made of: whose datastream, and which identity."""


class Routing(NamedTuple):
    """Where the analytics calls go: from the upload's params, or from the datastream (Edge)."""

    organisation: str = ""
    report_suites: tuple[str, ...] = ()
    tracking_server: str = ""
    ssl: bool = True
    opt_out_forwarding: bool = False
    opt_out_share: bool = False


class Implementation(NamedTuple):
    """XDM implementationDetails; the defaults are those of the Edge documentation."""

    name: str = "https://ns.adobe.com/experience/edge"
    version: str = "0.0.0"
    environment: str = "server"


class Session(NamedTuple):
    """One upload, decoded and valid: the input of everything in this package.

    `events[0]` is the only sessionStart. `flags` are the soft problems that the wire form found
    (names from `flags.py`). `sent_at_ms` is the device's clock when it uploaded (`xdm.timestamp`).
    """

    form: Form
    events: tuple[Event, ...]
    visitor: Visitor
    routing: Routing
    implementation: Implementation = Implementation()
    sent_at_ms: int | None = None
    context_data: Mapping[str, str] | None = None
    """`_data.__adobe.analytics.contextData` of an Edge item: for the analytics calls."""
    flags: frozenset[str] = frozenset()

    @property
    def details(self) -> Details:
        """The sessionDetails of the sessionStart."""
        return self.events[0].details

    @property
    def content_id(self) -> str:
        """`media.id` / `sessionDetails.name`."""
        return str(self.details["name"])


class StateTotal(NamedTuple):
    """One player state: how often it was opened and for how long (wall clock)."""

    name: str
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody calls on a record
    time_ms: int


class Metrics(NamedTuple):
    """Every session-level number (`spec/metrics.csv`); durations in integer ms, unrounded.

    `None` means "not produced" (for example no average minute audience without a length).
    """

    content_time_spent_ms: int = 0
    media_time_spent_ms: int = 0
    unique_time_played_ms: int = 0
    average_minute_audience: float | None = None
    estimated_streams: int = 1
    progress_markers: tuple[int, ...] = ()
    """The reached ones of 10, 25, 50, 75 and 95 (per cent)."""
    segment: str | None = None
    is_viewed: bool = True
    is_played: bool = False
    """Content start; also "content segment view"."""
    is_completed: bool = False
    has_resume: bool = False
    is_authorized: bool = False
    is_federated: bool = False
    is_dropped_before_start: bool = False
    pause_count: int = 0
    pause_time_ms: int = 0
    buffer_count: int = 0
    buffer_time_ms: int = 0
    stall_count: int = 0
    stall_time_ms: int = 0
    ad_count: int = 0
    ad_time_spent_ms: int = 0
    chapter_count: int = 0
    seconds_since_last_call: int = 0
    bitrate_average_kbps: int | None = None
    bitrate_average_bucket: str | None = None
    bitrate_change_count: int = 0
    dropped_frames: int | None = None
    frames_per_second: int | None = None
    time_to_start_ms: int | None = None
    error_count: int = 0
    player_sdk_errors: tuple[str, ...] = ()
    external_errors: tuple[str, ...] = ()
    states: tuple[StateTotal, ...] = ()


class Ad(NamedTuple):
    """One ad that was started inside a break, from start to close."""

    details: Details
    pod: Details
    """advertisingPodDetails of its break (`index`, `offset`, `friendlyName`)."""
    custom_metadata: Mapping[str, str] | None
    started_sequence: int
    closed_sequence: int
    started_at_ms: int
    closed_at_ms: int
    started_playhead_s: float
    closed_playhead_s: float
    time_spent_ms: int
    is_completed: bool
    closed_by: str
    """`complete`, `skip`, `adStart`, `adBreakStart`, `adBreakComplete` or `end`."""


class Chapter(NamedTuple):
    """One chapter, from start to close; ads inside it do not count in its time."""

    details: Details
    custom_metadata: Mapping[str, str] | None
    started_sequence: int
    closed_sequence: int
    started_at_ms: int
    closed_at_ms: int
    started_playhead_s: float
    closed_playhead_s: float
    time_spent_ms: int
    is_completed: bool
    closed_by: str
    """`complete`, `skip`, `chapterStart` or `end`."""


class Viewing(NamedTuple):
    """What was measured of one session.

    `events` are the accepted ones (those after a sessionEnd are gone), with the added
    sessionComplete last where the client sent none. `event_times_ms[i]` is the running maximum of
    the event times, which every derived record uses, so that time never goes back.
    """

    events: tuple[Event, ...]
    event_times_ms: tuple[int, ...]
    complete_added: bool
    started_at_ms: int
    ended_at_ms: int
    metrics: Metrics
    ads: tuple[Ad, ...]
    chapters: tuple[Chapter, ...]
    flags: frozenset[str]


class CallKind(StrEnum):
    """The five derived analytics calls (`spec/media-collection.md` 4.1)."""

    __hash__ = str.__hash__

    MEDIA_START = "mediaStart"
    AD_START = "adStart"
    AD_CLOSE = "adClose"
    CHAPTER_CLOSE = "chapterClose"
    MEDIA_CLOSE = "mediaClose"


class Call(NamedTuple):
    """One analytics call; `ts` is whole seconds, `context` string to string."""

    call: CallKind
    sequence: int
    ts: int
    ts_ms: int
    pe: str | None
    pev3: str
    page_event: int | None
    """The data feed's number of the call, where one is documented."""
    query: Mapping[str, str]
    """Query parameters beside `ts`, `pe` and `pev3`: mid, aid, vid, mcorgid, aamlh, cid.*, ms_a."""
    context: Mapping[str, str]
    flags: tuple[str, ...] = ()
    part: int | None = None
    """Which of the viewing's ads or chapters it is about; None on the media calls."""


class Row(NamedTuple):
    """One XDM reporting row (`spec/media-edge.md` 3); `media_reporting` has the XDM names."""

    event_type: str
    sequence: int
    timestamp_ms: int
    media_reporting: Mapping[str, object]
    tenant_fields: Mapping[str, str] = {}
    """Custom metadata of the tenant by dotted path, which XDM has at the root of the row."""


class TimeLedger(NamedTuple):
    """The times of a session and what is doubtful about them; nothing is shifted (DESIGN.md 2.5)."""

    started_at_ms: int
    ended_at_ms: int
    received_at_ms: int
    sent_at_ms: int | None
    lateness_ms: int
    """received - ended, by two clocks; negative when the device's clock runs ahead."""
    viewing_day: str
    """YYYY-MM-DD of the start in the datastream's zone."""
    is_late_day: bool
    """Received after the viewing day had ended in the datastream's zone."""
    skew_ms: int | None
    """received - sent: an upper bound of how far the device's clock lags; `None` without sent_at."""
    flags: frozenset[str]
