"""A body whose long texts every record repeats is one dead letter, and costs no memory."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pytest

from pipeline.contract.codec import Codec
from pipeline.contract.record import Record, StoredRecord
from pipeline.contract.topics import load_topics
from pipeline.stages.datastreams import OPEN_DIRECTORY
from pipeline.stages.receive import DOWNLOADED, Request
from pipeline.stages.sizes import DEFAULT_SIZES, OutputTooLarge, Sizes, require_small
from pipeline.topology import Processed, Topology
from pipeline.wire.encode import to_media_collection
from tests.fakes import FakeSchemaIds
from tests.stories import BASE_MS, story

CODEC = Codec(FakeSchemaIds())
NOW_MS = BASE_MS + 60_000
MIB = 1024 * 1024

Events = list[dict[str, Any]]


def topology_of(sizes: Sizes = DEFAULT_SIZES) -> Topology:
    return Topology(CODEC, load_topics(), OPEN_DIRECTORY, sizes=sizes)


TOPOLOGY = topology_of()


def viewing(text: str = "0 start, 0 play, 10 complete", name: str = "film-1") -> Events:
    events: Events = json.loads(to_media_collection(story(text, length=20_000, name=name)))
    return events


def routed(suites: int, server_bytes: int, name: str = "film-1") -> Events:
    """A route repeats the tracking server for each suite, and each call repeats all routes."""
    events = viewing(name=name)
    events[0]["params"]["analytics.reportSuite"] = ",".join(f"s{n}" for n in range(suites))
    events[0]["params"]["analytics.trackingServer"] = "t" * server_bytes
    return events


def chaptered(chapters: int = 3_000) -> Events:
    steps = ", ".join(f"{2 * n + 1} chapter {n}, {2 * n + 2} chaptercomplete" for n in range(1, chapters + 1))
    return viewing(f"0 start, 0 play, {steps}, 10000 complete")


def named() -> Events:
    """Each row repeats the session's name."""
    events = chaptered()
    events[0]["params"]["media.name"] = "n" * 100_000
    return events


def keyed() -> Events:
    """Each call and row repeats the session's metadata, of which there are many."""
    events = chaptered()
    events[0]["customMetadata"] = {f"k{n}": "" for n in range(5_000)}
    return events


def in_one_break() -> Events:
    """Each ad repeats its break, in one record."""
    ads = ", ".join(f"{2 * n + 1} ad 1, {2 * n + 2} adcomplete" for n in range(1, 2_001))
    events = viewing(f"0 start, 0 play, 1 break 1, {ads}, 9000 complete")
    pod = next(event for event in events if event["eventType"] == "adBreakStart")
    pod["params"]["media.ad.podFriendlyName"] = "p" * 100_000
    return events


AMPLIFIERS: dict[str, Callable[[], Events]] = {
    "one record is too large": partial(routed, 1_000, 10_000),
    "routes": partial(routed, 5_000, 50_000),
    "a long name": named,
    "many keys": keyed,
    "a long break": in_one_break,
}


def stored(bodies: Sequence[Events]) -> list[StoredRecord]:
    """Return the uploads of these bodies as one partition holds them."""
    records = []
    for number, events in enumerate(bodies):
        request = Request(DOWNLOADED, json.dumps(events).encode(), NOW_MS, "request")
        (r,) = TOPOLOGY.upload_records(TOPOLOGY.receive(request, partial("upload-{}".format, number)))
        records.append(StoredRecord(r.topic, 0, number, r.key, r.value, r.timestamp_ms))
    return records


def nothing_known(_keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
    return {}


def outcomes(records: Sequence[Record]) -> Counter[tuple[str, str | None]]:
    found = (CODEC.decode(r.value) for r in records if r.topic == "media.outcomes")
    return Counter((str(one["outcome"]), one["reason"]) for one in found)


@pytest.mark.parametrize("made", AMPLIFIERS.values(), ids=AMPLIFIERS.keys())
def test_what_would_give_too_much_is_one_dead_letter_and_its_neighbours_count(
    made: Callable[[], Events],
) -> None:
    amplifier = made()
    batch = stored([viewing(name="before"), amplifier, viewing(name="after")])
    tracemalloc.start()
    try:
        processed = TOPOLOGY.process(batch, nothing_known, NOW_MS)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 100 * MIB
    assert outcomes(processed.records) == {("accepted", None): 2, ("rejected", "record_too_large"): 1}
    (letter,) = processed.dead_letters
    assert letter.body == json.dumps(amplifier).encode()
    assert [problem.rule for problem in letter.problems] == ["output_too_large"]
    assert processed.faults == (), "it is nobody's fault but the body's"


def test_the_installation_that_each_call_repeats_is_counted_before_any_is_made() -> None:
    session = story("0 start, 0 play, 1 chapter 1, 9 chaptercomplete, 10 complete")
    visitor = session.visitor._replace(app_installation_id="i" * 100_000)
    require_small(session, 100_000, 100_000)
    with pytest.raises(OutputTooLarge):
        require_small(session._replace(visitor=visitor), 100_000, 100_000)


def test_so_many_of_them_as_one_likes_stop_no_worker() -> None:
    processed = TOPOLOGY.process(stored([routed(5_000, 50_000)] * 25), nothing_known, NOW_MS)
    assert outcomes(processed.records) == {("rejected", "record_too_large"): 25}


def test_a_day_of_films_with_hundreds_of_ads_is_far_from_the_limit() -> None:
    ads = ", ".join(
        f"{20 * n} break {n}, {20 * n} ad 15, {20 * n + 15} adcomplete, {20 * n + 15} endbreak"
        for n in range(1, 481)
    )
    day = viewing(f"0 start, 0 play, {ads}, 10000 complete")
    day[0]["customMetadata"] = {f"key{n}": "x" * 40 for n in range(20)}
    processed = TOPOLOGY.process(stored([day]), nothing_known, NOW_MS)
    assert outcomes(processed.records) == {("accepted", None): 1}
    assert processed.size_bytes < DEFAULT_SIZES.output_bytes / 5


def commits(topology: Topology, batch: Sequence[StoredRecord]) -> list[Processed]:
    """Return what the batch gives, commit after commit."""
    found = []
    while batch:
        processed = topology.process(batch, nothing_known, NOW_MS)
        found.append(processed)
        batch = batch[processed.taken :]
    return found


def test_a_batch_that_gives_more_than_one_commit_may_hold_is_several() -> None:
    topology = topology_of(Sizes(DEFAULT_SIZES.body_bytes, 1 * MIB))
    batch = stored([routed(100, 1_000, name=f"film-{number}") for number in range(20)])
    found = commits(topology, batch)
    assert len(found) > 1
    assert [one for one in found if one.size_bytes > 1 * MIB] == []
    assert sum(one.taken for one in found) == 20
    whole = topology_of().process(batch, nothing_known, NOW_MS)
    assert whole.taken == 20
    assert [r for one in found for r in one.records] == [*whole.records]
