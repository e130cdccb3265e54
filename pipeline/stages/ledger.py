"""The ledger: proves that what came in equals what went out (DESIGN.md 2.4).

*Received* counts upload ids where the door put them; everything else counts what came out. Each
outcome says how many records of every derived topic it gave, so that one missing or extra record of
any topic is a difference. Totals are exact over the hours that every topic still holds.

It is of the moment at which the positions were read. A worker goes on while the rest is read: what it made of
uploads from those positions on is left out, and must have moved them by the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

HOUR_MS: Final = 3_600_000

OUTCOMES: Final = ("accepted", "duplicate", "rejected")


class Entry(NamedTuple):
    """One decoded record as the ledger reads it, with the position of the worker in its partition."""

    topic: str
    partition: int
    offset: int
    key: str
    timestamp_ms: int
    value: Mapping[str, object]


class Check(NamedTuple):
    """One equation of the ledger: it balances when `expected` equals `found`."""

    name: str
    expected: int
    found: int

    @property
    def balances(self) -> bool:
        """Whether both sides are equal."""
        return self.expected == self.found


class Ledger(NamedTuple):
    """Totals by outcome, and every check; `hours` are the same totals per hour of receipt."""

    received: int
    redelivered: int
    pending: int
    outcomes: Mapping[str, int]
    reasons: Mapping[str, int]
    checks: tuple[Check, ...]
    hours: Mapping[int, Mapping[str, int]]

    @property
    def balances(self) -> bool:
        """Whether every check balances."""
        return all(check.balances for check in self.checks)


class Partition(NamedTuple):
    """The bounds of one partition of `media.uploads`, and how far the worker had read before all else was."""

    first_offset: int
    end_offset: int
    position: int


def balance(entries: Iterable[Entry], uploads: Mapping[int, Partition], since_ms: int = 0) -> Ledger:
    """Return the ledger of all records from `since_ms` on (by time of receipt).

    Those of `media.uploads` come first, up to an end that was taken after those of all topics but
    `media.index`: they tell what was made of uploads after the positions. Those of `media.index`, up to where
    it is when all else is read, come last: they hold the positions of what was left out.
    """
    books = _Books(since_ms)
    for entry in entries:
        books.enter(entry, uploads)
    return books.closed(uploads)


class _Books:
    """The counts that the checks are made of."""

    def __init__(self, since_ms: int) -> None:
        self._since_ms = since_ms
        self._upload_ids: dict[str, int] = {}
        self._carried_ids: set[str] = set()
        self._upload_records = 0
        self._carried_records = 0
        self._migrated_ids: set[str] = set()
        self._outcomes: dict[str, Mapping[str, object]] = {}
        self._outcome_records = 0
        self._found: Counter[str] = Counter()
        self._made_of: Counter[str] = Counter()
        """Sums of the hashes of the uploads that records were made of: the same when they are the same."""
        self._indexed: dict[object, set[int]] = {"session": set(), "upload": set()}
        self._sessions: set[str] = set()
        self._revisions: set[tuple[str, str]] = set()
        self._session_records = 0
        self._events: set[str] = set()
        self._days: set[str] = set()
        self._hours: dict[int, Counter[str]] = {}
        self._later_days: set[str] = set()
        self._later: dict[int, int] = {}
        """Up to which offset outcomes were met that are later than the positions, by partition of uploads."""
        self._positions: dict[int, int] = {}
        """The positions as they are at the end."""

    def enter(self, entry: Entry, uploads: Mapping[int, Partition]) -> None:
        """Count one record; records before the window are left out."""
        value = entry.value
        if entry.topic == "media.index" and value.get("migrated_from") is not None:
            # It belongs to the ledger of its prefix; its upload, met here again, is a redelivery.
            self._migrated_ids.add(str(value.get("upload_id")))
            return
        if entry.timestamp_ms < self._since_ms or self._is_left_out(entry, uploads):
            return
        hour = self._hours.setdefault(entry.timestamp_ms // HOUR_MS * HOUR_MS, Counter())
        match entry.topic:
            case "media.uploads":
                upload_id = str(value["upload_id"])
                self._upload_records += 1
                if upload_id not in self._upload_ids:
                    self._upload_ids[upload_id] = entry.timestamp_ms
                    hour["received"] += 1
                if entry.offset < uploads[entry.partition].position:
                    self._carried_records += 1
                    self._carried_ids.add(upload_id)
            case "media.outcomes":
                self._outcome_records += 1
                self._outcomes[str(value["upload_id"])] = value
                hour[str(value["outcome"])] += 1
            case "media.sessions":
                self._session_records += 1
                self._sessions.add(str(value["session_id"]))
                self._revisions.add((str(value["session_id"]), str(value["revision"])))
            case "media.events":
                self._events.add(str(value["session_id"]))
                self._found[entry.topic] += 1
            case "media.analytics.calls":
                self._find(entry.topic, value)
                self._find(f"call {value['call']}", value)
            case "media.days.changed":
                self._days.add(entry.key)
            case "media.index":
                self._enter_indexed(entry)
            case _:
                self._find(entry.topic, value)

    def _is_left_out(self, entry: Entry, uploads: Mapping[int, Partition]) -> bool:
        """Return whether this was made of an upload that came after the positions, and note outcomes."""
        value = entry.value
        upload_id = value.get("upload_id")
        if entry.topic == "media.uploads" or upload_id in self._carried_ids:
            return False
        source = (value.get("source_partition"), value.get("source_offset"))
        if upload_id not in self._upload_ids:
            return entry.topic == "media.index" and _is_beyond(source, uploads)
        if entry.topic == "media.outcomes":
            partition, offset = (int(str(number)) for number in source)
            self._later[partition] = max(offset + 1, self._later.get(partition, 0))
            self._later_days.add(str(value["day_changed"]))
        return True

    def _find(self, what: str, value: Mapping[str, object]) -> None:
        self._found[what] += 1
        self._made_of[what] += hash(value["upload_id"])

    def _enter_indexed(self, entry: Entry) -> None:
        """Keep which keys are known, not how often: a rebuild writes every entry again."""
        key = hash((entry.partition, entry.key))  # a set of numbers is half as large as one of keys
        kind = entry.value.get("kind")
        if kind == "position":
            self._positions[int(str(entry.value["source_partition"]))] = int(str(entry.value["next_offset"]))
        elif kind in self._indexed:
            self._indexed[kind].add(key)
        elif kind is None:  # a tombstone: whatever the key was, it is known no more
            for known in self._indexed.values():
                known.discard(key)

    def closed(self, uploads: Mapping[int, Partition]) -> Ledger:
        """Return the ledger with every check."""
        by_outcome = Counter(str(value["outcome"]) for value in self._outcomes.values())
        accepted = [v for v in self._outcomes.values() if v["outcome"] == "accepted"]
        pending_records = sum(p.end_offset - max(p.position, p.first_offset) for p in uploads.values())
        waiting_ids = set(self._upload_ids) - self._carried_ids
        ended_before = (self._carried_ids & self._migrated_ids) - set(self._outcomes)
        carried_ids = self._carried_ids - ended_before
        changed_days = {str(v["day_changed"]) for v in accepted if v["day_changed"]}
        ahead = [p for p, after in self._later.items() if after > self._positions.get(p, 0)]
        days = self._days - (self._later_days - changed_days)
        refused = by_outcome["duplicate"] + by_outcome["rejected"]
        sessions = {str(v["session_id"]) for v in accepted}
        rejected = [v for v in self._outcomes.values() if v["outcome"] == "rejected"]
        found = self._found
        misplaced = [
            name
            for name, outcomes, member in (
                ("call mediaStart", accepted, None),
                ("call mediaClose", accepted, None),
                ("media.analytics.calls", accepted, "analytics_calls"),
                ("media.reporting", accepted, "reporting_rows"),
                ("media.uploads.dlq", rejected, None),
            )
            if self._made_of[name] != _sum_of_uploads(outcomes, member)
        ]
        indexed = {kind: len(keys) for kind, keys in self._indexed.items()}
        checks = (
            Check(
                "uploads stored = uploads read + pending",
                self._upload_records - self._carried_records,
                pending_records,
            ),
            Check("upload ids read = outcomes", len(carried_ids), len(self._outcomes)),
            Check(
                "upload ids read and outcomes are the same ids",
                0,
                len(carried_ids ^ set(self._outcomes)),
            ),
            Check("no outcome without its position", 0, len(ahead)),
            Check("one outcome record per upload id", len(self._outcomes), self._outcome_records),
            Check("accepted = distinct sessions", by_outcome["accepted"], len(sessions & self._sessions)),
            Check("one session record per session and revision", len(self._revisions), self._session_records),
            Check("no session without its outcome", 0, len(self._sessions - sessions)),
            Check("accepted = event records", by_outcome["accepted"], found["media.events"]),
            Check("event records are of accepted sessions", 0, len(self._events ^ sessions)),
            Check("accepted = media starts", by_outcome["accepted"], found["call mediaStart"]),
            Check("accepted = media closes", by_outcome["accepted"], found["call mediaClose"]),
            Check("analytics calls", _total(accepted, "analytics_calls"), found["media.analytics.calls"]),
            Check("reporting rows", _total(accepted, "reporting_rows"), found["media.reporting"]),
            Check("changed days", len(changed_days), len(days)),
            Check("rejected = dead letters", by_outcome["rejected"], found["media.uploads.dlq"]),
            Check("calls, rows and dead letters are of the uploads that gave them", 0, len(misplaced)),
            Check("accepted = index entries of sessions", by_outcome["accepted"], indexed["session"]),
            Check("duplicate + rejected = index entries of uploads", refused, indexed["upload"]),
        )
        return Ledger(
            received=len(self._upload_ids) - len(ended_before),
            redelivered=self._carried_records - len(carried_ids),
            pending=len(waiting_ids),
            outcomes={outcome: by_outcome[outcome] for outcome in OUTCOMES},
            reasons=Counter(str(v["reason"]) for v in self._outcomes.values() if v["reason"]),
            checks=checks,
            hours=dict(sorted(self._hours.items())),
        )


def _is_beyond(source: tuple[object, object], uploads: Mapping[int, Partition]) -> bool:
    """Return whether an upload came when the end of its partition had been taken."""
    partition, offset = source
    if not isinstance(partition, int) or not isinstance(offset, int) or partition not in uploads:
        return False
    return offset >= uploads[partition].end_offset


def _sum_of_uploads(outcomes: Iterable[Mapping[str, object]], member: str | None) -> int:
    """Return what the records that these outcomes gave add up to, one each where no member counts them."""
    return sum(hash(v["upload_id"]) * (int(str(v[member])) if member else 1) for v in outcomes)


def _total(outcomes: Iterable[Mapping[str, object]], member: str) -> int:
    return sum(int(str(value[member])) for value in outcomes)
