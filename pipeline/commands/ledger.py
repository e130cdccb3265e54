"""`pipeline ledger`: what came in, what came out, and whether the two balance."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from rich import box
from rich.console import Console, Group
from rich.table import Table

from pipeline.commands.home import Home, opened_home
from pipeline.commands.records import read_all
from pipeline.commands.show import line
from pipeline.contract.codec import Undecodable
from pipeline.contract.positions import INDEX, UPLOADS, position_key
from pipeline.contract.record import StoredRecord
from pipeline.contract.topics import load_topics
from pipeline.settings import Settings
from pipeline.stages.derive import OUTCOMES
from pipeline.stages.ledger import HOUR_MS, Entry, Ledger, Partition, balance
from pipeline.stages.prepare import id_of_undecodable

POSITION: Final = "position"


def ledger(settings: Settings, *, as_json: bool) -> int:
    """Print the ledger; return 0 when it balances, 1 when not."""
    with opened_home(settings) as home:
        found = read_ledger(home, time.time_ns() // 1_000_000)
    if as_json:
        sys.stdout.write(line(as_dict(found)) + "\n")
    else:
        Console().print(as_table(found))
    return 0 if found.balances else 1


def read_ledger(home: Home, now_ms: int) -> Ledger:
    """Return the ledger of everything that all topics still hold."""
    topics = load_topics()
    kept_ms = min(topic.retention_ms for topic in topics.values() if topic.retention_ms)
    positions = _positions(home)
    # A worker may go on meanwhile: `balance` tells what it made since, if ends are taken in this order.
    home.reader.refresh()
    derived = [name for name in topics if name not in {UPLOADS, OUTCOMES, INDEX}]
    for topic in (*derived, OUTCOMES, UPLOADS):
        home.reader.end_offset(topic, 0)
    uploads = {
        partition: Partition(
            home.reader.first_offset(UPLOADS, partition),
            home.reader.end_offset(UPLOADS, partition),
            positions.get(partition, 0),
        )
        for partition in range(home.reader.partitions(UPLOADS))
    }
    # One by one: all of them at once would be 42 KB of memory for each session.
    read = (UPLOADS, *derived, OUTCOMES, INDEX)
    entries = (entry for topic in read for entry in entries_of(home, topic))
    # An hour of margin: what retention is removing at this moment must not look like a loss.
    return balance(entries, uploads, since_ms=now_ms - kept_ms + HOUR_MS)


def as_dict(found: Ledger) -> dict[str, object]:
    """Return the ledger as `pipeline ledger --json` prints it."""
    return {
        "balances": found.balances,
        "received": found.received,
        "pending": found.pending,
        "redelivered": found.redelivered,
        **found.outcomes,
        "reasons": dict(found.reasons),
        "checks": [{**check._asdict(), "balances": check.balances} for check in found.checks],
        "hours": [{"hour": _hour(hour), **totals} for hour, totals in found.hours.items()],
    }


def as_table(found: Ledger) -> Group:
    """Return the ledger for a terminal: totals, then the checks that don't balance."""
    totals = Table(title="Ledger", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("received", "accepted", "duplicate", "rejected", "pending", "redelivered", "balances"):
        totals.add_column(column, justify="right")
    totals.add_row(
        str(found.received),
        *(str(found.outcomes[outcome]) for outcome in ("accepted", "duplicate", "rejected")),
        str(found.pending),
        str(found.redelivered),
        "[green]yes[/]" if found.balances else "[bold red]NO[/]",
    )
    off = [check for check in found.checks if not check.balances]
    if not off:
        return Group(totals, f"All {len(found.checks)} checks balance.")
    faults = Table(
        title="Does not balance", title_justify="left", title_style="bold red", box=box.SIMPLE_HEAD
    )
    for column in ("check", "expected", "found"):
        faults.add_column(column)
    for check in off:
        faults.add_row(check.name, str(check.expected), str(check.found))
    return Group(totals, faults)


def _positions(home: Home) -> dict[int, int]:
    """Return the next offset of each partition of uploads that has one."""
    keys = {position_key(partition) for partition in range(home.reader.partitions(UPLOADS))}
    said = (_entry(stored, home).value for stored in read_all(home, INDEX, {}) if stored.key in keys)
    return {
        int(str(value["source_partition"])): int(str(value["next_offset"]))
        for value in said
        if value.get("kind") == POSITION
    }


def _entry(stored: StoredRecord, home: Home) -> Entry:
    try:
        value = home.codec.decode(stored.value)
    except Undecodable:  # a tombstone, too: in media.uploads both are dead letters by their place
        value = {"upload_id": id_of_undecodable(stored)}
    key = stored.key.decode(errors="replace")
    return Entry(stored.topic, stored.partition, stored.offset, key, stored.timestamp_ms, value)


def _hour(hour_ms: int) -> str:
    return datetime.fromtimestamp(hour_ms / 1000, UTC).strftime("%Y-%m-%dT%H:00Z")


def entries_of(home: Home, topic: str) -> Iterator[Entry]:
    """Yield the decoded records of one topic."""
    for stored in read_all(home, topic, {}):
        yield _entry(stored, home)
