"""The ledger's own counting: what it keeps of what it is given."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping

from pipeline.stages.ledger import Check, Entry, balance

CHECKED = {"session": "accepted = index entries of sessions", "upload": "duplicate + rejected"}


class Value(dict[str, object]):
    """A decoded record that can be watched: a plain dict has neither weak references nor a hash."""

    __hash__ = object.__hash__  # type: ignore[assignment]


def indexed(offset: int, key: str, value: Mapping[str, object], partition: int = 0) -> Entry:
    return Entry("media.index", partition, offset, key, 1_000, value)


def found(kind: str, *entries: Entry) -> int:
    """Return how many index entries of a kind the ledger finds."""
    checks: tuple[Check, ...] = balance(entries, {}).checks
    return next(check.found for check in checks if check.name.startswith(CHECKED[kind]))


def test_a_key_that_a_rebuild_wrote_again_is_known_once() -> None:
    for kind in ("session", "upload"):
        again = [indexed(offset, f"{kind}:1", {"kind": kind}) for offset in range(2)]
        assert found(kind, *again, indexed(2, f"{kind}:2", {"kind": kind})) == 2


def test_a_key_on_another_partition_is_another_entry() -> None:
    session = {"kind": "session"}
    assert found("session", indexed(0, "session:1", session), indexed(0, "session:1", session, 1)) == 2


def test_a_key_with_a_tombstone_is_known_no_more_until_it_comes_again() -> None:
    session, gone = indexed(0, "session:1", {"kind": "session"}), {"upload_id": "of no record"}
    tombstone = indexed(1, "session:1", gone)
    assert found("session", session, tombstone) == 0
    assert found("session", session, tombstone, session._replace(offset=2)) == 1


def test_records_are_taken_one_by_one_and_let_go_of() -> None:
    alive: weakref.WeakSet[Value] = weakref.WeakSet()
    most = 0

    def entries() -> Iterator[Entry]:
        nonlocal most
        for offset in range(100):
            value = Value(session_id=f"{offset}", revision=1)
            alive.add(value)
            most = max(most, len(alive))
            yield Entry("media.sessions", 0, offset, f"{offset}", 1_000, value)

    balance(entries(), {})
    assert most <= 3


OF_THEIR_UPLOADS = "calls, rows and dead letters are of the uploads that gave them"


def outcome(upload: str, came_of_it: str) -> Entry:
    value: dict[str, object] = {
        "upload_id": upload,
        "outcome": came_of_it,
        "session_id": f"session of {upload}",
        "reason": None,
    }
    counts: dict[str, object] = {"day_changed": None, "analytics_calls": 2, "reporting_rows": 3}
    return Entry("media.outcomes", 0, 0, upload, 1_000, value | counts)


def made_of(upload: str) -> list[Entry]:
    """Return what an accepted upload and a rejected one give, as far as it is checked by upload."""
    good: dict[str, object] = {"upload_id": upload}
    bad: dict[str, object] = {"upload_id": f"bad {upload}"}
    values: list[tuple[str, dict[str, object]]] = [
        ("media.analytics.calls", good | {"call": "mediaStart"}),
        ("media.analytics.calls", good | {"call": "mediaClose"}),
        *[("media.reporting", good)] * 3,
        ("media.uploads.dlq", bad),
    ]
    return [Entry(topic, 0, offset, "key", 1_000, value) for offset, (topic, value) in enumerate(values)]


def test_one_record_lost_and_one_of_another_upload_doubled_do_not_balance() -> None:
    outcomes = [entry for u in "ab" for entry in (outcome(u, "accepted"), outcome(f"bad {u}", "rejected"))]
    records = [*made_of("a"), *made_of("b")]

    def misplaced(derived: list[Entry]) -> int:
        checks = balance([*outcomes, *derived], {}).checks
        return next(check.found for check in checks if check.name == OF_THEIR_UPLOADS)

    assert misplaced(records) == 0
    half = len(records) // 2
    for place in range(half):
        swapped = [*records[:half], *records[half:]]
        swapped[half + place] = records[place]
        assert misplaced(swapped) >= 1, f"{records[place].topic} of b is lost, and that of a doubled"
