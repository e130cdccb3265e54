"""The JSON Schemas of the Media Collection event types, made from the same tables as the decoder."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from pipeline.session.model import Kind
from pipeline.wire.tables import (
    CUSTOMER_ID,
    CUSTOMER_IDS,
    EVENTS,
    METADATA_KEY,
    PLAYER_TIME,
    STATE,
    STATE_LISTS,
    EventType,
)
from pipeline.wire.values import Members, schema_of

EVENT_TYPES: Final[tuple[str, ...]] = tuple(EVENTS)
DRAFT: Final = "http://json-schema.org/draft-07/schema#"


@cache
def schema(event_type: str, *, strict: bool = False) -> dict[str, Any]:
    """Return the JSON Schema (draft-07) of one event type, or raise KeyError."""
    event = EVENTS[event_type]
    needs_params = ["params"] if event.needs_params else []
    return {
        "$schema": DRAFT,
        "$id": f"/api/v1/schemas/{event_type}",
        "type": "object",
        "properties": {
            "eventType": {"type": "string", "enum": [event_type]},
            "playerTime": _object(PLAYER_TIME, strict=strict),
            "params": _params(event_type, event, strict=strict),
            "qoeData": _object(event.qoe, strict=strict),
            "customMetadata": {
                "type": "object",
                "patternProperties": {f"^{METADATA_KEY.pattern}$": {"type": "string"}},
                "additionalProperties": False,
            },
        },
        "required": ["eventType", "playerTime", *needs_params],
        **({"additionalProperties": False} if strict else {}),
    }


def _params(event_type: str, event: EventType, *, strict: bool) -> dict[str, Any]:
    params = _object(event.params, strict=strict)
    properties: dict[str, Any] = params["properties"]
    if event.kind is Kind.SESSION_START:
        properties[CUSTOMER_IDS] = {
            "type": "object",
            "additionalProperties": _object(CUSTOMER_ID, strict=strict),
        }
    if event_type == "statesUpdate":
        states = {"type": "array", "items": _object(STATE, strict=strict)}
        properties.update(dict.fromkeys(STATE_LISTS, states))
        params["anyOf"] = [{"required": [name]} for name in STATE_LISTS]
    return params


def _object(rules: Members, *, strict: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "object",
        "properties": {name: schema_of(rule, strict=strict) for name, rule in rules.items()},
    }
    if rules.required:
        found["required"] = list(rules.required)
    if strict:
        found["additionalProperties"] = False
    return found
