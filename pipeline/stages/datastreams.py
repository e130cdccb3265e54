"""Which datastream an upload belongs to: by `configId` (Edge) or by report suite (Media Collection)."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pipeline.session.datastream import (
    OPEN_DATASTREAM,
    AdBreakGap,
    BitrateUnit,
    Datastream,
    MarkerRule,
    Rules,
    VidRule,
)
from pipeline.session.pseudonyms import PSEUDONYMISED


class Keys(str):
    """One key or several, each on a line of its own: any of them is right."""


class Option(NamedTuple):
    """One key of a datastream's table: its type, where `list` is a list of strings, and its meaning."""

    kind: type
    doc: str
    minimum: float | None = None


RULE_OPTIONS: Final[dict[str, Option]] = {
    "marker_rule": Option(
        MarkerRule, "When a progress marker counts: played through, or the playhead past it."
    ),
    "segment_step_min": Option(int, "Length of a content segment, in minutes.", minimum=1),
    "stall": Option(bool, "Whether `stall` events and the stall metrics count."),
    "bitrate_unit": Option(BitrateUnit, "The unit of the bitrate that players send."),
    "ad_break_gap": Option(AdBreakGap, "What play time inside a break but outside any ad is."),
    "vid_rule": Option(VidRule, "Whether `vid` goes on time-stamped calls that have another visitor id."),
    "max_play_rate": Option(
        float, "A playhead step of up to this times the time is playing, more is a seek.", minimum=0
    ),
    "seek_slack_ms": Option(int, "What is added to that step, in ms.", minimum=0),
    "gap_cap_ms": Option(
        int, "The most play time that one interval may count, in ms; absent: no cap.", minimum=0
    ),
    "skip_rows": Option(
        bool, "Whether a skipped ad or chapter gets a reporting row, `media.adSkip` or `media.chapterSkip`."
    ),
}
OPTIONS: Final[dict[str, Option]] = {
    "report_suites": Option(list, "The report suites that belong to it; without any it is the open one."),
    "organisation": Option(str, "Organisation id of its Edge uploads; Media Collection uploads name theirs."),
    "tracking_server": Option(
        str, "Tracking server of its Edge uploads; Media Collection uploads name theirs."
    ),
    "time_zone": Option(str, "IANA zone of its viewing days."),
    "tenant": Option(str, "XDM tenant without its underscore: cut from custom metadata names for Analytics."),
    "strict": Option(bool, "Refuse unknown params and members, as the closed schemas would."),
    "ignore_session_id": Option(
        bool, "Ignore a `sessionID` in an Edge event, which must not be sent, instead of refusing it."
    ),
    "new_session_handle": Option(
        bool, "Name each session of an Edge request in a `media-analytics:new-session` handle of the answer."
    ),
    "disabled": Option(bool, "Switched off: its uploads are kept as dead letters."),
    "api_key": Option(
        Keys,
        "What the header `x-api-key` must hold, else 401; SDKs can't send one. Of several any is right: to "
        "change it, add the new one, let all senders take it, then remove the old one.",
    ),
    "body_limit_bytes": Option(int, "A body limit under the ingest's own; 0 is none."),
    "rate_per_s": Option(
        int,
        "Most requests a second, beyond it 503; 0 is no limit. Lossy: Android gives up after three tries.",
    ),
    "refused_bytes_per_hour": Option(
        int,
        "Most bytes of refused bodies kept an hour, beyond it 503; 0 is the ingest's own quota. A body "
        "counts for the datastream that it names, as far as it can be read, else for the open one.",
    ),
    "pseudonymise": Option(
        list,
        f"Visitor fields that outputs hold as a keyed hash: {', '.join(sorted(PSEUDONYMISED))}; "
        "needs `PIPELINE_PSEUDONYM_KEY`. An ECID that is generated is made of such a hash then, and members "
        "that no API documents are left out of outputs. `visitor_key` stays a hash without key, which links "
        "the sessions of a visitor.",
    ),
}


class DatastreamsError(Exception):
    """The datastreams file can't be used; the message names the place and what is wanted."""


class _Parts(NamedTuple):
    """What a directory is made of."""

    datastreams: tuple[Datastream, ...] = (OPEN_DATASTREAM,)
    pseudonym_key: bytes = b""
    """The key of every pseudonym; needed where a datastream pseudonymises."""


class Directory(_Parts):
    """All datastreams of a deployment, found by name; an open one takes what no other claims."""

    @cached_property
    def open(self) -> Datastream | None:
        """The datastream without report suites, which takes every upload, or None."""
        return next((d for d in self.datastreams if not d.report_suites), None)

    def by_id(self, datastream_id: str) -> Datastream | None:
        """Return the datastream with this id (Edge: `configId`), else the open one, else None."""
        return self._by_id.get(datastream_id) or self.open

    def by_report_suites(self, report_suites: Sequence[str]) -> Datastream | None:
        """Return the datastream that claims the first of these report suites, else the open one."""
        first = report_suites[0] if report_suites else ""
        return self._by_report_suite.get(first) or self.open

    @cached_property
    def _by_id(self) -> dict[str, Datastream]:
        return {datastream.id: datastream for datastream in self.datastreams}

    @cached_property
    def _by_report_suite(self) -> dict[str, Datastream]:
        return {suite: datastream for datastream in self.datastreams for suite in datastream.report_suites}


OPEN_DIRECTORY: Final = Directory()


def api_keys(datastream: Datastream) -> tuple[str, ...]:
    """Return the keys that this datastream's senders may have; none where it demands none."""
    return tuple(datastream.api_key.split("\n")) if datastream.api_key else ()


def parse_datastreams(text: str, pseudonym_key: bytes = b"") -> Directory:
    """Return the directory that a `datastreams.toml` text describes, or raise `DatastreamsError`."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DatastreamsError(f"not TOML: {error}") from None
    datastreams = tables.get("datastream", {})
    if not isinstance(datastreams, dict) or set(tables) - {"datastream"}:
        raise DatastreamsError("only tables [datastream.<id>] are known")
    parsed = tuple(_datastream(name, table) for name, table in datastreams.items())
    if len([d for d in parsed if not d.report_suites]) > 1:
        raise DatastreamsError("only one datastream may be open (without report_suites)")
    claimed = [suite for d in parsed for suite in d.report_suites]
    if len(claimed) != len(set(claimed)):
        raise DatastreamsError("a report suite may belong to one datastream only")
    if any(d.pseudonymise for d in parsed) and not pseudonym_key:
        raise DatastreamsError("pseudonymise needs a key: set PIPELINE_PSEUDONYM_KEY")
    return Directory(parsed or (OPEN_DATASTREAM,), pseudonym_key)


def _datastream(name: str, table: Any) -> Datastream:
    place = f"datastream.{name}"
    if not isinstance(table, dict):
        raise DatastreamsError(f"{place}: must be a table")
    unknown = set(table) - {*OPTIONS, "rules"}
    if unknown:
        known = ", ".join(sorted({*OPTIONS, "rules"}))
        raise DatastreamsError(f"{place}.{min(unknown)}: unknown; known are {known}")
    values = {
        key: _value(f"{place}.{key}", option.kind, table[key])
        for key, option in OPTIONS.items()
        if key in table
    }
    wrong = set(values.get("pseudonymise", ())) - set(PSEUDONYMISED)
    if wrong:
        raise DatastreamsError(
            f"{place}.pseudonymise: {min(wrong)!r} is none of {', '.join(sorted(PSEUDONYMISED))}"
        )
    for key in ("body_limit_bytes", "rate_per_s", "refused_bytes_per_hour"):
        if values.get(key, 0) < 0:
            raise DatastreamsError(f"{place}.{key}: must not be negative")
    try:
        ZoneInfo(values.get("time_zone", "UTC"))
    except (ZoneInfoNotFoundError, ValueError):
        raise DatastreamsError(f"{place}.time_zone: {values['time_zone']!r} is no IANA zone") from None
    return Datastream(id=name, rules=_rules(place, table.get("rules", {})), **values)


def _strings(place: str, given: Any) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(item, str) and item for item in given):
        raise DatastreamsError(f"{place}: must be a list of non-empty strings")
    return tuple(given)


def _keys(place: str, given: Any) -> Keys:
    """Return the key or keys; a message must not show them."""
    keys = given if isinstance(given, list) else [given]
    if not keys or not all(isinstance(key, str) and (key or given == "") for key in keys):
        raise DatastreamsError(f"{place}: must be text or a list of non-empty texts")
    # What no header could hold as it is could never be given.
    if not all(key.isascii() and key.isprintable() and key == key.strip() for key in keys):
        raise DatastreamsError(f"{place}: must be printable ASCII without spaces around it")
    return Keys("\n".join(keys))


def _rules(place: str, table: Any) -> Rules:
    if not isinstance(table, dict):
        raise DatastreamsError(f"{place}.rules: must be a table")
    unknown = set(table) - set(RULE_OPTIONS)
    if unknown:
        raise DatastreamsError(f"{place}.rules.{min(unknown)}: unknown; known are {', '.join(RULE_OPTIONS)}")
    values = {key: _value(f"{place}.rules.{key}", RULE_OPTIONS[key].kind, table[key]) for key in table}
    for key, value in values.items():
        least = RULE_OPTIONS[key].minimum
        # Written so that NaN, which TOML has, is too small for every minimum.
        if least is not None and not least <= value < math.inf:
            raise DatastreamsError(f"{place}.rules.{key}: must be at least {least}, not {table[key]!r}")
    return Rules(**values)


def _value(place: str, kind: type, given: Any) -> Any:
    if kind in (MarkerRule, BitrateUnit, AdBreakGap, VidRule):
        try:
            return kind(given)
        except ValueError:
            raise DatastreamsError(f"{place}: must be one of {', '.join(kind)}, not {given!r}") from None
    if kind is list:
        return _strings(place, given)
    if kind is Keys:
        return _keys(place, given)
    wanted = (int, float) if kind is float else (kind,)
    if not isinstance(given, wanted) or (isinstance(given, bool) and kind is not bool):
        raise DatastreamsError(f"{place}: must be of type {kind.__name__}, not {given!r}")
    return kind(given)
