"""The ingest's own description: OpenAPI 3.1, made from the same tables as the decoder, and a page of it."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import Any, Final

from pipeline.stages import receive
from pipeline.wire import schemas
from pipeline.wire.problems import MOST_ITEMS, MOST_PROBLEMS, RULES
from pipeline.wire.responses import EDGE_ERRORS

_PROBLEM: Final = "application/problem+json"
_JSON: Final = "application/json"
_COMMON: Final[dict[int, str]] = {
    401: "The datastream demands a key in `x-api-key`; nothing is kept.",
    405: "Uploads are sent with POST; nothing is kept.",
    408: "The body is empty (Edge) or came too slowly; nothing is kept.",
    413: "Larger than the limit; what arrived up to it is kept, marked truncated.",
    415: "Content type or coding not supported; kept.",
    431: "More headers than are read; the connection is closed, nothing is kept.",
    503: "Nothing could be stored, or a limit was hit: send it again after `Retry-After`.",
}
NO_BODY: Final = 431
_HEADERS: Final[dict[int, dict[str, str]]] = {
    405: {"Allow": "The methods of the path."},
    415: {"Accept-Encoding": "The codings that are read, where the coding was the fault."},
    503: {"Retry-After": "Seconds to wait."},
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
            "/metrics": {"get": _get("All metrics, for Prometheus.", {"type": "string"}, kind="text/plain")},
            "/openapi.json": {"get": _get("This document.", {"type": "object"})},
            "/docs": {"get": _get("This document as a page.", {"type": "string"}, kind="text/html")},
        },
        "components": {"schemas": {**events, "Problem": _PROBLEM_SCHEMA, "EdgeAnswer": _EDGE_ANSWER}},
    }


@cache
def page() -> str:
    """Return the document as one HTML page without anything from elsewhere."""
    document = openapi()
    title = html.escape(document["info"]["title"])
    operations = [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    contents = "".join(f'<li><a href="#{_anchor(m, p)}">{_name(m, p)}</a></li>' for m, p, _ in operations)
    shapes = "".join(
        f'<details id="{name}"><summary><code>{name}</code></summary><pre>{_json(schema)}</pre></details>'
        for name, schema in document["components"]["schemas"].items()
    )
    rules = _table(("Rule", "Meaning"), [(_code(rule), html.escape(text)) for rule, text in RULES.items()])
    codes = _table(
        ("Code", "Status", "Meaning"),
        [(_code(code), str(e.status), html.escape(e.detail)) for code, e in EDGE_ERRORS.items()],
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>"
        f"<p>{html.escape(document['info']['description'])} Version {document['info']['version']}, as "
        f'<a href="/openapi.json">openapi.json</a>.</p><ul class="contents">{contents}</ul>'
        f"{''.join(_section(*operation) for operation in operations)}"
        f"<h2>Rules that a problem names</h2>{rules}<h2>Codes of Media Edge problems</h2>{codes}"
        f"<h2>Schemas</h2>{shapes}</html>"
    )


def _section(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [
        f'<h2 id="{_anchor(method, path)}">{_name(method, path)}</h2><p>{_marked(operation["summary"])}</p>'
    ]
    if operation.get("deprecated"):
        parts.append("<p>Deprecated by Adobe; its mobile SDKs send to it, and it stays supported.</p>")
    parameters = [
        (
            _code(parameter["name"]),
            parameter["in"] + (", required" if parameter.get("required") else ""),
            _marked(parameter.get("description", "")),
        )
        for parameter in operation.get("parameters", ())
    ]
    if parameters:
        parts.append(_table(("Parameter", "Where", "Meaning"), parameters))
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<p>Body, <code>{kind}</code>: {_shape(content['schema'])}</p>")
    answers = [
        (
            status,
            _marked(answer["description"]),
            "<br>".join(
                [_code(name) for name in answer.get("headers", {})]
                + [
                    f"<code>{kind}</code> {_shape(content['schema'])}"
                    for kind, content in answer.get("content", {}).items()
                ]
            ),
        )
        for status, answer in operation["responses"].items()
    ]
    return "".join(parts) + _table(("Status", "When", "Headers and body"), answers)


def _shape(schema: dict[str, Any]) -> str:
    """Return a schema in a few words, with links to those that have a name."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f'<a href="#{name}">{name}</a>'
    if "oneOf" in schema:
        return "one of " + ", ".join(map(_shape, schema["oneOf"]))
    if schema.get("type") == "array":
        return f"array of {_shape(schema['items'])}" if "items" in schema else "array"
    members = ", ".join(
        f"{_code(name)}: {_shape(inner)}" for name, inner in schema.get("properties", {}).items()
    )
    return f"object with {members}" if members else str(schema.get("type", "any"))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    titles = "".join(f"<th>{title}</th>" for title in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{titles}</tr>{body}</table>"


def _name(method: str, path: str) -> str:
    return f"<code><b>{method.upper()}</b> {html.escape(path)}</code>"


def _anchor(method: str, path: str) -> str:
    return method + re.sub(r"[^a-z0-9]+", "-", path.lower())


def _code(text: str) -> str:
    return f"<code>{html.escape(text)}</code>"


def _marked(text: str) -> str:
    """Return text whose `names` are shown as code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text))


def _json(value: Any) -> str:
    return html.escape(json.dumps(value, indent=1))


_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "h1{line-height:1.2}"
    "h2{margin:2.5rem 0 .3rem;font-size:1.05rem;border-top:2px solid #ddd;padding:1rem 0 0}"
    "table{border-collapse:collapse;width:100%;margin:.6rem 0}th{text-align:left;font-weight:600}"
    "td,th{border-bottom:1px solid #ddd;padding:.3rem .6rem .3rem 0;vertical-align:top}"
    "td:first-child{white-space:nowrap;font-variant-numeric:tabular-nums}.contents{list-style:none;padding:0}"
    "code{background:#f3f3f3;padding:.1rem .3rem;border-radius:3px;font-size:.9em}"
    "pre{background:#f8f8f8;padding:.6rem;overflow:auto;max-height:24rem}summary{cursor:pointer}"
)

_PROBLEM_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "description": f"RFC 9457, with the first {MOST_PROBLEMS} problems of the body.",
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
            "400": _problem("The problems of the body with their JSON Pointers; the body is kept."),
            **{str(status): _problem(text, status) for status, text in _COMMON.items()},
        },
    }


def _edge(*, hint: bool) -> dict[str, Any]:
    codes = sorted({error.status for error in EDGE_ERRORS.values()} - set(_COMMON) - {400})
    parameters: list[dict[str, Any]] = [
        {
            "name": "configId",
            "in": "query",
            "required": True,
            "description": "The datastream that the sessions belong to.",
            "schema": {"type": "string", "minLength": 1},
        },
        {
            "name": "requestId",
            "in": "query",
            "schema": {"type": "string"},
            "description": "The start of the `requestId` in the answer.",
        },
        {
            "name": "x-request-id",
            "in": "header",
            "schema": {"type": "string"},
            "description": "The same as `requestId`, which goes before it.",
        },
        _API_KEY,
    ]
    if hint:
        parameters.append({"name": "hint", "in": "path", "required": True, "schema": {"type": "string"}})
    body = {
        "type": "object",
        "properties": {
            "events": {"type": "array", "minItems": 1, "maxItems": MOST_ITEMS, "items": {"type": "object"}}
        },
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
            **{str(status): _problem("The datastream is switched off; kept.") for status in codes},
            **{str(status): _problem(text, status) for status, text in _COMMON.items()},
        },
    }


_API_KEY: Final[dict[str, Any]] = {
    "name": "x-api-key",
    "in": "header",
    "schema": {"type": "string"},
    "description": "Only where the datastream demands it.",
}


def _problem(description: str, status: int = 0) -> dict[str, Any]:
    content = {_PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    bodies = {} if status == NO_BODY else {"content": content}
    headers = {
        name: {"schema": {"type": "string"}, "description": text}
        for name, text in _HEADERS.get(status, {}).items()
    }
    return {"description": description, **bodies, **({"headers": headers} if headers else {})}


def _get(
    summary: str, schema: dict[str, Any], *others: int, not_found: bool = False, kind: str = _JSON
) -> dict[str, Any]:
    answers: dict[str, Any] = {"200": {"description": summary, "content": {kind: {"schema": schema}}}}
    if not_found:
        answers["404"] = _problem("There is none of this name.")
    for status in others:
        answers[str(status)] = {"description": "Not now.", "content": {_JSON: {"schema": {"type": "object"}}}}
    return {"summary": summary, "responses": answers}


def _component(schema: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name not in {"$schema", "$id"}}
