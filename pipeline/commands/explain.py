"""`pipeline explain`: what the pipeline makes of a body, without any log or broker."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape

from pipeline.commands.configured import load_directory
from pipeline.commands.show import jsonable, line
from pipeline.commands.timeline import print_errors, print_session
from pipeline.session.explain import Because, Part
from pipeline.session.explain import explain as explained
from pipeline.settings import SettingError, Settings
from pipeline.stages import receive
from pipeline.stages.datastreams import Directory
from pipeline.stages.derive import derive_session
from pipeline.stages.prepare import Identified, outward
from pipeline.stages.records_of import events_record, metrics_record, session_record, visitor_record
from pipeline.wire.moments import format_moment

PATHS: Final = (receive.DOWNLOADED, receive.SESSIONS, receive.EDGE)


def explain(settings: Settings, file: str, path: str, datastream: str, *, as_json: bool, lines: bool) -> int:
    """Print what comes of a body (or of each line); return 0 when every session is accepted, else 1."""
    if path not in PATHS:
        raise SettingError(f"--path must be one of {', '.join(PATHS)}, not {path!r}")
    directory = load_directory(settings)
    if datastream and directory.by_id(datastream) is None:
        raise SettingError(f"--datastream: no datastream {datastream!r} in {settings.datastreams_file}")
    content = _read(file)
    bodies = [row for row in content.splitlines() if row.strip()] if lines else [content]
    all_accepted = True
    for body in bodies:
        found = explain_body(body, path, datastream, directory, settings.ingest_body_limit_bytes)
        all_accepted &= found["problem"] is None and all(
            session["outcome"] == "accepted" for session in found["sessions"]
        )
        if as_json or lines:
            sys.stdout.write(
                (line(found) if lines else json.dumps(found, ensure_ascii=False, indent=2)) + "\n"
            )
        else:
            _print(found)
    return 0 if all_accepted else 1


def explain_body(
    body: bytes, path: str, datastream: str, directory: Directory, body_limit_bytes: int
) -> dict[str, Any]:
    """Return the answer, the problem and every session of this body, as JSON values."""
    request = receive.Request(
        path=path,
        body=body[:body_limit_bytes],
        truncated=len(body) > body_limit_bytes,
        received_at_ms=time.time_ns() // 1_000_000,
        request_id="explain",
        config_id=datastream or (directory.open or directory.datastreams[0]).id,
        body_limit_bytes=body_limit_bytes,
    )
    # Whoever can read the file of datastreams needs no key.
    directory = directory._replace(datastreams=tuple(d._replace(api_key="") for d in directory.datastreams))
    chosen = directory.by_id(datastream) if datastream else None
    if chosen is not None and path != receive.EDGE:
        directory = directory._replace(datastreams=(chosen._replace(report_suites=()),))
    numbers = iter(range(1_000_000))
    reception = receive.receive(request, directory, lambda: f"upload-{next(numbers)}", whole=True)
    is_problem = reception.answer.status >= 400
    seen: set[str] = set()
    sessions = []
    for upload in reception.uploads if not is_problem else ():
        sessions.append(
            _session(upload, directory, "duplicate" if upload.value.session_id in seen else "accepted")
        )
        if upload.value.session_id is not None:
            seen.add(upload.value.session_id)
    return {
        "status": reception.answer.status,
        "problem": json.loads(reception.answer.body) if is_problem else None,
        "sessions": sessions,
    }


def _session(upload: receive.KeyedUpload, directory: Directory, outcome: str) -> dict[str, Any]:
    value, session = upload.value, upload.session
    if value.verdict != receive.ACCEPTED or session is None or value.session_id is None:
        errors = [
            {"pointer": p.pointer, "rule": p.rule, "message": p.message, "eventType": p.event_type}
            for p in value.problems
        ]
        return {"outcome": "rejected", "reason": value.reason, "session_id": None, "errors": errors}
    datastream = directory.by_id(value.datastream_id)
    assert datastream is not None  # noqa: S101 - the door has just chosen it
    session = outward(session, datastream, directory)
    identified = Identified(session, datastream, value.session_id, upload.key)
    derived = derive_session(identified, value.received_at_ms)
    metrics = metrics_record(derived.viewing.metrics)
    visitor = visitor_record(session, value.session_id)
    return {
        "outcome": outcome,
        "session_id": value.session_id,
        "flags": list(derived.flags),
        "record": jsonable(session_record(identified, value, derived, visitor, metrics)),
        "events": jsonable(events_record(identified, value, derived.viewing).events),
        "analytics_calls": [
            {
                "call": call.call.value,
                "ts": call.ts,
                "ts_ms": call.ts_ms,
                "pe": call.pe,
                "pev3": call.pev3,
                "page_event": call.page_event,
                "routes": list(session.routing.report_suites),
                "query": dict(call.query),
                "context": dict(call.context),
            }
            for call in derived.calls
        ],
        "reporting_rows": [
            {
                "eventType": row.event_type,
                "timestamp": format_moment(row.timestamp_ms),
                "mediaReporting": dict(row.media_reporting),
                **_unfolded(row.tenant_fields),
            }
            for row in derived.rows
        ],
        "explanation": _explanation(identified),
    }


def _unfolded(fields: Mapping[str, str]) -> dict[str, Any]:
    """Return dotted paths as nested objects; one that runs into a value keeps its dots."""
    found: dict[str, Any] = {}
    for path, value in fields.items():
        at, parts = found, path.split(".")
        while len(parts) > 1 and isinstance(at.setdefault(parts[0], {}), dict):
            at = at[parts.pop(0)]
        at[".".join(parts)] = value
    return found


def _explanation(identified: Identified) -> dict[str, Any]:
    found = explained(identified.session, identified.datastream.rules)
    return {
        "metrics": [_with_intervals(because) for because in found.metrics],
        "ads": [_with_intervals(ad) for ad in found.ads],
        "chapters": [_with_intervals(chapter) for chapter in found.chapters],
        "intervals": [interval._asdict() for interval in found.intervals],
        "lanes": [{"name": lane.name, "bars": [bar._asdict() for bar in lane.bars]} for lane in found.lanes],
    }


def _with_intervals(part: Because | Part) -> dict[str, Any]:
    return {**part._asdict(), "intervals": [interval._asdict() for interval in part.intervals]}


def _read(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise SettingError(f"FILE: can't read {file}: {error.strerror}") from None


def _print(found: dict[str, Any]) -> None:
    console = Console()
    problem = found["problem"]
    if problem is not None:
        console.print(
            f"[bold red]{found['status']}[/] {problem['title']}: {problem['detail']}", highlight=False
        )
        print_errors(console, problem.get("errors", []))
        for error in problem.get("report", {}).get("errors", ()):
            console.print(
                f"  at [bold]{escape(error['name'] or 'the whole body')}[/]: {escape(error['reason'])}",
                highlight=False,
            )
        return
    number = len(found["sessions"])
    console.print(
        f"[bold green]{found['status']}[/] {number} session{'' if number == 1 else 's'}", highlight=False
    )
    for session in found["sessions"]:
        print_session(console, session)
