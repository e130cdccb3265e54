"""The bodies of answers, for both APIs, and the table of the Edge errors that we give.

Sources: `spec/media-collection.md` 1.8 and 6.40, `spec/media-edge.md` 2, `spec/edge-errors.csv`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import msgspec

from pipeline.session.datastream import Datastream
from pipeline.wire.problems import TOO_MANY, Problem

_TYPE: Final = "https://ns.adobe.com/aep/errors/"
ITEM_ERROR: Final = "va-edge-0400-400"
"""What an item that fails validation gets inside a 207."""

CLUSTER: Final = "irl1"
IDENTITY_MAX_AGE_S: Final = 34_128_000
HINT_MAX_AGE_S: Final = 1_800


class EdgeError(NamedTuple):
    """One fatal error of the Media Edge API."""

    status: int
    title: str
    detail: str


EDGE_ERRORS: Final[dict[str, EdgeError]] = {
    "EXEG-0000-503": EdgeError(503, "Service unavailable", "Nothing could be stored; send it again later."),
    "EXEG-0002-400": EdgeError(
        400, "Missing datastream parameter", "The query parameter configId is missing."
    ),
    "EXEG-0003-400": EdgeError(400, "Invalid datastream ID", "No datastream has this configId."),
    "EXEG-0004-422": EdgeError(422, "Datastream disabled", "The datastream is switched off."),
    "EXEG-0500-401": EdgeError(
        401, "Invalid authorization token", "The header x-api-key does not hold the datastream's key."
    ),
    "EXEG-0101-400": EdgeError(400, "Invalid JSON request", "The body is not valid JSON in UTF-8."),
    "EXEG-0102-400": EdgeError(
        400, "Invalid request field", "A field of the request has another type, or too many items."
    ),
    "EXEG-0103-400": EdgeError(400, "Missing required value", "The request has no events."),
    "EXEG-0109-408": EdgeError(408, "Empty request", "The body is empty."),
    "EXEG-0306-400": EdgeError(
        400, "Event is missing primary identity", "The datastream is strict, and an event has no identityMap."
    ),
    "EXEG-0111-415": EdgeError(415, "Invalid request", "The content type or coding is not supported."),
    "EXEG-0112-413": EdgeError(413, "Invalid request", "The body is larger than the limit."),
}

_CODE_OF_RULE: Final = {
    "json": "EXEG-0101-400",
    "duplicate_key": "EXEG-0101-400",
    "required": "EXEG-0103-400",
    "empty": "EXEG-0103-400",
    "type": "EXEG-0102-400",
}

_encode = msgspec.json.encode


def problem(status: int, detail: str) -> bytes:
    """Return a problem document (RFC 9457) without further members."""
    title = HTTPStatus(status).phrase
    return _encode({"type": "about:blank", "title": title, "status": status, "detail": detail})


def media_collection_problem(status: int, problems: Sequence[Problem]) -> bytes:
    """Return the problem document of a refused Media Collection body, with its problems."""
    has_more = bool(problems) and problems[-1].rule == TOO_MANY
    number = f"More than {len(problems) - 1}" if has_more else str(len(problems))
    plural = "" if len(problems) == 1 else "s"
    return _encode(
        {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": f"{number} problem{plural}; nothing of the body was accepted.",
            "errors": [
                {
                    "index": p.index,
                    "eventType": p.event_type,
                    "pointer": p.pointer,
                    "rule": p.rule,
                    "message": p.message,
                }
                for p in problems
            ],
        }
    )


def edge_code(problems: Sequence[Problem]) -> str:
    """Return the fatal code of a request that could not be split into items."""
    return _CODE_OF_RULE.get(problems[0].rule, "EXEG-0102-400")


def edge_problem(code: str, request_id: str, problems: Sequence[Problem] = ()) -> bytes:
    """Return the fatal problem document of the Media Edge API (`spec/media-edge.md` 2.3)."""
    error = EDGE_ERRORS[code]
    report: dict[str, Any] = {"requestId": request_id}
    if problems:
        report["errors"] = [{"name": p.pointer, "reason": p.message} for p in problems]
    document = {
        "type": _TYPE + code,
        "status": error.status,
        "title": error.title,
        "detail": error.detail,
        "report": report,
    }
    return _encode(document)


def edge_answer(
    request_id: str,
    location_hint: str | None,
    session_ids: Sequence[str | None],
    errors: Mapping[int, Sequence[Problem]],
    datastream: Datastream,
) -> bytes:
    """Return the body of a 200, or of a 207 when there are errors (`spec/media-edge.md` 2.1, 2.2)."""
    hint = location_hint or CLUSTER
    first = next((session_id for session_id in session_ids if session_id), "")
    organisation = datastream.organisation.replace("@", "_") or datastream.id
    identity = base64.urlsafe_b64encode(bytes.fromhex(first)).decode().rstrip("=")
    answer: dict[str, Any] = {
        "requestId": request_id,
        "handle": [
            {
                "type": "locationHint:result",
                "payload": [
                    {"scope": scope, "hint": hint, "ttlSeconds": HINT_MAX_AGE_S}
                    for scope in ("Target", "AAM", "EdgeNetwork")
                ],
            },
            {
                "type": "state:store",
                "payload": [
                    {
                        "key": f"kndctr_{organisation}_identity",
                        "value": identity,
                        "maxAge": IDENTITY_MAX_AGE_S,
                    },
                    {"key": f"kndctr_{organisation}_cluster", "value": hint, "maxAge": HINT_MAX_AGE_S},
                ],
            },
        ],
    }
    if datastream.new_session_handle:
        answer["handle"] += [
            {
                "type": "media-analytics:new-session",
                "payload": [{"sessionId": session_id}],
                "eventIndex": index,
            }
            for index, session_id in enumerate(session_ids)
            if session_id
        ]
    if errors:
        answer["errors"] = [_item_error(index, problems) for index, problems in errors.items()]
    return _encode(answer)


def _item_error(index: int, problems: Sequence[Problem]) -> dict[str, Any]:
    details = [{"name": p.pointer, "reason": p.message} for p in problems]
    return {
        "type": _TYPE + ITEM_ERROR,
        "status": 400,
        "title": "Invalid request",
        "report": {"eventIndex": index, "details": details},
    }
