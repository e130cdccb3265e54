"""From bytes to JSON values, refusing what JSON libraries let through: duplicate keys above all."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import msgspec

from pipeline.wire.problems import Problem, Rejected

_DECODER: Final = msgspec.json.Decoder()
_SPACED_COLON: Final = re.compile(rb"[ \t\r\n]:")


def parse(body: bytes) -> Any:
    """Return the JSON value, or raise `Rejected` with the rule `json`."""
    try:
        return _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected((Problem("", "json", f"not JSON: {error}"),)) from None


def count_keys(value: Any) -> int:
    """Return how many keys all objects in this value have together."""
    keys = 0
    waiting = [value]
    while waiting:
        at = waiting.pop()
        if type(at) is dict:
            keys += len(at)
            waiting.extend(at.values())
        elif type(at) is list:
            waiting.extend(at)
    return keys


def duplicate_key(body: bytes, keys: int) -> str | None:
    """Return a key that stands twice in one object, given how many keys were decoded; None if none does.

    Every key ends with `":` unless there is space between, and `":` may also stand in a string. So when
    there is no such space and as many `":` as keys were decoded, none was swallowed; otherwise a slow
    decoder looks at every key. No space is before a colon when all colons follow a quote.
    """
    quoted = body.count(b'":')
    if quoted == keys and (body.count(b":") == quoted or not _SPACED_COLON.search(body)):
        return None
    found: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for key, _ in items:
            if key in seen:
                found.append(key)
            seen.add(key)

    try:
        json.loads(body, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise Rejected((Problem("", "json", f"not JSON: {error}"),)) from None
    return found[0] if found else None
