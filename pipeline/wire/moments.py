"""RFC 3339 moments of Media Edge: the offset is mandatory (`spec/media-edge.md` 6.2)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

_FORM: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
FIRST_MS: Final = (datetime(1, 1, 1, tzinfo=UTC) - _EPOCH) // _MS
LAST_MS: Final = 253_402_300_799_999
"""The last millisecond of the year 9999, the end of every calendar library."""


class Moment(NamedTuple):
    """A moment in ms since 1970 UTC, and the offset that it was written with, in minutes."""

    at_ms: int
    utc_offset_min: int


def parse_moment(text: str) -> Moment | None:
    """Return the moment, cut to milliseconds, or None when it is no RFC 3339 moment with offset."""
    match = _FORM.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, sign, offset_h, offset_min = match.groups()
    offset = 0
    if sign is not None:
        if int(offset_h) > 23 or int(offset_min) > 59:
            return None
        offset = (int(offset_h) * 60 + int(offset_min)) * (-1 if sign == "-" else 1)
    try:
        # A leap second, which RFC 3339 allows, is the first of the next minute here, as in Unix time.
        whole = 59 if second == "60" else int(second)
        local = datetime(int(year), int(month), int(day), int(hour), int(minute), whole, tzinfo=UTC)
    except ValueError:
        return None
    fraction_ms = int(((fraction or "0") + "00")[:3])
    at_ms = (local - _EPOCH) // _MS - offset * 60_000 + fraction_ms + (1000 if second == "60" else 0)
    return Moment(at_ms, offset) if FIRST_MS <= at_ms <= LAST_MS else None


def format_moment(at_ms: int, utc_offset_min: int | None = None) -> str:
    """Return the moment in RFC 3339, without a fraction where it is zero; `Z` for no offset or zero."""
    offset = utc_offset_min or 0
    local = _EPOCH + timedelta(milliseconds=at_ms, minutes=offset)
    fraction = f".{local.microsecond // 1000:03d}" if local.microsecond else ""
    sign = "-" if offset < 0 else "+"
    zone = f"{sign}{abs(offset) // 60:02d}:{abs(offset) % 60:02d}" if offset else "Z"
    return f"{local:%Y-%m-%dT%H:%M:%S}".rjust(19, "0") + fraction + zone
