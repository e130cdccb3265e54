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
from pipeline.stages.flood import Flooded, window_key
from pipeline.stages.receive import DOWNLOADED, EDGE, Request
from pipeline.topology import INDEX, Processed, Topology
from pipeline.wire.encode import to_media_collection, to_media_edge
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


def upload(upload_id: str, body: bytes = BODY, door: Topology = OPEN) -> StoredRecord:
    return stored(door, Request(DOWNLOADED, body, NOW_MS, "request"), upload_id)


def stored(door: Topology, request: Request, upload_id: str, **changed: Any) -> StoredRecord:
    reception = door.receive(request, lambda: upload_id)
    (made,) = reception.uploads
    (r,) = door.upload_records(
        reception._replace(uploads=(made._replace(value=made.value._replace(**changed)),))
    )
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


def reasons(processed: Processed) -> list[Any]:
    return [letter.reason for letter in processed.dead_letters]


FILM, OTHER = (Datastream(name, report_suites=("suite",)) for name in ("film", "another"))


@pytest.mark.parametrize(
    "worker",
    [topology_of(OTHER), topology_of(OTHER._replace(report_suites=())), topology_of(OPEN_DATASTREAM)],
    ids=["gone", "renamed, and open", "no file"],
)
def test_an_accepted_upload_of_a_datastream_that_the_worker_has_not_is_a_disagreement(
    worker: Topology,
) -> None:
    one = upload("one", door=topology_of(FILM))
    read_now = read(worker, one, {})
    assert (outcomes(read_now), reasons(read_now)) == (["rejected"], ["door_disagrees"])
    (problem,) = read_now.dead_letters[0].problems
    assert (problem.rule, problem.message) == ("unknown_datastream", "the worker has no datastream 'film'")


def test_a_backlog_of_such_uploads_stops_the_worker_instead_of_being_drained() -> None:
    door = topology_of(FILM)
    with pytest.raises(Flooded, match="door_disagrees"):
        topology_of(OTHER).process(
            [upload(f"upload-{n}", door=door) for n in range(20)], lambda _: {}, NOW_MS
        )


def test_what_the_door_itself_found_nobodys_stays_so_whatever_the_worker_knows() -> None:
    one = upload("one", door=topology_of(OTHER._replace(report_suites=("none",))))
    assert [reasons(read(worker, one, {})) for worker in (OPEN, topology_of(FILM))] == [
        ["unknown_datastream"]
    ] * 2


def test_another_session_id_than_the_doors_is_a_disagreement_and_none_is_not() -> None:
    request = Request(DOWNLOADED, BODY, NOW_MS, "request")
    other = read(OPEN, stored(OPEN, request, "one", session_id="0" * 64), {})
    assert reasons(other) == ["door_disagrees"]
    (problem,) = other.dead_letters[0].problems
    assert problem.rule == "session_id"
    assert problem.message.startswith(f"the door gave {'0' * 64}, the worker ")
    older = read(OPEN, stored(OPEN, request, "one", session_id=None), {})
    assert (outcomes(older), reasons(older)) == (["accepted"], [])


STRICT = topology_of(OPEN_DATASTREAM._replace(strict=True))
EDGE_BODY = (
    b'{"events":['
    + to_media_edge(story("0 start, 0 play, 10 complete")).replace(
        b'"playhead"', b'"sessionID":"x","unheardOf":1,"playhead"', 1
    )
    + b"]}"
)


@pytest.mark.parametrize("path", [DOWNLOADED, EDGE])
def test_what_was_accepted_before_a_datastream_became_strict_is_carried_as_before(path: str) -> None:
    door = topology_of(OPEN_DATASTREAM._replace(ignore_session_id=True))
    body = BODY if path == DOWNLOADED else EDGE_BODY
    one = stored(door, Request(path, body, NOW_MS, "request", config_id="default"), "one")
    sessions = [
        [record.value for record in read(worker, one, {}).records if record.topic == "media.sessions"]
        for worker in (door, STRICT)
    ]
    assert sessions[0] == sessions[1]
    flags = CODEC.decode(sessions[1][0])["flags"]
    assert {"unknown_param" if path == DOWNLOADED else "session_id_ignored"} <= set(flags)


def test_what_was_refused_while_a_datastream_was_strict_stays_invalid() -> None:
    one = upload("one", door=STRICT)
    assert reasons(read(OPEN, one, {})) == reasons(read(STRICT, one, {})) == ["invalid"]


def test_pseudonyms_make_no_disagreement() -> None:
    datastream = OPEN_DATASTREAM._replace(pseudonymise=("ecid", "aid", "vid", "identities"))
    hidden = Topology(CODEC, load_topics(), Directory((datastream,), b"key"))
    assert outcomes(read(hidden, upload("one", door=hidden), {})) == ["accepted"]


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
