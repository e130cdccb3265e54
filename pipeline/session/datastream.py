"""A datastream: the tenant that an upload belongs to, with the rules its numbers are made by."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple


class MarkerRule(StrEnum):
    """When a progress marker counts (`spec/media-collection.md` 6.12)."""

    INTERVAL = "interval"
    REACHED = "reached"


class BitrateUnit(StrEnum):
    """The unit of `qoe.bitrate` on the wire (`spec/media-collection.md` 6.14)."""

    KBPS = "kbps"
    BPS = "bps"


class AdBreakGap(StrEnum):
    """What play time inside a break but outside any ad is (`spec/media-collection.md` 6.11)."""

    CONTENT = "content"
    NONE = "none"


class VidRule(StrEnum):
    """Whether `vid` goes on time-stamped calls (`spec/media-collection.md` 4.4)."""

    ONLY_ID = "only_id"
    ALWAYS = "always"


class Rules(NamedTuple):
    """The switches of `spec/media-collection.md` 6, with the decided defaults."""

    marker_rule: MarkerRule = MarkerRule.INTERVAL
    segment_step_min: int = 1
    stall: bool = True
    bitrate_unit: BitrateUnit = BitrateUnit.KBPS
    ad_break_gap: AdBreakGap = AdBreakGap.CONTENT
    vid_rule: VidRule = VidRule.ONLY_ID
    max_play_rate: float = 2.0
    """A playhead step of up to rate x time + slack is playing, more is a seek."""
    seek_slack_ms: int = 2_000
    gap_cap_ms: int | None = None
    """The most play time that one interval may count; `None` is no cap (6.34)."""
    skip_rows: bool = False
    """Whether a skipped ad or chapter gets a reporting row (`spec/media-edge.md` 6.18)."""


class Datastream(NamedTuple):
    """One tenant. `report_suites` empty means that any report suite belongs to it (open)."""

    id: str = "default"
    organisation: str = ""
    report_suites: tuple[str, ...] = ()
    tracking_server: str = ""
    time_zone: str = "UTC"
    strict: bool = False
    tenant: str = ""
    """The XDM tenant without its underscore: cut from custom metadata names for Analytics."""
    rules: Rules = Rules()
    ignore_session_id: bool = False
    """Whether a `sessionID` that an Edge event must not send is ignored (`spec/media-edge.md` 6.5)."""
    new_session_handle: bool = False
    """Whether the Edge answer names each session in a handle (`spec/media-edge.md` 6.19)."""
    disabled: bool = False
    """Switched off: its uploads are kept as dead letters."""
    api_key: str = ""
    """What the header `x-api-key` must hold; empty demands none (SDKs can't send one)."""
    body_limit_bytes: int = 0
    """A limit under the ingest's own; 0 is none."""
    rate_per_s: int = 0
    """Most requests a second, beyond it 503; 0 is no limit."""
    refused_bytes_per_hour: int = 0
    """Most bytes of refused bodies that are kept an hour, beyond it 503; 0 is the ingest's own quota."""
    pseudonymise: tuple[str, ...] = ()
    """Visitor fields that outputs hold as a keyed hash: ecid, aid, vid, identities."""


OPEN_DATASTREAM: Final = Datastream()
