"""A session for the terminal: what was watched when, as lanes over wall clock."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.commands.evidence import print_calls, print_events, print_metrics
from pipeline.session.flags import FLAGS

COLOURS: Final = {
    "content": "green",
    "ad": "magenta",
    "pause": "yellow",
    "buffer": "red",
    "stall": "bright_red",
    "idle": "bright_black",
}
_LANE_COLOUR: Final = "cyan"
_NARROWEST: Final = 40
_NAME_WIDTH: Final = 12
_TENTHS_BELOW_MS: Final = 60_000
_SHORTEST_MS: Final = 100
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_GLYPHS: Final = {
    **dict.fromkeys(("sessionStart", "sessionComplete", "sessionEnd"), "┃"),
    **dict.fromkeys(("adBreakStart", "adStart", "chapterStart"), "◆"),
    "error": "!",
    "pauseStart": "‖",
    "bufferStart": "○",
    "play": "▸",
    "ping": "·",
}
"""What stands for an event in the lane of events."""
_OTHER: Final = "╵"
_MEANINGS: Final = {
    "┃": "start or end",
    "!": "error",
    "◆": "ad or chapter",
    "‖": "pause",
    "○": "buffer",
    "▸": "play",
    "·": "ping",
    _OTHER: "other",
}
"""The legend; where several events meet in one place, the first of this list is shown."""


def print_session(console: Console, session: dict[str, Any]) -> None:
    """Print one session of `pipeline explain`: its timeline, metrics and calls, or why it is refused."""
    console.print()
    if session["outcome"] == "rejected":
        console.print(f"[bold red]rejected[/] {session['reason']}")
        print_errors(console, session["errors"])
        return
    _header(console, session)
    console.print(_timeline(session, max(_NARROWEST, console.width - _NAME_WIDTH - 2)))
    print_metrics(console, session)
    print_events(console, session, COLOURS)
    print_calls(console, session)


def print_errors(console: Console, errors: list[dict[str, Any]]) -> None:
    """Print what is wrong and where, one line each."""
    for error in errors:
        place = error["pointer"] or "the whole body"
        console.print(
            f"  [red]{error['rule']}[/] at [bold]{escape(place)}[/]: {escape(error['message'])}",
            highlight=False,
        )


def _header(console: Console, session: dict[str, Any]) -> None:
    record = session["record"]
    times = record["time_ledger"]
    title = record["dimensions"]["friendly_name"] or record["dimensions"]["name"]
    ended = "completed" if record["metrics"]["is_completed"] else "not completed"
    console.print(f"[bold]{escape(title)}[/]  [green]{session['outcome']}[/], {ended}", highlight=False)
    took = clock(times["ended_at_ms"] - times["started_at_ms"])
    console.print(
        f"{_moment(times['started_at_ms'])} to {_moment(times['ended_at_ms'])} UTC, {took}; "
        f"viewing day {times['viewing_day']}, received {_late(times['lateness_ms'])}",
        highlight=False,
    )
    console.print(f"[dim]session {session['session_id']}[/]", highlight=False)
    for flag in session["flags"]:
        console.print(f"[yellow]⚑ {flag}[/] [dim]{escape(FLAGS[flag])}[/]", highlight=False)
    console.print()


def _timeline(session: dict[str, Any], width: int) -> Table:
    explanation = session["explanation"]
    times = session["record"]["time_ledger"]
    span_ms = max(1, times["ended_at_ms"] - times["started_at_ms"])
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    table.add_column(style="bold", justify="right", no_wrap=True, width=_NAME_WIDTH)
    table.add_column(no_wrap=True, width=width)
    table.add_row("", _axis(span_ms, width))
    for lane in explanation["lanes"]:
        name = lane["name"] if len(lane["name"]) <= _NAME_WIDTH else lane["name"][: _NAME_WIDTH - 1] + "…"
        table.add_row(name, _bars(lane, span_ms, width))
    table.add_row("events", _marks(session["events"], times["started_at_ms"], span_ms, width))
    table.add_row("", _legend(explanation["intervals"]))
    shown = {_GLYPHS.get(event["event_type"], _OTHER) for event in session["events"]}
    legend = "  ".join(f"{glyph} {meaning}" for glyph, meaning in _MEANINGS.items() if glyph in shown)
    for line in textwrap.wrap(legend, width, break_long_words=False):
        table.add_row("", Text(line, style="dim"))
    return table


def _bars(lane: dict[str, Any], span_ms: int, width: int) -> Text:
    cells = [("─", "bright_black")] * width
    is_playback = lane["name"] == "playback"
    for bar in lane["bars"]:
        first, end = _cells(bar["from_ms"], bar["to_ms"], span_ms, width)
        if is_playback:
            cells[first:end] = [("█", COLOURS[bar["label"]])] * (end - first)
        else:
            label = " ".join(bar["label"].split())
            shown = f" {label}" if cell_len(label) + 2 <= end - first else label
            style = f"black on {_LANE_COLOUR}"
            cells[first:end] = [(part, style) for part in _in_cells(set_cell_size(shown, end - first))]
    return Text.assemble(*cells)


def _in_cells(text: str) -> Iterator[str]:
    """Return what each cell holds: a wide character takes two, of which the second is empty."""
    for character in text:
        yield character
        yield from [""] * (cell_len(character) - 1)


def _marks(events: list[dict[str, Any]], started_at_ms: int, span_ms: int, width: int) -> Text:
    found: dict[int, str] = {}
    order = [*_MEANINGS]
    for event in events:
        at = min(width - 1, max(0, (event["occurred_at_ms"] - started_at_ms) * width // span_ms))
        glyph = _GLYPHS.get(event["event_type"], _OTHER)
        if at not in found or order.index(glyph) < order.index(found[at]):
            found[at] = glyph
    return Text("".join(found.get(at, " ") for at in range(width)))


def _cells(from_ms: int, to_ms: int, span_ms: int, width: int) -> tuple[int, int]:
    """Return the first cell of a stretch and the one after its last; at least one."""
    first = min(width - 1, from_ms * width // span_ms)
    return first, max(first + 1, min(width, -(-to_ms * width // span_ms)))


def _axis(span_ms: int, width: int) -> Text:
    marks = [" "] * width
    finest_ms = 1000 if span_ms >= _TENTHS_BELOW_MS else 100
    for quarter in range(5):
        label = clock(span_ms * quarter // 4 // finest_ms * finest_ms)
        start = min(width * quarter // 4, width - len(label))
        marks[start : start + len(label)] = label
    return Text("".join(marks), style="dim")


def _legend(intervals: list[dict[str, Any]]) -> Text:
    spent: dict[str, int] = {}
    for interval in intervals:
        spent[interval["spent"]] = spent.get(interval["spent"], 0) + interval["took_ms"]
    parts = [
        Text.assemble(("█ ", COLOURS[name]), f"{name} {clock(spent[name])}  ")
        for name in COLOURS
        if spent.get(name, 0) >= _SHORTEST_MS
    ]
    return Text.assemble(*parts) if parts else Text("no time passed", style="dim")


def clock(span_ms: int) -> str:
    """Return a span as h:mm:ss or m:ss, with tenths where they say something."""
    minutes, rest_ms = divmod(span_ms, 60_000)
    hours, minute = divmod(minutes, 60)
    second, tenth = divmod(rest_ms // 100, 10)
    fraction = f".{tenth}" if tenth and not hours else ""
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}{fraction}"


def _moment(at_ms: int) -> str:
    return f"{_EPOCH + timedelta(milliseconds=at_ms):%Y-%m-%d %H:%M:%S}"


def _late(lateness_ms: int) -> str:
    if lateness_ms < 0:
        return f"{clock(-lateness_ms)} before it ended, by the device's clock"
    days, rest_ms = divmod(lateness_ms, 86_400_000)
    return f"{days} d {rest_ms // 3_600_000} h later" if days else f"{clock(lateness_ms)} later"
