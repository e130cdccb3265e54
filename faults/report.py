"""Draw `docs/verdicts.md` and its plot from the results of a run."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Final

from deploy.fetching import ROOT
from faults.cases import CASES
from faults.deployment import COPIES, MIN_INSYNC, PARTITIONS, SESSION_TIMEOUT_S
from faults.outputs import Verdict
from faults.run import RATE_PER_S, Result

PAGE: Final = ROOT / "docs" / "verdicts.md"
PLOT: Final = "verdicts.svg"
COLUMNS: Final = (
    "who",
    "what",
    "load",
    "sent",
    "acknowledged",
    "re-uploads",
    "sessions out",
    "duplicates out",
    "lost",
    "outage s",
    "recovery s",
    "verdict",
)
PAGE_TEXT: Final = """\
# Verdicts of the fault matrix

<!-- Written by `make faults`; do not edit. -->

**{line}** in {cases} cases.

Devices that follow their SDK's rules upload sessions to `pipeline ingest`, {rate} uploads a second; one in
five is a re-upload, in other bytes, of a session that was acknowledged before. Two workers carry them, on
Apache Kafka with three brokers ({copies} copies of each partition, at least {min_insync} in sync,
{partitions} partitions a topic, a session timeout of {session_timeout_s} s). Then something dies. What ended
is started again after a second.

- *sent*: HTTP requests, every retry included; *acknowledged*: those answered with success.
- *sessions out*: distinct sessions of which a `read_committed` consumer has one session record, one event
  record, one mediaStart and one mediaClose. Each acknowledged session must be one of them.
- *outage*: until the process was continued, or the one that replaced it answered; of a story with many
  faults: as long as they lasted.
- *recovery*: from the fault's begin until outputs flowed at the rate of the load again, or until the backlog
  was carried. 0.0: never in any second did less than half of the load come out, or one 3 s late.
- After each case no transaction may hang, and `pipeline ledger` must balance with nothing pending.

{table}{notes}{missing}
## Recovery time by case

![Recovery and outage of each case in seconds]({plot})

## Where and when

{first} to {last}, {minutes} minutes of cases, seed `{seed}`, {machine}. {versions}.
Code: {commits}.

`make faults SEED={seed}` makes the same choices again (who is hit, when, what is sent again); the machine's
timing is its own.
"""
LIBRARIES: Final = ("faust-streaming", "confluent-kafka", "aiokafka")


def summed(results: Sequence[Result]) -> Verdict:
    """Return the verdict on all cases together, for the line that a run ends with."""
    return Verdict(
        sum(result.sessions for result in results),
        frozenset(f"{r.role}{r.fault}{r.load}{n}" for r in results for n in range(r.lost)),
        frozenset(f"{r.role}{r.fault}{r.load}{n}" for r in results for n in range(r.duplicated)),
    )


def row(result: Result) -> tuple[str, ...]:
    """Return a result as the cells of `COLUMNS`."""
    return (
        result.role,
        result.fault,
        result.load,
        f"{result.sent:,}",
        f"{result.acknowledged:,}",
        f"{result.again:,}",
        f"{result.sessions:,}",
        str(result.duplicated),
        str(result.lost),
        f"{result.outage_s:.1f}",
        f"{result.recovery_s:.1f}",
        "good" if result.is_good else "BAD: " + "; ".join(result.faults or ("see the numbers",)),
    )


def write(results: Sequence[Result], page: Path = PAGE) -> None:
    """Write the page, with its plot beside it."""
    page.write_text(drawn(results))
    page.with_name(PLOT).write_text(plot(results))


def drawn(results: Sequence[Result]) -> str:
    """Return the page."""
    played = {r[:3] for r in results}
    dates = sorted(r.date for r in results)
    return PAGE_TEXT.format(
        line=summed(results).line(),
        cases=len(results),
        rate=f"{RATE_PER_S:.0f}",
        copies=COPIES,
        min_insync=MIN_INSYNC,
        partitions=PARTITIONS,
        session_timeout_s=SESSION_TIMEOUT_S,
        table=_table(COLUMNS, [row(result) for result in results]),
        notes=_list("Notes", [f"{_name(r)}: {'; '.join(r.notes)}" for r in results if r.notes]),
        missing=_list("Not run", [c.name for c in CASES if (c.role, c.fault, c.load) not in played]),
        plot=PLOT,
        first=dates[0],
        last=dates[-1],
        minutes=f"{sum(r.took_s for r in results) / 60:.0f}",
        seed=results[0].seed,
        machine=_machine(),
        versions=_versions(),
        commits=", ".join(f"`{commit}`" for commit in dict.fromkeys(r.commit for r in results)),
    )


def plot(results: Sequence[Result]) -> str:
    """Return bars of recovery time, each with a mark at the outage time, as SVG."""
    line, left, wide = 18, 330, 560
    longest = max((max(r.recovery_s, r.outage_s) for r in results), default=1.0) or 1.0
    per_s = wide / longest
    step = next((s for s in (1, 2, 5, 10, 20, 50, 100) if longest / s <= 10), 200)
    height = line * len(results) + 50
    found = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + wide + 60} {height}">',
        "<style>text { font: 11px sans-serif } .outage { stroke: #dd6b20; stroke-width: 3 }</style>",
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    for second in range(0, int(longest) + 1, step):
        x = left + second * per_s
        found.append(f'<line x1="{x:.0f}" y1="8" x2="{x:.0f}" y2="{height - 38}" stroke="#ddd"/>')
        found.append(
            f'<text x="{x:.0f}" y="{height - 24}" text-anchor="middle" fill="#555">{second} s</text>'
        )
    for number, result in enumerate(results):
        y = 12 + number * line
        name = escape(_name(result))
        colour = "#2b6cb0" if result.is_good else "#c53030"
        recovery, outage = result.recovery_s * per_s, left + result.outage_s * per_s
        found += [
            f'<text x="{left - 8}" y="{y + 10}" text-anchor="end" fill="#222">{name}</text>',
            f'<rect x="{left}" y="{y}" width="{recovery:.1f}" height="12" fill="{colour}"/>',
            f'<line class="outage" x1="{outage:.1f}" y1="{y - 2}" x2="{outage:.1f}" y2="{y + 14}"/>',
        ]
    found.append(
        f'<text x="{left}" y="{height - 8}" fill="#555">bar: recovery of the outputs; '
        "mark: outage of the process</text></svg>"
    )
    return "\n".join(found) + "\n"


def save(results: Sequence[Result], kept: Path) -> list[Result]:
    """Keep results for a run in parts; return them with those of other parts with the same seed, in order."""
    held = {r[:3]: r for r in _kept(kept) if r.seed == results[0].seed} | {r[:3]: r for r in results}
    order = {(case.role, case.fault, str(case.load)): place for place, case in enumerate(CASES)}
    found = sorted(held.values(), key=lambda r: order.get(r[:3], len(order)))
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps([r._asdict() for r in found], indent=1))
    return found


def _kept(path: Path) -> list[Result]:
    try:
        rows = json.loads(path.read_text())
        return [Result(**{**r, "faults": tuple(r["faults"]), "notes": tuple(r["notes"])}) for r in rows]
    except (OSError, ValueError, TypeError, KeyError):
        return []  # written by another version, or not at all: those cases count as not run


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _list(title: str, items: Sequence[str]) -> str:
    return f"\n## {title}\n\n" + "".join(f"- {item}\n" for item in items) if items else ""


def _name(result: Result) -> str:
    return f"{result.role}: {result.fault}, {result.load}"


def _machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores and {memory:.0f} GiB of memory shared by all of it, {platform.system()}"


def _versions() -> str:
    declared = (ROOT / "deploy" / "kafka" / "pom.xml").read_text()
    kafka = declared.split("<artifactId>kafka_", 1)[1].split("<version>", 1)[1].split("<", 1)[0]
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return f"Apache Kafka {kafka}, Python {platform.python_version()}, {libraries}"
