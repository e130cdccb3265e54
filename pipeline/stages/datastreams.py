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
}


class DatastreamsError(Exception):
    """The datastreams file can't be used; the message names the place and what is wanted."""


class Directory(NamedTuple):
    """All datastreams of a deployment; an open one takes what no other claims."""

    datastreams: tuple[Datastream, ...] = (OPEN_DATASTREAM,)

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


def parse_datastreams(text: str) -> Directory:
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
    return Directory(parsed or (OPEN_DATASTREAM,))


def _datastream(name: str, table: Any) -> Datastream:
    place = f"datastream.{name}"
    if not isinstance(table, dict):
        raise DatastreamsError(f"{place}: must be a table")
    unknown = set(table) - set(_TYPES) - {"report_suites", "rules"}
    if unknown:
        raise DatastreamsError(f"{place}.{min(unknown)}: unknown; known are {', '.join(sorted(_TYPES))}")
    values = {key: _value(f"{place}.{key}", kind, table[key]) for key, kind in _TYPES.items() if key in table}
    suites = table.get("report_suites", [])
    if not isinstance(suites, list) or not all(isinstance(s, str) and s for s in suites):
        raise DatastreamsError(f"{place}.report_suites: must be a list of non-empty strings")
    try:
        ZoneInfo(values.get("time_zone", "UTC"))
    except (ZoneInfoNotFoundError, ValueError):
        raise DatastreamsError(f"{place}.time_zone: {values['time_zone']!r} is no IANA zone") from None
    return Datastream(
        id=name, report_suites=tuple(suites), rules=_rules(place, table.get("rules", {})), **values
    )


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
