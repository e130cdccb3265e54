"""The ingest's own description: OpenAPI 3.1, made from the same tables as the decoder, and a page of it."""

from __future__ import annotations

import html
from functools import cache
from importlib.metadata import version
from typing import Any, Final

from pipeline.stages import receive
from pipeline.wire import schemas
from pipeline.wire.responses import EDGE_ERRORS

_PROBLEM: Final = "application/problem+json"
_JSON: Final = "application/json"
_COMMON: Final[dict[int, str]] = {
    401: "The datastream demands a key in `x-api-key`; nothing is kept.",
    408: "The body is empty (Edge) or came too slowly; nothing is kept.",
    413: "Larger than the limit; what arrived up to it is kept, marked truncated.",
    415: "Content type or coding not supported; kept.",
    503: "Nothing could be stored, or a limit was hit: send it again after `Retry-After`.",
}


@cache
def openapi() -> dict[str, Any]:
    """Return the OpenAPI document of the service."""
    events = {f"{name}": _component(schemas.schema(name)) for name in schemas.EVENT_TYPES}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Downloaded-content media ingest",
            "version": version("downloaded-media-pipeline"),
            "description": "Uploads of downloaded media sessions; every answered upload is durable.",
        },
        "paths": {
            receive.DOWNLOADED: {"post": _media_collection("Upload one downloaded session.")},
            receive.SESSIONS: {
                "post": _media_collection(
                    "Upload one downloaded session to the deprecated path.", deprecated=True
                )
            },
            receive.EDGE: {"post": _edge(hint=False)},
            "/ee/{hint}/va/v1/downloaded": {"post": _edge(hint=True)},
            "/api/v1/schemas": {"get": _get("The event types that have a schema.", {"type": "array"})},
            "/api/v1/schemas/{eventType}": {
                "get": {
                    **_get("The JSON Schema of one event type.", {"type": "object"}, not_found=True),
                    "parameters": [
                        {
                            "name": "eventType",
                            "in": "path",
                            "required": True,
                            "schema": {"enum": list(schemas.EVENT_TYPES)},
                        }
                    ],
                }
            },
            "/health/live": {"get": _get("The process answers.", {"type": "object"})},
            "/health/ready": {"get": _get("An upload could be stored now.", {"type": "object"}, 503)},
        },
        "components": {"schemas": {**events, "Problem": _PROBLEM_SCHEMA, "EdgeAnswer": _EDGE_ANSWER}},
    }


@cache
def page() -> str:
    """Return the document as one HTML page without anything from elsewhere."""
    document = openapi()
    sections = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            rows = "".join(
                f"<tr><td>{status}</td><td>{html.escape(answer['description'])}</td></tr>"
                for status, answer in operation["responses"].items()
            )
            sections.append(
                f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>"
                f"<p>{html.escape(operation['summary'])}</p><table>{rows}</table>"
            )
    names = "".join(f'<li><a href="/api/v1/schemas/{n}">{n}</a></li>' for n in schemas.EVENT_TYPES)
    title = html.escape(document["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1><p>{html.escape(document['info']['description'])} "
        f'<a href="/openapi.json">openapi.json</a></p>{"".join(sections)}'
        f"<h2>Event types</h2><ul>{names}</ul></html>"
    )


_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:54rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "h2{margin:2rem 0 .3rem;font-size:1.05rem}table{border-collapse:collapse;width:100%}"
    "td{border-top:1px solid #ddd;padding:.3rem .6rem;vertical-align:top}td:first-child{width:3.5rem;"
    "font-variant-numeric:tabular-nums;font-weight:600}ul{columns:3}"
    "code{background:#f3f3f3;padding:.1rem .3rem}"
)

_PROBLEM_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "description": "RFC 9457, with every problem of the body.",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {"type": "array", "items": {"type": "object"}},
        "report": {"type": "object"},
    },
    "required": ["type", "title", "status"],
}
_EDGE_ANSWER: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "requestId": {"type": "string"},
        "handle": {"type": "array", "items": {"type": "object"}},
        "errors": {"type": "array", "items": {"type": "object"}},
    },
    "required": ["requestId", "handle"],
}


def _media_collection(summary: str, *, deprecated: bool = False) -> dict[str, Any]:
    items = {"oneOf": [{"$ref": f"#/components/schemas/{name}"} for name in schemas.EVENT_TYPES]}
    created: dict[str, Any] = {
        "description": "Durable. The body is empty.",
        "headers": {"Location": {"schema": {"type": "string"}, "description": "The session's path."}},
    }
    if deprecated:
        created["headers"] |= {
            "Deprecation": {"schema": {"type": "string"}},
            "Link": {"schema": {"type": "string"}},
        }
    return {
        "summary": summary,
        "deprecated": deprecated,
        "parameters": [_API_KEY],
        "requestBody": {
            "required": True,
            "content": {_JSON: {"schema": {"type": "array", "minItems": 1, "items": items}}},
        },
        "responses": {
            "201": created,
            "400": _problem("Every problem of the body with its JSON Pointer; the body is kept."),
            **{str(status): _problem(text) for status, text in _COMMON.items()},
        },
    }


def _edge(*, hint: bool) -> dict[str, Any]:
    codes = sorted({error.status for error in EDGE_ERRORS.values()} - set(_COMMON) - {400})
    parameters: list[dict[str, Any]] = [
        {
            "name": "configId",
            "in": "query",
            "required": True,
            "schema": {"type": "string", "minLength": 1},
        },
        {"name": "requestId", "in": "query", "schema": {"type": "string"}},
        _API_KEY,
    ]
    if hint:
        parameters.append({"name": "hint", "in": "path", "required": True, "schema": {"type": "string"}})
    body = {
        "type": "object",
        "properties": {"events": {"type": "array", "minItems": 1, "items": {"type": "object"}}},
        "required": ["events"],
    }
    answer = {"content": {_JSON: {"schema": {"$ref": "#/components/schemas/EdgeAnswer"}}}}
    return {
        "summary": "Upload downloaded sessions, one an item of `events`"
        + (", under a location hint." if hint else "."),
        "parameters": parameters,
        "requestBody": {"required": True, "content": {_JSON: {"schema": body}}},
        "responses": {
            "200": {"description": "All sessions are durable.", **answer},
            "207": {"description": "Some sessions were refused; all are kept.", **answer},
            "400": _problem("The request can't be split into sessions, or its configId is unknown; kept."),
            **{str(status): _problem("See the error's title; kept.") for status in codes},
            **{str(status): _problem(text) for status, text in _COMMON.items()},
        },
    }


_API_KEY: Final[dict[str, Any]] = {
    "name": "x-api-key",
    "in": "header",
    "schema": {"type": "string"},
    "description": "Only where the datastream demands it.",
}


def _problem(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {_PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}, "text/plain": {}},
    }


def _get(summary: str, schema: dict[str, Any], *others: int, not_found: bool = False) -> dict[str, Any]:
    answers: dict[str, Any] = {"200": {"description": summary, "content": {_JSON: {"schema": schema}}}}
    if not_found:
        answers["404"] = _problem("There is none of this name.")
    for status in others:
        answers[str(status)] = {"description": "Not now.", "content": {_JSON: {"schema": {"type": "object"}}}}
    return {"summary": summary, "responses": answers}


def _component(schema: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name not in {"$schema", "$id"}}
