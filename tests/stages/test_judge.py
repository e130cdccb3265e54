"""An upload has one outcome, whatever it would be judged to be when it is read again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

import pipeline.topology
from pipeline.commands.ledger import _entry as ledger_entry
from pipeline.contract.codec import Codec
from pipeline.contract.record import StoredRecord
from pipeline.contract.topics import load_topics
from pipeline.session.datastream import OPEN_DATASTREAM, Datastream
from pipeline.stages import prepare as prepare_module
from pipeline.stages.datastreams import Directory
from pipeline.stages.flood import window_key
from pipeline.stages.receive import DOWNLOADED, Request
from pipeline.topology import INDEX, Processed, Topology
from pipeline.wire.encode import to_media_collection
from tests.fakes import FakeSchemaIds
from tests.stories import BASE_MS, story

CODEC = Codec(FakeSchemaIds())
NOW_MS = BASE_MS + 60_000
BODY = to_media_collection(story("0 start, 0 play, 10 complete")).replace(
    b'"media.id"', b'"media.unheardOf":1,"media.id"', 1
)


def topology_of(*datastreams: Datastream) -> Topology:
    return Topology(CODEC, load_topics(), Directory(datastreams))


OPEN = topology_of(OPEN_DATASTREAM)


def upload(upload_id: str, body: bytes = BODY) -> StoredRecord:
    request = Request(DOWNLOADED, body, NOW_MS, "request")
    (r,) = OPEN.upload_records(OPEN.receive(request, lambda: upload_id))
    return StoredRecord(r.topic, 0, 7, r.key, r.value, r.timestamp_ms)


def known_of(processed: Processed) -> dict[bytes, bytes]:
    return {r.key: r.value for r in processed.records if r.topic == INDEX and r.value is not None}


def read(topology: Topology, stored: StoredRecord, index: Mapping[bytes, bytes]) -> Processed:
    def known(keys: Sequence[bytes]) -> dict[bytes, bytes]:
        return {key: index[key] for key in keys if key in index}

    return topology.process([stored], known, NOW_MS)


def outcomes(processed: Processed) -> list[Any]:
    return [CODEC.decode(r.value)["outcome"] for r in processed.records if r.topic == "media.outcomes"]


def broken(*_arguments: Any) -> Any:
    raise RuntimeError("a bug that was deployed")


@pytest.mark.parametrize(
    "changed",
    [
        topology_of(OPEN_DATASTREAM._replace(strict=True)),
        topology_of(),
        topology_of(OPEN_DATASTREAM._replace(id="another")),
    ],
    ids=["strict", "no datastream", "another datastream"],
)
def test_an_accepted_upload_that_is_read_again_under_other_rules_is_a_redelivery(changed: Topology) -> None:
    first = read(OPEN, upload("one"), {})
    assert outcomes(first) == ["accepted"]
    again = read(changed, upload("one"), known_of(first))
    assert (again.records, again.dead_letters) == ((), ())
    assert again.counts == {("pipeline_redelivered_total",): 1}


@pytest.mark.parametrize(("module", "stage"), [(pipeline.topology, "derive"), (prepare_module, "session_id")])
def test_so_it_is_when_a_stage_fails_meanwhile(
    monkeypatch: pytest.MonkeyPatch, module: Any, stage: str
) -> None:
    first = read(OPEN, upload("one"), {})
    monkeypatch.setattr(module, stage, broken)
    assert read(OPEN, upload("one"), known_of(first)).records == ()


def test_a_rejected_upload_that_would_be_accepted_now_is_a_redelivery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(pipeline.topology, "derive", broken)
        first = read(OPEN, upload("one"), {})
    assert outcomes(first) == ["rejected"]
    again = read(OPEN, upload("one"), known_of(first))
    assert [r.key for r in again.records] == [window_key(0)]  # which counts redeliveries, too


def test_another_upload_of_a_counted_session_that_can_not_be_read_now_has_an_outcome_of_its_own() -> None:
    first = read(OPEN, upload("one"), {})
    again = read(topology_of(), upload("two"), known_of(first))
    assert outcomes(again) == ["rejected"]


def test_other_poison_at_a_place_that_was_used_before_is_a_dead_letter_of_its_own() -> None:
    """A topic that is made anew, or migrated, counts its offsets from 0 again."""
    poison = StoredRecord("media.uploads", 0, 7, b"k", b"poison", NOW_MS)
    tombstone = poison._replace(value=None)
    index: dict[bytes, bytes] = {}
    for record in (poison, poison._replace(value=b"other"), tombstone, tombstone._replace(timestamp_ms=1)):
        first = read(OPEN, record, index)
        assert outcomes(first) == ["rejected"]
        index |= known_of(first)
        again = read(OPEN, record, index)
        assert (outcomes(again), again.dead_letters) == ([], ())


@pytest.mark.parametrize("value", [b"poison", None])
def test_the_ledger_knows_poison_by_the_id_of_its_outcome(value: bytes | None) -> None:
    poison = StoredRecord("media.uploads", 0, 7, b"k", value, NOW_MS)
    (outcome,) = (
        CODEC.decode(r.value) for r in read(OPEN, poison, {}).records if r.topic == "media.outcomes"
    )
    home: Any = SimpleNamespace(codec=CODEC)
    assert ledger_entry(poison, home).value["upload_id"] == outcome["upload_id"]
