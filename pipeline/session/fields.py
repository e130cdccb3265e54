"""One table of every named value: its XDM member, Media Collection param and context variable.

The wire forms read params through it, the analytics calls and the reporting rows are written
through it, the Avro field names derive from it, and the docs draw it (`docs/fields.md`).
Source: `spec/params.csv`, `spec/edge-mapping.csv`, `spec/edge-reporting-context-data.csv`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple


class Type(StrEnum):
    """The JSON type of a value: Media Collection allows fractions where XDM has integers."""

    __hash__ = str.__hash__

    STRING = "string"
    NUMBER = "number"
    INTEGER = "integer"
    BOOLEAN = "boolean"


class Field(NamedTuple):
    """One row: `member` is the key in an event's details, and the XDM name where XDM has one."""

    member: str
    param: str | None
    """The Media Collection param; `None` where only Media Edge has the value."""
    type: Type
    context: str | None
    """The Analytics context variable; `None` where there is none."""
    required: bool = False
    """Required on its event in both forms (`spec/events.csv`, `spec/media-edge.md` 1.3)."""
    non_empty: bool = False
    in_xdm: bool = True


def _text(member: str, param: str, context: str | None, *, required: bool = False) -> Field:
    return Field(member, param, Type.STRING, context, required=required, non_empty=required)


SESSION: Final[tuple[Field, ...]] = (
    _text("name", "media.id", "a.media.name", required=True),
    _text("friendlyName", "media.name", "a.media.friendlyName"),
    Field("length", "media.length", Type.NUMBER, "a.media.length", required=True),
    _text("contentType", "media.contentType", "a.contentType", required=True),
    _text("streamType", "media.streamType", "a.media.streamType"),
    _text("playerName", "media.playerName", "a.media.playerName", required=True),
    _text("channel", "media.channel", "a.media.channel", required=True),
    _text("appVersion", "media.sdkVersion", "a.media.sdkVersion"),
    Field("libraryVersion", "media.libraryVersion", Type.STRING, "a.media.vhlVersion", in_xdm=False),
    Field("hasResume", "media.resume", Type.BOOLEAN, "a.media.resume"),
    Field("isDownloaded", "media.downloaded", Type.BOOLEAN, "a.media.downloaded"),
    _text("show", "media.show", "a.media.show"),
    _text("season", "media.season", "a.media.season"),
    _text("episode", "media.episode", "a.media.episode"),
    _text("assetID", "media.assetId", "a.media.asset"),
    _text("genre", "media.genre", "a.media.genre"),
    _text("firstAirDate", "media.firstAirDate", "a.media.airDate"),
    _text("firstDigitalDate", "media.firstDigitalDate", "a.media.digitalDate"),
    _text("rating", "media.rating", "a.media.rating"),
    _text("originator", "media.originator", "a.media.originator"),
    _text("network", "media.network", "a.media.network"),
    _text("showType", "media.showType", "a.media.type"),
    _text("adLoad", "media.adLoad", "a.media.adLoad"),
    _text("mvpd", "media.pass.mvpd", "a.media.pass.mvpd"),
    _text("authorized", "media.pass.auth", "a.media.pass.auth"),
    _text("dayPart", "media.dayPart", "a.media.dayPart"),
    _text("feed", "media.feed", "a.media.feed"),
    _text("streamFormat", "media.streamFormat", "a.media.format"),
    _text("artist", "media.artist", "a.media.artist"),
    _text("album", "media.album", "a.media.album"),
    _text("label", "media.label", "a.media.label"),
    _text("author", "media.author", "a.media.author"),
    _text("station", "media.station", "a.media.station"),
    _text("publisher", "media.publisher", "a.media.publisher"),
    Field("cdn", None, Type.STRING, None),
)

POD: Final[tuple[Field, ...]] = (
    Field("index", "media.ad.podIndex", Type.INTEGER, None, required=True),
    Field("offset", "media.ad.podSecond", Type.NUMBER, "a.media.ad.podSecond", required=True),
    _text("friendlyName", "media.ad.podFriendlyName", "a.media.ad.podFriendlyName"),
)

AD: Final[tuple[Field, ...]] = (
    _text("name", "media.ad.id", "a.media.ad.name", required=True),
    _text("friendlyName", "media.ad.name", "a.media.ad.friendlyName"),
    Field("length", "media.ad.length", Type.NUMBER, "a.media.ad.length", required=True),
    Field("podPosition", "media.ad.podPosition", Type.INTEGER, "a.media.ad.podPosition", required=True),
    _text("playerName", "media.ad.playerName", "a.media.ad.playerName", required=True),
    _text("advertiser", "media.ad.advertiser", "a.media.ad.advertiser"),
    _text("campaignID", "media.ad.campaignId", "a.media.ad.campaign"),
    _text("creativeID", "media.ad.creativeId", "a.media.ad.creative"),
    _text("creativeURL", "media.ad.creativeURL", "a.media.ad.creativeURL"),
    _text("placementID", "media.ad.placementId", "a.media.ad.placement"),
    _text("siteID", "media.ad.siteId", "a.media.ad.site"),
)

CHAPTER: Final[tuple[Field, ...]] = (
    Field("index", "media.chapter.index", Type.INTEGER, "a.media.chapter.position", required=True),
    Field("offset", "media.chapter.offset", Type.NUMBER, "a.media.chapter.offset", required=True),
    Field("length", "media.chapter.length", Type.NUMBER, "a.media.chapter.length", required=True),
    _text("friendlyName", "media.chapter.friendlyName", "a.media.chapter.friendlyName"),
)
