"""Which events, params and members there are: one table, for both wire forms.

Sources: `spec/events.csv`, `spec/params.csv`, `spec/media-edge.md` 1.3 and 1.4. The names and types of
the session, ad, break and chapter values are those of `pipeline.session.fields`.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from pipeline.session.fields import AD, CHAPTER, POD, SESSION, Field, Type
from pipeline.session.model import Kind
from pipeline.wire.moments import LAST_MS
from pipeline.wire.values import Members, Rule

STATE_NAME: Final = re.compile(r"[a-zA-Z0-9_.]{1,64}")
ONE_LINE: Final = re.compile(r".+")
"""What XDM wants of names: at least one character, and no line break."""
METADATA_KEY: Final = re.compile(r"[a-zA-Z0-9_.]+")

PLAYHEAD: Final = Rule(Type.NUMBER, required=True, minimum=0)
TS: Final = Rule(Type.INTEGER, required=True, minimum=0, maximum=LAST_MS)

PLAYER_TIME: Final = Members({"playhead": PLAYHEAD, "ts": TS})

_SOURCES: Final = ("player", "external")
_TEXT: Final = Rule(Type.STRING)
_ID: Final = Rule(Type.STRING, required=True, non_empty=True)
_NAME: Final = Rule(Type.STRING, required=True, non_empty=True, pattern=ONE_LINE)
_FLAG: Final = Rule(Type.BOOLEAN)
_QUALITY: Final = Rule(Type.INTEGER, minimum=0, fraction_ok=True)

_MINIMUM: Final[dict[str, int]] = {
    "media.ad.length": -1,
    "media.ad.podPosition": 0,
    "media.ad.podIndex": 0,
    "media.ad.podSecond": 0,
    "media.chapter.index": 0,
    "media.chapter.offset": 0,
    "media.chapter.length": -1,
}


def _rule(row: Field) -> Rule:
    return Rule(row.type, row.required, row.non_empty, _MINIMUM.get(row.param or ""))


def _params(rows: tuple[Field, ...]) -> Members:
    return Members({row.param: _rule(row) for row in rows if row.param})


BACK_END: Final[dict[str, Rule]] = {
    "analytics.trackingServer": _ID,
    "analytics.reportSuite": _ID,
    "analytics.enableSSL": _FLAG,
    "analytics.visitorId": _TEXT,
    "analytics.aid": _TEXT,
    "analytics.optOutServerSideForwarding": _FLAG,
    "analytics.optOutShare": _FLAG,
    "visitor.marketingCloudOrgId": _ID,
    "visitor.marketingCloudUserId": _TEXT,
    "visitor.aamLocationHint": Rule(Type.INTEGER, nullable=True),
    "appInstallationId": _TEXT,
}
"""The params of sessionStart that say where calls go and who watched."""

CUSTOMER_IDS: Final = "visitor.customerIDs"
CUSTOMER_ID: Final = Members(
    {
        "id": Rule(Type.STRING, required=True),
        "authState": Rule(Type.INTEGER, enum=(0, 1, 2)),
    }
)

QOE: Final = Members(
    {
        "media.qoe.bitrate": _QUALITY,
        "media.qoe.droppedFrames": _QUALITY,
        "media.qoe.framesPerSecond": _QUALITY,
        "media.qoe.timeToStart": _QUALITY,
    }
)
QOE_ERROR: Final = Members(
    {
        **QOE,
        "media.qoe.errorID": Rule(Type.STRING, non_empty=True),
        "media.qoe.errorSource": Rule(Type.STRING, enum=_SOURCES),
    }
)
"""What SDKs send with an error (`spec/media-collection.md` 6.8)."""

STATE: Final = Members({"media.state.name": Rule(Type.STRING, required=True, pattern=STATE_NAME)})
STATE_LISTS: Final = ("statesStart", "statesEnd")

_NONE: Final = Members({})


class EventType(NamedTuple):
    """One event type of the Media Collection API: its params, and the fields that become details."""

    kind: Kind
    params: Members = _NONE
    fields: tuple[Field, ...] = ()
    carries_metadata: bool = False
    qoe: Members = QOE

    @property
    def needs_params(self) -> bool:
        """Whether a required param makes `params` itself required."""
        return self.kind is Kind.STATES_UPDATE or bool(self.params.required)


POD_NAME: Final = "media.ad.podFriendlyName"
"""Documented on adBreakStart; documented samples send it with adStart (`spec/media-collection.md` 6.37)."""
_AD_PARAMS: Final = Members({**_params(AD), POD_NAME: _TEXT})

EVENTS: Final[dict[str, EventType]] = {
    **{kind.value: EventType(kind) for kind in Kind},
    "sessionStart": EventType(
        Kind.SESSION_START, Members({**BACK_END, **_params(SESSION)}), SESSION, carries_metadata=True
    ),
    "adBreakStart": EventType(Kind.AD_BREAK_START, _params(POD), POD),
    "adStart": EventType(Kind.AD_START, _AD_PARAMS, AD, carries_metadata=True),
    "chapterStart": EventType(Kind.CHAPTER_START, _params(CHAPTER), CHAPTER, carries_metadata=True),
    "bitrateChange": EventType(Kind.BITRATE_CHANGE, QOE),
    "error": EventType(
        Kind.ERROR,
        Members({"media.errorId": _TEXT, "media.errorSource": Rule(Type.STRING, enum=_SOURCES)}),
        qoe=QOE_ERROR,
    ),
    "stateStart": EventType(Kind.STATES_UPDATE, STATE),
    "stateEnd": EventType(Kind.STATES_UPDATE, STATE),
    "statesUpdate": EventType(Kind.STATES_UPDATE),
}
"""The 20 event types of the Media Collection API by name."""

BARE: Final[dict[str, Kind]] = {name: event.kind for name, event in EVENTS.items() if not event.needs_params}
"""Those that may come as nothing but a type and a time."""


class Details(NamedTuple):
    """One details object of a Media Edge event: its member name and its members."""

    member: str
    members: Members


_EDGE_RULES: Final[dict[str, Rule]] = {
    "streamType": Rule(Type.STRING, enum=("video", "audio")),
    "podPosition": Rule(Type.INTEGER, required=True, minimum=0),
}


def _members(rows: tuple[Field, ...]) -> Members:
    """Return the XDM members: numbers are whole, only names must be something (`spec/media-edge.md` 1.4)."""
    return Members(
        {
            row.member: _EDGE_RULES.get(row.member)
            or Rule(
                Type.INTEGER if row.type is Type.NUMBER else row.type,
                row.required,
                row.member == "name",
                _MINIMUM.get(row.param or ""),
                pattern=ONE_LINE if row.member == "name" else None,
            )
            for row in rows
            if row.in_xdm
        }
    )


EDGE_QOE: Final = Members(
    {
        "bitrate": _QUALITY,
        "droppedFrames": _QUALITY,
        "framesPerSecond": _QUALITY,
        "timeToStart": _QUALITY,
    }
)

EDGE_DETAILS: Final[dict[Kind, Details]] = {
    Kind.SESSION_START: Details("sessionDetails", _members(SESSION)),
    Kind.AD_BREAK_START: Details("advertisingPodDetails", _members(POD)),
    Kind.AD_START: Details("advertisingDetails", _members(AD)),
    Kind.CHAPTER_START: Details("chapterDetails", _members(CHAPTER)),
    Kind.ERROR: Details(
        "errorDetails",
        Members({"name": _NAME, "source": Rule(Type.STRING, required=True, enum=_SOURCES)}),
    ),
}
EDGE_DETAIL_MEMBERS: Final = frozenset(details.member for details in EDGE_DETAILS.values())
EDGE_KINDS: Final[dict[str, Kind]] = {f"media.{kind.value}": kind for kind in Kind}
EDGE_METADATA_KINDS: Final = frozenset({Kind.SESSION_START, Kind.AD_START, Kind.CHAPTER_START})
EDGE_PLAYHEAD: Final = Rule(Type.INTEGER, required=True, minimum=0)
EDGE_STATE: Final = Members({"name": Rule(Type.STRING, required=True, pattern=STATE_NAME)})
EDGE_IDENTITY: Final = Members(
    {
        "id": _NAME,
        "authenticatedState": Rule(Type.STRING, enum=("ambiguous", "authenticated", "loggedOut")),
        "primary": _FLAG,
    }
)
EDGE_IMPLEMENTATION: Final = Members(
    {
        "name": _TEXT,
        "version": _TEXT,
        "environment": Rule(Type.STRING, enum=("browser", "app", "device", "server", "iot")),
    }
)
EDGE_METADATA: Final = Members(
    {
        "name": Rule(Type.STRING, required=True),
        "value": Rule(Type.STRING, required=True),
    }
)
