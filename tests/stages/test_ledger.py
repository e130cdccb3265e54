"""The ledger's own counting: what it keeps of what it is given."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping

from pipeline.stages.ledger import Check, Entry, Partition, balance

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


UPLOADS = {0: Partition(first_offset=0, end_offset=3, position=1)}
"""One of three uploads was carried when the positions were read."""


def received(offset: int) -> Entry:
    return Entry("media.uploads", 0, offset, "key", 1_000, {"upload_id": f"u{offset}"})


def came_of(offset: int) -> list[Entry]:
    """Return all that a rejected upload gives, its position last."""
    source: dict[str, object] = {"source_partition": 0, "source_offset": offset}
    ended = outcome(f"u{offset}", "rejected")
    letter: dict[str, object] = {"upload_id": f"u{offset}"}
    known: dict[str, object] = {"upload_id": f"u{offset}", "kind": "upload"}
    position: dict[str, object] = {"kind": "position", "source_partition": 0, "next_offset": offset + 1}
    return [
        Entry("media.uploads.dlq", 0, offset, "key", 1_000, letter),
        ended._replace(value={**ended.value, **source}),
        indexed(2 * offset, f"upload:{offset}", known | source),
        indexed(2 * offset + 1, "position:0", position),
    ]


def test_what_was_made_of_uploads_after_the_positions_is_left_out() -> None:
    stored = [received(offset) for offset in range(3)]
    for carried in (1, 2, 3, 4):
        made = [came_of(offset) for offset in range(carried)]
        # Of one that came when the end of uploads had been taken only the index tells: its end is taken last.
        entries = [entry for of in made[:3] for entry in of] + [entry for of in made[3:] for entry in of[2:]]
        found = balance([*stored, *entries], UPLOADS)
        assert [check for check in found.checks if not check.balances] == []
        assert (found.received, found.pending, found.outcomes["rejected"]) == (3, 2, 1)


def test_an_outcome_that_its_position_never_follows_does_not_balance() -> None:
    stored = [received(offset) for offset in range(3)]
    made = [entry for offset in range(2) for entry in came_of(offset)]
    found = balance([*stored, *made[:-1]], UPLOADS)
    assert [check.name for check in found.checks if not check.balances] == ["no outcome without its position"]


def test_a_day_that_only_a_later_upload_changed_is_left_out() -> None:
    stored = [received(offset) for offset in range(3)]

    def ended(offset: int, day: str) -> Entry:
        of_it = came_of(offset)[1]
        return of_it._replace(value={**of_it.value, "outcome": "accepted", "day_changed": day})

    def differences(*days: str) -> list[Check]:
        changed = [Entry("media.days.changed", 0, n, day, 1_000, {}) for n, day in enumerate(days)]
        checks = balance([*stored, *changed, ended(0, "monday"), ended(1, "friday")], UPLOADS).checks
        return [check for check in checks if check.name == "changed days" and not check.balances]

    assert not differences("monday")
    assert not differences("monday", "friday")
    assert differences("friday")
    assert differences("monday", "sunday")
