"""Draw the reference pages from the tables in code: `python -m docs.generate [--check]`."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import click

from pipeline.cli import app
from pipeline.contract.topics import SCHEMAS_DIR, load_topics
from pipeline.metrics import METRICS
from pipeline.session.datastream import Datastream, Rules
from pipeline.session.fields import AD, CHAPTER, POD, SESSION
from pipeline.session.flags import FLAGS
from pipeline.session.machine import AD as AD_TABLE
from pipeline.session.machine import CHAPTER as CHAPTER_TABLE
from pipeline.session.machine import PLAYBACK
from pipeline.session.metric_rules import RULES as METRIC_RULES
from pipeline.settings import bounds, defaults, names
from pipeline.stages.datastreams import OPTIONS, RULE_OPTIONS, Keys, Option
from pipeline.stages.prepare import REASONS
from pipeline.wire.problems import RULES
from pipeline.wire.responses import EDGE_ERRORS
from pipeline.wire.tables import BACK_END, CUSTOMER_IDS, EDGE_DETAILS, EDGE_QOE, EVENTS, QOE, STATE_LISTS

DOCS: Final = Path(__file__).parent
EXAMPLE: Final = DOCS.parent / "examples" / "datastreams.toml"
TYPE_NAMES: Final[dict[type, str]] = {
    str: "text",
    Keys: "text or list of text",
    bool: "true or false",
    int: "whole number",
    float: "number",
}
_QUALITY_NOTES: Final = {
    "bitrate": "kbps, or bps where the datastream's `bitrate_unit` says so",
    "timeToStart": "ms on Media Collection, seconds on Media Edge",
    "droppedFrames": "so far",
}
CHANGING: Final = """## Changing it

- Ingest and workers read the file at their start, and all of them must have the same one: the worker judges \
every upload again, and where it comes to another verdict, that is the dead letter `door_disagrees`.
- So drain before a change: stop the ingests (their spools must be empty), let `pipeline ledger` show \
nothing pending, stop the workers, then start all with the new file.
- An id is part of every session id and visitor key. Never rename one: what devices send again would count \
again, under the new name. Keep an id that is out of use, with `disabled = true` and its report suites \
(without any it would be the open one).
- Another `PIPELINE_PSEUDONYM_KEY` changes every pseudonym at once: nobody is the same person in outputs \
before and after it.

"""
NOTE: Final = "<!-- Drawn from the code by `python -m docs.generate`; change the tables there. -->\n"


def settings() -> str:
    """Return the page of all settings."""
    rows = [
        (f"`{name}`", f"`{defaults()[name]}`", bounds()[name] or "-", doc) for name, doc in names().items()
    ]
    return _page(
        "Settings",
        "Every setting is an environment variable; a command's own option wins over it. A variable that is "
        "nearly one of them is told on standard error when a command starts.",
        _table(("Variable", "Default", "Bounds", "Meaning"), rows),
    )


def datastreams() -> str:
    """Return the page of a datastream's options, with an example that a test reads."""
    return _page(
        "Datastreams",
        "`PIPELINE_DATASTREAMS_FILE` names a TOML file with one table for each datastream; the table's name "
        "is the Edge `configId`, and `report_suites` bind Media Collection uploads. At most one may be open "
        "(without report suites): it takes what no other claims. Without an open one an unknown report suite "
        "is answered 201 and kept as the dead letter `unknown_datastream`, and an unknown `configId` gets "
        "the documented problem. Without the file one open datastream takes everything.",
        f"## Example\n\n```toml\n{EXAMPLE.read_text()}```\n\n{CHANGING}"
        f"## Options\n\n{_options(OPTIONS, Datastream()._asdict())}\n"
        "## Rules\n\nThe switches of how numbers are made, in a table `rules` of the datastream.\n\n"
        f"{_options(RULE_OPTIONS, Rules()._asdict())}",
    )


def _options(options: Mapping[str, Option], held: Mapping[str, Any]) -> str:
    rows = []
    for name, option in options.items():
        values = ", ".join(f"`{v}`" for v in option.kind) if issubclass(option.kind, StrEnum) else ""
        kind = values or ("list of text" if option.kind is list else TYPE_NAMES[option.kind])
        default = held[name]
        shown = "-" if default in ("", (), None) else f"`{json.dumps(default)}`"
        rows.append((f"`{name}`", kind, shown, option.doc))
    return _table(("Key", "Type", "Default", "Meaning"), rows)


def metrics() -> str:
    """Return the page of all metrics."""
    rows = [
        (
            f"`{m.name}`",
            m.type.value,
            ", ".join(m.labels) or "-",
            m.doc,
            ", ".join(f"{bound:g}" for bound in m.buckets) or "-",
        )
        for m in METRICS
    ]
    return _page(
        "Metrics",
        "Served at `GET /metrics` in Prometheus' text format, by the ingest on its own port and by the "
        "worker on `PIPELINE_WORKER_PORT`.",
        _table(("Name", "Type", "Labels", "Meaning", "Buckets"), rows),
    )


def flags() -> str:
    """Return the page of all flags."""
    rows = [(f"`{name}`", doc) for name, doc in FLAGS.items()]
    return _page(
        "Flags",
        "Soft problems: a session with a flag counts like any other, and says what is doubtful about it.",
        _table(("Flag", "Meaning"), rows),
    )


def errors() -> str:
    """Return the page of rules, Edge errors and reasons."""
    rules = _table(("Rule", "Meaning"), [(f"`{name}`", doc) for name, doc in RULES.items()])
    edge = _table(
        ("Code", "Status", "Title", "Detail"),
        [(f"`{code}`", str(e.status), e.title, e.detail) for code, e in EDGE_ERRORS.items()],
    )
    reasons = _table(("Reason", "Meaning"), [(f"`{name}`", doc) for name, doc in REASONS.items()])
    return _page(
        "Errors",
        "What can be wrong with an upload, and how it is answered.",
        "## Rules\n\nThe `rule` of an entry of `errors[]` in an answer or of `problems` in a record.\n\n"
        f"{rules}\n## Media Edge errors\n\nThe `type` is `https://ns.adobe.com/aep/errors/` and the code. "
        f"An item that fails validation is reported inside a 207 as `va-edge-0400-400`.\n\n{edge}\n"
        f"## Reasons\n\nWhy an upload is rejected: `reason` in its outcome and dead letter.\n\n{reasons}",
    )


def state_machine() -> str:
    """Return the page of the three tables of the state machine."""
    playback = _edges(
        (s.value, k.value, to.value) for s, row in PLAYBACK.items() for k, to in row.items() if to != s
    )
    ads = _edges(
        (s.value, _label(k.value, step.closes, step.flag), step.to.value)
        for s, row in AD_TABLE.items()
        for k, step in row.items()
        if step.to != s or step.closes or step.flag
    )
    chapters = _edges(
        (s.value, _label(k.value, step.closes, step.flag), step.to.value)
        for s, row in CHAPTER_TABLE.items()
        for k, step in row.items()
        if step.to != s or step.closes or step.flag
    )
    return _page(
        "State machine",
        "Three machines run side by side; an event that has no arrow changes nothing. "
        "An accepted adStart also sets playback to `play`.",
        f"## Playback\n\n{playback}\n## Ads\n\n{ads}\n## Chapters\n\n{chapters}",
    )


def fields() -> str:
    """Return the page of all events and fields in both wire forms."""
    parts = ["## Events\n"]
    rows = []
    for name, event in EVENTS.items():
        details = EDGE_DETAILS.get(event.kind)
        required = [f"`{param}`" for param, rule in event.params.items() if rule.required]
        rows.append(
            (
                f"`{name}`",
                f"`media.{event.kind.value}`",
                ", ".join(required) or "-",
                details.member if details else "-",
            )
        )
    parts.append(_table(("Media Collection", "Media Edge", "Required params", "Details object"), rows))
    parts.append("## Around every event\n")
    parts.append(
        _table(
            ("Media Collection", "Media Edge", "Note"),
            [
                ("`playerTime.playhead`", "`mediaCollection.playhead`", "seconds; whole ones on Media Edge"),
                ("`playerTime.ts`", "`mediaEventTimestamp`", "ms since 1970; RFC 3339 with an offset"),
                ("`customMetadata` {key: value}", "`mediaCollection.customMetadata` [{name, value}]", "text"),
                ("`qoeData`", "`mediaCollection.qoeDataDetails`", "see Quality"),
            ],
        )
    )
    tables = {"Session": SESSION, "Ad break": POD, "Ad": AD, "Chapter": CHAPTER}
    for title, table in tables.items():
        parts.append(f"## {title}\n")
        parts.append(
            _table(
                ("Media Collection param", "XDM member", "Type", "Context variable", "Required"),
                [
                    (
                        f"`{row.param}`" if row.param else "-",
                        f"`{row.member}`" if row.in_xdm else "-",
                        row.type.value,
                        f"`{row.context}`" if row.context else "-",
                        "yes" if row.required else "",
                    )
                    for row in table
                ],
            )
        )
    parts.append("## Quality\n")
    parts.append(
        _table(
            ("Media Collection qoeData", "XDM member", "Type", "Note"),
            [
                (f"`{param}`", f"`{member}`", rule.type.value, _QUALITY_NOTES.get(member, ""))
                for (param, rule), member in zip(QOE.items(), EDGE_QOE, strict=True)
            ],
        )
    )
    parts.append("## Errors and player states\n")
    parts.append(
        _table(
            ("Media Collection", "Media Edge"),
            [
                ("`media.errorId`, or `media.qoe.errorID` in qoeData", "`errorDetails.name`"),
                ("`media.errorSource`, or `media.qoe.errorSource` in qoeData", "`errorDetails.source`"),
                ("stateStart: `media.state.name`", "`statesStart[].name`"),
                ("stateEnd: `media.state.name`", "`statesEnd[].name`"),
                *((f"statesUpdate: `{n}[].media.state.name`", f"`{n}[].name`") for n in STATE_LISTS),
            ],
        )
    )
    parts.append("## Who watched, and where calls go\n")
    parts.append(
        "Params of the Media Collection sessionStart. On Media Edge the visitor is the `identityMap`, and "
        "the rest is the [datastream](datastreams.md).\n"
    )
    needed = {name: "yes" if rule.required else "" for name, rule in BACK_END.items()}
    back_end = [(f"`{n}`", rule.type.value, needed[n]) for n, rule in BACK_END.items()]
    back_end.append((f"`{CUSTOMER_IDS}`", "object: {name: {id, authState 0, 1 or 2}}", ""))
    parts.append(_table(("Param", "Type", "Required"), back_end))
    return _page("Events and fields", "One table in code maps both wire forms both ways.", "\n".join(parts))


def topics() -> str:
    """Return the page of all topics with the fields of their records."""
    parts = []
    for name, topic in load_topics().items():
        schema = json.loads((SCHEMAS_DIR / topic.schema_file).read_text())
        kept = f"{topic.retention_ms // 86_400_000} days" if topic.retention_ms else "for ever"
        placed = "by key" if topic.placed_by == "key" else "the number that its upload has"
        parts.append(
            f"## {name}\n\n{schema['doc']}\n\nKey: {topic.key}. Partition: {placed}. "
            f"Cleanup: {' + '.join(sorted(topic.cleanup))}, kept {kept}. Schema: `{topic.schema_file}`.\n"
        )
        rows = [(f"`{f['name']}`", _avro(f["type"]), f["doc"]) for f in schema["fields"]]
        parts.append(_table(("Field", "Type", "Meaning"), rows))
    return _page("Topics", "The contract with every consumer.", "\n".join(parts))


def explained() -> str:
    """Return the page of what makes each metric."""
    rows = [
        (f"`{r.metric}`", r.name, r.rule, r.source, ", ".join(s.value for s in r.spent) or "-")
        for r in METRIC_RULES
    ]
    return _page(
        "What makes each metric",
        "`pipeline explain` shows for a given upload which events and intervals made each number.",
        _table(("Metric", "Rule", "What it says", "Source", "Intervals counted"), rows),
    )


def cli() -> str:
    """Return the page of all commands."""
    parts = []
    for name, command in app.commands.items():
        parts.append(f"## pipeline {name}\n\n{inspect.cleandoc(command.help or '')}\n")
        rows = [
            (
                f"`{' '.join(p.opts)}`" if isinstance(p, click.Option) else f"`{(p.name or '').upper()}`",
                getattr(p, "help", None) or "",
            )
            for p in command.params
        ]
        parts.append(_table(("Option", "Meaning"), rows))
    return _page("Commands", "A bad setting is one line on standard error and exit code 2.", "\n".join(parts))


PAGES: Final[dict[str, Callable[[], str]]] = {
    "settings.md": settings,
    "datastreams.md": datastreams,
    "metrics.md": metrics,
    "flags.md": flags,
    "errors.md": errors,
    "state-machine.md": state_machine,
    "fields.md": fields,
    "topics.md": topics,
    "explain.md": explained,
    "cli.md": cli,
}


def main() -> int:
    """Write the pages, or with `--check` return 1 when one is not what the code gives."""
    stale = []
    for name, draw in PAGES.items():
        path, text = DOCS / name, draw()
        if "--check" not in sys.argv[1:]:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(name)
    if stale:
        sys.stderr.write(
            f"not what the code gives: {', '.join('docs/' + name for name in stale)}; run make format\n"
        )
    return 1 if stale else 0


def _page(title: str, about: str, body: str) -> str:
    return f"# {title}\n\n{NOTE}\n{about}\n\n{body.rstrip()}\n"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _edges(edges: Iterable[tuple[str, str, str]]) -> str:
    drawn = "".join(f"    {start} --> {to}: {label}\n" for start, label, to in edges)
    return f"```mermaid\nstateDiagram-v2\n{drawn}```\n"


def _label(kind: str, closes: str | None, flag: str | None) -> str:
    if flag:
        return f"{kind} (ignored, flag {flag})"
    return f"{kind} (closes, {closes})" if closes else kind


def _avro(kind: Any) -> str:
    if isinstance(kind, list):
        return " or ".join(_avro(branch) for branch in kind)
    if isinstance(kind, str):
        return kind
    if kind["type"] == "array":
        return f"array of {_avro(kind['items'])}"
    return f"map of {_avro(kind['values'])}" if kind["type"] == "map" else str(kind["name"])


if __name__ == "__main__":
    sys.exit(main())
