"""The evidence for the terminal: each metric with what made it, the events, the derived calls and rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

MOST_RUNS: Final = 5
MOST_EVENT_ROWS: Final = 60
FOLDED_PINGS: Final = 3
"""From so many pings in a row on, one line stands for all that count as the same."""

_GROUPS: Final = {
    "Time": (
        "content_time_spent_ms",
        "ad_time_spent_ms",
        "media_time_spent_ms",
        "unique_time_played_ms",
        "pause_time_ms",
        "buffer_time_ms",
        "stall_time_ms",
    ),
    "Viewing": (
        "is_played",
        "is_completed",
        "is_dropped_before_start",
        "progress_markers",
        "segment",
        "average_minute_audience",
        "estimated_streams",
        "has_resume",
        "is_authorized",
    ),
    "Counts": ("ad_count", "chapter_count", "pause_count", "buffer_count", "stall_count", "states"),
    "Quality": (
        "time_to_start_ms",
        "bitrate_average_kbps",
        "bitrate_average_bucket",
        "bitrate_change_count",
        "dropped_frames",
        "frames_per_second",
        "error_count",
        "player_sdk_errors",
        "external_errors",
    ),
}
"""The metrics in the order of reading. What is the same for every upload is only in `--json`."""


def print_metrics(console: Console, session: dict[str, Any]) -> None:
    """Print every metric that says something, its rule and what made it; the others in one line."""
    found = {because["metric"]: because for because in session["explanation"]["metrics"]}
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), expand=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", style="bold", max_width=24, overflow="fold")
    table.add_column(ratio=1, overflow="fold")
    silent = []
    for group, metrics in _GROUPS.items():
        shown = [found[metric] for metric in metrics if _says_something(found[metric])]
        silent += [found[metric]["name"] for metric in metrics if not _says_something(found[metric])]
        if shown:
            table.add_row(f"[cyan]{group}[/]")
        for because in shown:
            table.add_row(f"  {because['name']}", _value(because), _why(because))
    console.print()
    console.print(table)
    _parts(console, session["explanation"])
    if silent:
        console.print(f"[dim]  none, no or 0: {', '.join(silent)}[/]", highlight=False)


def _parts(console: Console, explanation: Mapping[str, Any]) -> None:
    for title in ("ads", "chapters"):
        if explanation[title]:
            console.print(f"[cyan]{title.capitalize()}[/]")
        for part in explanation[title]:
            done = "complete" if part["is_completed"] else f"not complete, closed by {part['closed_by']}"
            console.print(
                f"  {escape(part['name'])}: [bold]{_span(part['time_spent_ms'])}[/], {done}"
                f"  [dim]events {part['from_sequence']} to {part['to_sequence']}[/]",
                highlight=False,
            )


def _says_something(because: Mapping[str, Any]) -> bool:
    return because["value"] not in (None, 0, False, (), [])


def _value(because: Mapping[str, Any]) -> str:
    value = because["value"]
    if because["metric"] == "states":
        return str(len(value))
    if value is True:
        return "yes"
    if because["metric"].endswith("_kbps"):
        return f"{value} kbps"
    if because["metric"].endswith("_ms"):
        return _span(value)
    if isinstance(value, (tuple, list)):
        return escape(" ".join(str(part) for part in value))
    return f"{value:.4f}" if isinstance(value, float) else escape(str(value))


def _why(because: Mapping[str, Any]) -> Text:
    """Return the rule, or what it came to, and after it the events and intervals that made the value."""
    text = Text(because["detail"] or because["rule"])
    runs = [] if because["detail"] else _runs(because["intervals"])
    evidence = [f"{a}→{b} {_span(ms)}" for a, b, ms in runs[:MOST_RUNS]] if len(runs) > 1 else []
    evidence += [f"{a}→{b}" for a, b, _ in runs] if len(runs) == 1 else []
    if len(runs) > MOST_RUNS:
        evidence.append(f"{len(runs) - MOST_RUNS} more")
    events = [str(sequence) for sequence in because["events"]]
    if events:
        more = f" and {len(events) - MOST_RUNS} more" if len(events) > MOST_RUNS else ""
        evidence.append(f"event{'s' if len(events) > 1 else ''} {', '.join(events[:MOST_RUNS])}{more}")
    if evidence:
        text.append(f"  {', '.join(evidence)}", style="dim")
    return text


def _runs(intervals: list[dict[str, Any]]) -> list[tuple[int, int, int]]:
    """Return stretches of neighbouring intervals: first event, last event, time counted."""
    runs: list[tuple[int, int, int]] = []
    for interval in intervals:
        first, end, ms = interval["from_sequence"], interval["to_sequence"], interval["counted_ms"]
        if runs and runs[-1][1] == first:
            runs[-1] = (runs[-1][0], end, runs[-1][2] + ms)
        else:
            runs.append((first, end, ms))
    return runs


def print_events(console: Console, session: dict[str, Any], colours: Mapping[str, str]) -> None:
    """Print the events with what the time after each counted as; pings in a row are folded."""
    events, intervals = session["events"], session["explanation"]["intervals"]
    spent = {interval["from_sequence"]: interval for interval in intervals}
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="cyan")
    table.add_column("Events", justify="right", no_wrap=True)
    table.add_column("at", justify="right", no_wrap=True)
    table.add_column("")
    table.add_column("playhead", justify="right", no_wrap=True)
    table.add_column("and then", no_wrap=True)
    start_ms = session["record"]["time_ledger"]["started_at_ms"]
    rows = [*_folded(events, spent)]
    for first, last in rows[:MOST_EVENT_ROWS]:
        event = events[first]
        counted = sum(spent[n]["took_ms"] for n in range(first, last + 1) if n in spent)
        kind = spent[first]["spent"] if first in spent else ""
        name = event["event_type"] if first == last else f"{last - first + 1} pings"
        table.add_row(
            str(first) if first == last else f"{first}-{last}",
            _span(event["occurred_at_ms"] - start_ms),
            f"{name}{_of(event)}{' [dim](added)[/]' if event['is_added'] else ''}",
            f"{event['playhead_s']:g}",
            f"[{colours[kind]}]█[/] {kind} {_span(counted)}{_seek(spent[last])}" if kind and counted else "",
        )
    console.print()
    console.print(table)
    if len(rows) > MOST_EVENT_ROWS:
        console.print(f"[dim]  {len(rows) - MOST_EVENT_ROWS} more lines: --json has every event[/]")


def _seek(interval: Mapping[str, Any]) -> str:
    return " [yellow]seek[/]" if interval["is_seek"] else ""


def _folded(events: list[dict[str, Any]], spent: Mapping[int, Any]) -> list[tuple[int, int]]:
    """Return first and last sequence of each line."""
    lines: list[tuple[int, int]] = []
    at = 0
    while at < len(events):
        end = at
        while (
            end + 1 < len(events)
            and events[at]["event_type"] == events[end + 1]["event_type"] == "ping"
            and end + 1 in spent
            and spent[end + 1]["spent"] == spent[at]["spent"]
            and not spent[end]["is_seek"]
        ):
            end += 1
        if end - at + 1 < FOLDED_PINGS:
            lines += [(n, n) for n in range(at, end + 1)]
        else:
            lines.append((at, end))
        at = end + 1
    return lines


def _of(event: Mapping[str, Any]) -> str:
    """Return what an event is about, for people."""
    details = event["details"]
    about = [*event["states_started"], *(f"-{name}" for name in event["states_ended"])]
    if event["event_type"] in {"adStart", "error", "sessionStart"} and details.get("name"):
        about.append(str(details["name"]))
    elif event["event_type"] == "chapterStart":
        about.append(str(details.get("friendlyName") or details.get("index", "")))
    return f" [dim]{escape(' '.join(about))}[/]" if about else ""


def print_calls(console: Console, session: dict[str, Any]) -> None:
    """Print the derived analytics calls and how many rows of which kind there are."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="cyan")
    table.add_column("Calls", no_wrap=True)
    table.add_column("ts", no_wrap=True)
    table.add_column("")
    for call in session["analytics_calls"]:
        at = datetime.fromtimestamp(call["ts"], UTC) if abs(call["ts"]) < _YEAR_9999_S else None
        when = f"{call['ts']} [dim]{at:%Y-%m-%d %H:%M:%S}[/]" if at else str(call["ts"])
        context = call["context"]
        table.add_row(call["call"], when, f"{escape(_says(context))} [dim]{len(context)} values[/]")
    console.print()
    console.print(table)
    rows = Counter(row["eventType"] for row in session["reporting_rows"])
    listed = ", ".join(f"{kind} {count}" if count > 1 else kind for kind, count in rows.items())
    console.print(f"[cyan]Rows[/]   {listed}", highlight=False)


_YEAR_9999_S: Final = 253_402_300_800


def _says(context: Mapping[str, str]) -> str:
    """Return the few words that tell one call from another."""
    for part in ("ad", "chapter"):
        own = {name.removeprefix(f"a.media.{part}."): value for name, value in context.items()}
        if f"a.media.{part}.length" in context:
            title = own.get("friendlyName") or own.get("position") or own.get("name", "")
            done = ", complete" if "complete" in own else ""
            return f"{title}, {own['timePlayed']} s{done}" if "timePlayed" in own else title
    if "a.media.timePlayed" not in context:
        return context.get("a.media.friendlyName") or context.get("a.media.name", "")
    done = ", complete" if "a.media.complete" in context else ""
    return f"{context['a.media.timePlayed']} s of {context['a.media.totalTimePlayed']} s{done}"


def _span(ms: int) -> str:
    """Return a span as m:ss.mmm or h:mm:ss.mmm, without what is zero at the end."""
    sign, ms = ("-", -ms) if ms < 0 else ("", ms)
    minutes, rest_ms = divmod(ms, 60_000)
    hours, minute = divmod(minutes, 60)
    second, milli = divmod(rest_ms, 1000)
    fraction = f".{milli:03d}" if milli else ""
    clock = f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
    return f"{sign}{clock}{fraction}"
