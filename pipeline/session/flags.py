"""The closed list of soft problems: each becomes a flag on the session record, never a refusal.

Source: `spec/media-collection.md` 2.1 and 6, `spec/media-edge.md` 6, DESIGN.md 6. The docs list is
drawn from this table (`docs/flags.md`), and no other name may appear in a record.
"""

from __future__ import annotations

from typing import Final

FLAGS: Final[dict[str, str]] = {
    "adComplete_without_ad_ignored": "An adComplete or adSkip came while no ad was open.",
    "ad_outside_break_ignored": "An adStart came outside an ad break; its time counts as content.",
    "chapterComplete_without_chapter_ignored": "A chapter ended while none was open.",
    "clock_regression": "An event is earlier than one before it; that step counts 0.",
    "clock_ahead": "The last event is later than the time of receipt: the device's clock runs ahead.",
    "clock_not_set": "An event lies before 2010: the device's clock was not set.",
    "context_key_invalid": "A custom key that Analytics can't take was left out of the calls.",
    "context_truncated": "Context data went over the limits of Analytics and was cut (kept in the record).",
    "custom_metadata_ignored": "customMetadata on an event that does not carry it, or a value that a later "
    "one of that name replaced (kept in the event).",
    "details_ignored": "A details object on an Edge event that does not carry it (kept in the event).",
    "equal_ts": "Two neighbouring events have the same time; their order is the upload's.",
    "events_after_sessionComplete": "Events followed the sessionComplete; they add no content time.",
    "events_after_sessionEnd_dropped": "Events followed the sessionEnd; they were dropped.",
    "fraction_rounded": "A number that is documented as whole had a fraction; metrics round it half up.",
    "future_ts": "An event is more than 24 h ahead of the time of receipt.",
    "gap_over_10min": "More than 10 minutes lie between two neighbouring events.",
    "idle_over_30min": "Paused or buffering for more than 30 minutes in one stretch.",
    "length_not_positive": "The content length is 0 or negative: no progress, no average minute audience.",
    "metadata_key_media": "A customMetadata key starts with `media.`; standard fields are not overwritten.",
    "metadata_key_reserved": "A custom key starts with `a.`, which is for standard fields; it was dropped "
    "(contextData: from the calls).",
    "mid_generated": "The upload had no ECID; one was derived.",
    "over_24h": "The session spans more than 24 hours.",
    "playhead_beyond_length": "A playhead lies beyond the content length.",
    "seek_detected": "The playhead jumped back, or further than playing explains.",
    "session_id_ignored": "An Edge event had a sessionID, which must not be sent (kept in the event).",
    "skew_suspected": "The device's clock at upload differs from the time of receipt by more than 5 minutes.",
    "stateEnd_without_start_ignored": "A state ended that was not open.",
    "state_limit": "More than 10 different player states; the later names are not counted.",
    "unknown_member": "A member that the API does not document was sent (kept in the event).",
    "unknown_param": "A param or qoeData key that the API does not document was sent, or one that the same "
    "key elsewhere in the event overrules (kept in the event).",
    "vid_with_ts": "`vid` is on the calls, which Analytics may refuse on time-stamped ones.",
}
