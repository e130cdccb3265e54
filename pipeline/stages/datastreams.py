"""Which datastream an upload belongs to: by `configId` (Edge) or by report suite (Media Collection)."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
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

_RULE_TYPES: Final[dict[str, type]] = {
    "marker_rule": MarkerRule,
    "segment_step_min": int,
    "stall": bool,
    "bitrate_unit": BitrateUnit,
    "ad_break_gap": AdBreakGap,
    "vid_rule": VidRule,
    "max_play_rate": float,
    "seek_slack_ms": int,
    "gap_cap_ms": int,
}
_TYPES: Final[dict[str, type]] = {
    "organisation": str,
    "tracking_server": str,
    "time_zone": str,
    "strict": bool,
    "tenant": str,
    "disabled": bool,
    "api_key": str,
    "body_limit_bytes": int,
    "rate_per_s": int,
    "refused_bytes_per_hour": int,
}

_LISTS: Final = ("report_suites", "pseudonymise")


class DatastreamsError(Exception):
    """The datastreams file can't be used; the message names the place and what is wanted."""


class Directory(NamedTuple):
    """All datastreams of a deployment; an open one takes what no other claims."""

    datastreams: tuple[Datastream, ...] = (OPEN_DATASTREAM,)
    pseudonym_key: bytes = b""
    """The key of every pseudonym; needed where a datastream pseudonymises."""

    @property
    def open(self) -> Datastream | None:
        """The datastream without report suites, which takes every upload, or None."""
        return next((d for d in self.datastreams if not d.report_suites), None)

    def by_id(self, datastream_id: str) -> Datastream | None:
        """Return the datastream with this id (Edge: `configId`), else the open one, else None."""
        named = next((d for d in self.datastreams if d.id == datastream_id), None)
        return named or self.open

    def by_report_suites(self, report_suites: Sequence[str]) -> Datastream | None:
        """Return the datastream that claims the first of these report suites, else the open one."""
        first = report_suites[0] if report_suites else ""
        named = next((d for d in self.datastreams if first in d.report_suites), None)
        return named or self.open


OPEN_DIRECTORY: Final = Directory()


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
    unknown = set(table) - set(_TYPES) - {*_LISTS, "rules"}
    if unknown:
        known = ", ".join(sorted({*_TYPES, *_LISTS, "rules"}))
        raise DatastreamsError(f"{place}.{min(unknown)}: unknown; known are {known}")
    values = {key: _value(f"{place}.{key}", kind, table[key]) for key, kind in _TYPES.items() if key in table}
    lists: dict[str, Any] = {key: _strings(f"{place}.{key}", table.get(key, [])) for key in _LISTS}
    wrong = set(lists["pseudonymise"]) - set(PSEUDONYMISED)
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
    return Datastream(id=name, rules=_rules(place, table.get("rules", {})), **lists, **values)


def _strings(place: str, given: Any) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(item, str) and item for item in given):
        raise DatastreamsError(f"{place}: must be a list of non-empty strings")
    return tuple(given)


def _rules(place: str, table: Any) -> Rules:
    if not isinstance(table, dict):
        raise DatastreamsError(f"{place}.rules: must be a table")
    unknown = set(table) - set(_RULE_TYPES)
    if unknown:
        raise DatastreamsError(f"{place}.rules.{min(unknown)}: unknown; known are {', '.join(_RULE_TYPES)}")
    return Rules(**{key: _value(f"{place}.rules.{key}", _RULE_TYPES[key], table[key]) for key in table})


def _value(place: str, kind: type, given: Any) -> Any:
    if kind in (MarkerRule, BitrateUnit, AdBreakGap, VidRule):
        try:
            return kind(given)
        except ValueError:
            raise DatastreamsError(f"{place}: must be one of {', '.join(kind)}, not {given!r}") from None
    wanted = (int, float) if kind is float else (kind,)
    if not isinstance(given, wanted) or (isinstance(given, bool) and kind is not bool):
        raise DatastreamsError(f"{place}: must be of type {kind.__name__}, not {given!r}")
    return kind(given)
