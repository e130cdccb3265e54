"""A session for the terminal: lanes over wall clock, each metric with what made it, the calls."""

from __future__ import annotations

from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

_COLOURS: Final = {
    "content": "green",
    "ad": "magenta",
    "pause": "yellow",
    "buffer": "red",
    "stall": "bright_red",
    "idle": "bright_black",
}
_LEGEND: Final = " ".join(f"[{colour}]█[/] {name}" for name, colour in _COLOURS.items())
_LANE_COLOUR: Final = "cyan"
NARROWEST: Final = 40
MOST_INTERVALS: Final = 6


def print_session(console: Console, session: dict[str, Any]) -> None:
    """Print one session of `pipeline explain`: its timeline, metrics and calls, or why it is refused."""
    if session["outcome"] == "rejected":
        console.print(f"[bold red]rejected[/] {session['reason']}")
        for error in session["errors"]:
            console.print(f"  [red]{error['rule']}[/] at {error['pointer']}: {escape(error['message'])}")
        return
    record = session["record"]
    title = record["dimensions"]["friendly_name"] or record["dimensions"]["name"]
    console.print()
    console.print(f"[bold]{escape(title)}[/]  {session['outcome']}  [dim]{session['session_id']}[/]")
    if session["flags"]:
        console.print(f"flags: [yellow]{', '.join(session['flags'])}[/]")
    console.print(_timeline(session, max(NARROWEST, console.width - 22)))
    console.print(_metrics(session))
    console.print(_calls(session))


def _timeline(session: dict[str, Any], width: int) -> Table:
    lanes = session["explanation"]["lanes"]
    times = session["record"]["time_ledger"]
    span_ms = max(1, times["ended_at_ms"] - times["started_at_ms"])
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    table.add_column(style="bold", justify="right", no_wrap=True, width=16)
    table.add_column(no_wrap=True)
    for lane in lanes:
        table.add_row(lane["name"][:16], _bars(lane, span_ms, width))
    table.add_row("", _axis(span_ms, width))
    table.add_row("", Text.from_markup(_LEGEND))
    return table


def _bars(lane: dict[str, Any], span_ms: int, width: int) -> Text:
    cells = [(" ", "")] * width
    for bar in lane["bars"]:
        first = min(width - 1, bar["from_ms"] * width // span_ms)
        last = max(first + 1, min(width, -(-bar["to_ms"] * width // span_ms)))
        is_playback = lane["name"] == "playback"
        colour = _COLOURS[bar["label"]] if is_playback else _LANE_COLOUR
        label = "" if is_playback else bar["label"]
        for cell in range(first, last):
            at = cell - first - 1
            shown = label[at] if 0 <= at < len(label) and cell < last - 1 else "█" if is_playback else " "
            cells[cell] = (shown, colour if is_playback else f"black on {colour}")
    return Text.assemble(*cells)


def _axis(span_ms: int, width: int) -> Text:
    marks = [" "] * (width + 8)
    for quarter in range(5):
        label = _clock(span_ms * quarter // 4)
        start = min(width * quarter // 4, width - len(label))
        marks[start : start + len(label)] = label
    return Text("".join(marks).rstrip(), style="dim")


def _clock(span_ms: int) -> str:
    minutes, second = divmod(span_ms // 1000, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def _metrics(session: dict[str, Any]) -> Table:
    table = Table(title="Metrics, and what made them", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("because", overflow="fold")
    for because in session["explanation"]["metrics"]:
        value = because["value"]
        if value in (None, 0, False, ()) and not because["events"]:
            continue
        reasons = [f"{i['from_sequence']}→{i['to_sequence']} {i['took_ms']} ms" for i in because["intervals"]]
        reasons += [f"event {sequence}" for sequence in because["events"]]
        shown = ", ".join(reasons[:MOST_INTERVALS])
        more = f" and {len(reasons) - MOST_INTERVALS} more" if len(reasons) > MOST_INTERVALS else ""
        text = f"{because['rule']} [dim]({because['source']})[/]"
        table.add_row(because["metric"], _value(value), f"{text}\n[dim]{shown}{more}[/]" if reasons else text)
    return table


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(str(part) for part in value)
    return f"{value:.4f}" if isinstance(value, float) else escape(str(value))


def _calls(session: dict[str, Any]) -> Table:
    table = Table(title="Analytics calls", title_justify="left")
    for column in ("call", "ts", "pev3"):
        table.add_column(column)
    table.add_column("context", justify="right")
    for call in session["analytics_calls"]:
        table.add_row(call["call"], str(call["ts"]), call["pev3"], f"{len(call['context'])} values")
    return table
