"""`pipeline records`: the records of a topic, decoded from Avro."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

from rich.console import Console
from rich.table import Table

from pipeline.commands.home import Home, opened_home
from pipeline.commands.show import jsonable, line
from pipeline.contract.codec import Codec, Undecodable
from pipeline.contract.record import StoredRecord
from pipeline.contract.topics import load_topics
from pipeline.settings import SettingError, Settings

POLL_S: Final = 0.2


class Sink(Protocol):
    """What a line is written to."""

    def write(self, text: str, /) -> object:
        """Take one piece of text."""

    def flush(self) -> object:
        """Hand on what was taken."""


def records(settings: Settings, topic: str, *, as_json: bool, follow: bool, out: Sink | None = None) -> int:
    """Print every record of the topic (and, with `follow`, those that come); return the exit code."""
    out = sys.stdout if out is None else out
    if topic not in load_topics():
        raise SettingError(f"no topic {topic!r}; there are {', '.join(load_topics())}")
    with opened_home(settings) as home:
        positions: dict[int, int] = {}
        rows = _following(home, topic, positions) if follow else read_all(home, topic, positions)
        if follow:
            with contextlib.suppress(KeyboardInterrupt):
                _print_lines(rows, home.codec, line if as_json else _text, out)
        elif as_json:
            for stored in rows:
                out.write(line(shown(stored, home.codec)) + "\n")
        else:
            _print_table(topic, rows, home.codec)
    return 0


def read_all(home: Home, topic: str, positions: dict[int, int]) -> Iterator[StoredRecord]:
    """Yield the records from `positions` on (the first ones where it has none), and move the positions."""
    for partition in range(home.reader.partitions(topic)):
        positions.setdefault(partition, home.reader.first_offset(topic, partition))
    for stored in home.reader.read(topic, dict(positions)):
        positions[stored.partition] = stored.offset + 1
        yield stored


def shown(stored: StoredRecord, codec: Codec) -> dict[str, object]:
    """Return a record as `pipeline records --json` prints it."""
    try:
        value = None if stored.value is None else codec.decode(stored.value)
    except Undecodable as error:
        value = {"undecodable": str(error), "bytes": stored.value}
    headers = {"headers": {name: jsonable(held) for name, held in stored.headers}} if stored.headers else {}
    return {
        "key": jsonable(stored.key),
        "partition": stored.partition,
        "offset": stored.offset,
        "timestamp_ms": stored.timestamp_ms,
        **headers,
        "value": jsonable(value),
    }


def _following(home: Home, topic: str, positions: dict[int, int]) -> Iterator[StoredRecord]:
    while True:
        yield from read_all(home, topic, positions)
        time.sleep(POLL_S)
        home.reader.refresh()


def _print_lines(
    rows: Iterator[StoredRecord], codec: Codec, as_text: Callable[[Mapping[str, object]], str], out: Sink
) -> None:
    """Print each record as soon as it is there."""
    for stored in rows:
        out.write(as_text(shown(stored, codec)) + "\n")
        out.flush()


def _text(as_shown: Mapping[str, object]) -> str:
    """Return a record as it is followed on a terminal."""
    place = f"{as_shown['partition']}:{as_shown['offset']}"
    return f"{place} {as_shown['key']} {line(as_shown['value'])}"


def _print_table(topic: str, rows: Iterator[StoredRecord], codec: Codec) -> None:
    table = Table(title=topic, show_lines=True)
    for column in ("partition", "offset", "key"):
        table.add_column(column)
    table.add_column("value", overflow="fold")
    for stored in rows:
        as_shown = shown(stored, codec)
        table.add_row(
            str(stored.partition), str(stored.offset), str(as_shown["key"]), line(as_shown["value"])
        )
    Console().print(table)
