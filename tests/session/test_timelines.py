"""Every worked session of the shared vectors, number for number."""

from __future__ import annotations

from typing import Any, Final

import pytest

from pipeline.session.calls import analytics_calls
from pipeline.session.datastream import OPEN_DATASTREAM, Rules
from pipeline.session.identity import session_id
from pipeline.session.measure import measure
from pipeline.session.rounding import seconds
from pipeline.session.rows import reporting_rows
from pipeline.wire import media_collection
from tests.shared import SHARED, load, needs_shared

NAMES: Final = sorted(
    path.name.removesuffix(".request.json") for path in (SHARED / "vectors/timelines").glob("*.request.json")
)
_CLOSED_BY: Final = {"session_end": "end"}

pytestmark = needs_shared


@pytest.mark.parametrize("name", NAMES)
def test_a_worked_session_gives_exactly_the_expected_numbers_calls_and_flags(name: str) -> None:
    body = (SHARED / f"vectors/timelines/{name}.request.json").read_bytes()
    expected: dict[str, Any] = load(f"vectors/timelines/{name}.expected.json")["derived"]
    session = media_collection.decode(body, "/api/v1/downloaded")
    viewing = measure(session, Rules())
    identity = session_id(session, OPEN_DATASTREAM)
    rows = reporting_rows(session, viewing, identity, OPEN_DATASTREAM)
    first, last = rows[0].media_reporting["sessionDetails"], rows[-1].media_reporting
    assert isinstance(first, dict)
    computed: dict[str, Any] = last["sessionDetails"]  # type: ignore[assignment]  # a row is JSON

    start_only = {"isViewed", "isDownloaded"}
    for member, value in expected["session"].items():
        # A false flag is left out of a row (spec/media-edge.md 6.15).
        found = (first if member in start_only else computed).get(member, False if value is False else None)
        assert found == value, member
    quality: Any = last.get("qoeDataDetails", {})
    assert {member: quality.get(member) for member in expected["qoe"]} == expected["qoe"]

    calls = analytics_calls(session, viewing, identity, OPEN_DATASTREAM)
    assert [(c.call.value, c.ts) for c in calls] == [(hit["hit"], hit["ts"]) for hit in expected["hits"]]
    assert [
        (ad.details["name"], seconds(ad.time_spent_ms), ad.is_completed, ad.closed_by) for ad in viewing.ads
    ] == [
        (ad["id"], ad["timePlayed"], ad["isCompleted"], _CLOSED_BY.get(ad["closedBy"], ad["closedBy"]))
        for ad in expected["ads"]
    ]
    assert [(c.details["index"], seconds(c.time_spent_ms), c.is_completed) for c in viewing.chapters] == [
        (c["index"], c["timePlayed"], c["isCompleted"]) for c in expected["chapters"]
    ]
    added = expected["syntheticSessionComplete"]
    assert viewing.complete_added == (added is not None)
    if added is not None:
        time = added["playerTime"]
        assert (viewing.events[-1].playhead_s, viewing.events[-1].occurred_at_ms) == (
            time["playhead"],
            time["ts"],
        )
    # The vectors do not list equal_ts; spec/media-collection.md 2.1 does, and the text wins.
    assert viewing.flags - {"equal_ts"} == set(expected["flags"]) - {"equal_ts"}
