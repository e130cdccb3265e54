"""`make faults`: run the fault matrix, show it live, write `docs/verdicts.md`; exit 1 when a case is bad."""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.table import Table

from deploy.fetching import ROOT, why_not
from faults.cases import CASES, ROLES, Case
from faults.report import COLUMNS, row, save, summed, write
from faults.run import Progress, Result, run

KEPT: Final = ROOT / ".data" / "faults.json"
WIDTH: Final = 160
REFRESH_PER_S: Final = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases that are asked for; return 0 when every one is good, 1 when not, 2 when it can't run."""
    options = _options(arguments)
    reason = why_not()
    if reason:
        print(f"the fault matrix needs Apache Kafka: {reason}", file=sys.stderr)
        return 2
    cases = _chosen(options.short, options.only)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(f"{len(cases)} cases, seed {options.seed}")
    began = time.monotonic()
    screen = _Screen(began)
    results: list[Result] = []
    try:
        with Live(screen, console=console, refresh_per_second=REFRESH_PER_S, transient=True):
            for result in run(cases, options.seed, screen.show, is_short=options.short):
                results.append(result)
                style = None if result.is_good else "bold red"
                console.print(_sentence(result), style=style, soft_wrap=True)
    except KeyboardInterrupt:
        console.print("stopped; every process is gone", style="bold")
    if results and not options.short:
        write(save(results, KEPT))
    console.print(_table(results))
    console.print(f"{len(results)} of {len(cases)} cases in {(time.monotonic() - began) / 60:.1f} minutes")
    print(summed(results).line())
    return 0 if len(results) == len(cases) and all(result.is_good for result in results) else 1


class _Screen:
    """What the person who waits sees: drawn anew by `Live`, some times a second."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._progress: Progress | None = None

    def show(self, progress: Progress) -> None:
        """Take the present state."""
        self._progress = progress

    def __rich__(self) -> str:
        took = f"{time.monotonic() - self._began:4.0f} s"
        if (now := self._progress) is None:
            return f"{took}  starting three brokers, topics, ingest and workers"
        return f"{took}  case {now.number}/{now.of}  [bold]{now.case}[/]  {now.phase}\n{now.counts()}"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a part that takes under 5 minutes, for CI")
    parser.add_argument("--seed", default=secrets.token_hex(3), help="make the choices of an earlier run")
    parser.add_argument("--only", choices=ROLES, action="append", help="only the cases of this role")
    return parser.parse_args(arguments)


def _chosen(short: bool, only: Sequence[str] | None) -> list[Case]:
    return [c for c in CASES if (c.in_short or not short) and (not only or c.role in only)]


def _sentence(result: Result) -> str:
    said = f"{result.role}: {result.fault}, {result.load}: {result.sessions} sessions, lost {result.lost}, "
    said += f"duplicated {result.duplicated}, outage {result.outage_s} s, recovery {result.recovery_s} s"
    return "; ".join((f"{said} ({result.took_s:.0f} s)", *result.notes, *result.faults))


def _table(results: Sequence[Result]) -> Table:
    table = Table(*COLUMNS, title="Verdicts", title_justify="left")
    for result in results:
        table.add_row(*row(result))
    return table


if __name__ == "__main__":
    sys.exit(main())
