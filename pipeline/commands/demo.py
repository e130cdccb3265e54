"""`pipeline demo`: the embedded default with the sample uploads, and what came of them."""

from __future__ import annotations

import dataclasses
import heapq
import sys
import time
from datetime import UTC, datetime
from typing import Any, Final

import httpx
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from pipeline.commands.home import Home, opened_home
from pipeline.commands.ledger import as_table, entries_of, read_ledger
from pipeline.commands.run import Embedded
from pipeline.device.examples import Example, load_examples
from pipeline.device.sender import Network, Sent, send
from pipeline.settings import Settings
from pipeline.stages.ledger import Ledger

SETTLE_S: Final = 20.0
"""How long the demo waits for the worker to carry what it sent."""
TRIES: Final = 3
BUSY: Final = (None, 503)
"""No answer in time, or one that says to come again."""
MOST_SHOWN: Final = 20
"""How many sessions are shown of a data directory that holds more."""


def demo(settings: Settings, *, serve: bool) -> int:
    """Serve, send the samples, show what came in and out; return 0 when the ledger balances."""
    # Whatever else is set: what the demo sends is in the embedded log, so that is what it reads.
    service = Embedded(dataclasses.replace(settings, kafka_bootstrap=""))
    shown: list[bool] = []
    served = service.serve(lambda: _act(service, shown, serve=serve))
    balanced = bool(shown) and shown[0]
    return served or (0 if balanced else 1)


def _act(service: Embedded, shown: list[bool], *, serve: bool) -> None:
    console = Console()
    base = f"http://{service.settings.ingest_host}:{service.port}"
    try:
        sent = _send_examples(base, console)
        with opened_home(service.settings) as home:
            ledger = _settled(home)
            console.print(_sent_table(base, sent), _sessions_table(home), as_table(ledger))
        shown.append(ledger.balances and all(example.status == s.answers[-1] for example, s in sent))
    except Exception:  # noqa: BLE001 - shown in full, and the exit code says that the demo failed
        console.print_exception()
        shown.append(False)
    if serve:
        console.print(f"Serving on [bold]{base}[/], data in {service.settings.data_dir}. Ctrl-C stops.")
    else:
        service.stop()


def _send_examples(base: str, console: Console) -> list[tuple[Example, Sent]]:
    examples = load_examples()
    sent: list[tuple[Example, Sent]] = []
    with (
        httpx.Client(base_url=base, trust_env=False) as client,
        Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as progress,
    ):
        for example in progress.track(examples, description="Sending the samples"):
            sent.append((example, delivered(client, example)))  # noqa: PERF401 - one by one, for the progress bar
    return sent


def delivered(network: Network, example: Example) -> Sent:
    """Send one sample; where a device would find the door busy, send it again."""
    for _ in range(TRIES):
        sent = send(network, example.path, example.body, most_tries=1)
        if sent.answers[-1] not in BUSY:
            break
    return sent


def _settled(home: Home) -> Ledger:
    deadline = time.monotonic() + SETTLE_S
    while True:
        ledger = read_ledger(home, time.time_ns() // 1_000_000)
        # What is read is of one moment: with nothing pending, what does not balance then never will.
        if not ledger.pending or time.monotonic() > deadline:
            return ledger
        time.sleep(0.1)
        home.reader.refresh()


def _sent_table(base: str, sent: list[tuple[Example, Sent]]) -> Table:
    table = Table(title=f"What came in, at {base}", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("sample", "path", "answer", "what it shows"):
        table.add_column(column, overflow="fold")
    for example, result in sent:
        answer = str(result.answers[-1])
        colour = "green" if result.answers[-1] == example.status else "red"
        table.add_row(example.name, example.path.split("?")[0], f"[{colour}]{answer}[/]", example.shows)
    return table


def _sessions_table(home: Home) -> Table:
    sessions = list(entries_of(home, "media.sessions"))
    latest: list[Any] = [e.value for e in heapq.nlargest(MOST_SHOWN, sessions, key=lambda e: e.timestamp_ms)]
    table = Table(
        title="What came out: "
        + (f"the last {len(latest)} of " if len(sessions) > len(latest) else "")
        + f"{len(sessions)} sessions",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 1, 0),
    )
    table.add_column("content", overflow="fold", min_width=10)
    for column, width in (
        ("content time spent", 8),
        ("completed", 9),
        ("start ts", 10),
        ("close ts", 10),
        ("lateness", 11),
    ):
        table.add_column(column, justify="right", min_width=width)
    ts: dict[tuple[str, str], int] = {}
    for entry in entries_of(home, "media.analytics.calls"):
        ts[str(entry.value["session_id"]), str(entry.value["call"])] = int(str(entry.value["ts"]))
    for session in sorted(latest, key=lambda s: int(s["time_ledger"]["started_at_ms"])):
        session_id = session["session_id"]
        name = session["dimensions"]["friendly_name"] or session["dimensions"]["name"]
        table.add_row(
            f"{escape(str(name))}\n[dim]{session_id[:8]}[/]",
            f"{session['metrics']['content_time_spent_s']} s",
            "[green]yes[/]" if session["metrics"]["is_completed"] else "no",
            _moment(ts.get((session_id, "mediaStart"))),
            _moment(ts.get((session_id, "mediaClose"))),
            _span(session["time_ledger"]["lateness_ms"]),
        )
    return table


def _moment(ts: int | None) -> str:
    if ts is None:  # the calls of a session are kept for 13 months, the session for ever
        return "no longer kept"
    return f"{ts}\n[dim]{datetime.fromtimestamp(ts, UTC):%Y-%m-%d %H:%M:%S}[/]"


def _span(span_ms: int) -> str:
    hours, minutes = divmod(abs(span_ms) // 60_000, 60)
    days, hours = divmod(hours, 24)
    sign = "-" if span_ms < 0 else ""
    return f"{sign}{days} d {hours} h" if days else f"{sign}{hours} h {minutes} min"
