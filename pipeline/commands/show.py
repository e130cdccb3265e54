"""Decoded values as JSON: what `pipeline records` and `pipeline explain` print."""

from __future__ import annotations

import base64
import json
from typing import Any


def jsonable(value: Any) -> Any:
    """Return the value for JSON: bytes as text where they are UTF-8, else as {"base64": ...}."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {str(key): jsonable(member) for key, member in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(member) for member in value]
    return value


def line(value: Any) -> str:
    """Return one line of JSON."""
    return json.dumps(jsonable(value), ensure_ascii=False, separators=(",", ":"))
