"""From bytes to JSON values, refusing what JSON libraries let through: duplicate keys above all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from pipeline.wire.problems import Problem, Rejected

MOST_DEPTH: Final = 64
"""Levels of arrays and objects in one session. No documented body has ten; a fixed number is the same for
door and worker, where the interpreter's own limit depends on who calls."""

_DECODER: Final = msgspec.json.Decoder()
_CONTAINERS: Final = frozenset({dict, list})
_SPACED_COLON: Final = re.compile(rb"[ \t\r\n]:")


def parse(body: bytes, most_depth: int = MOST_DEPTH) -> Any:
    """Return the JSON value, or raise `Rejected` with the rule `json`."""
    try:
        value = _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Rejected((Problem("", "json", f"not JSON: {error}"),)) from None
    except RecursionError:
        raise Rejected((_too_deep(most_depth),)) from None
    if _is_deeper(value, most_depth):
        raise Rejected((_too_deep(most_depth),))
    return value


def _too_deep(most_depth: int) -> Problem:
    return Problem("", "json", f"arrays and objects in more than {most_depth} levels")


def _is_deeper(value: Any, most_depth: int) -> bool:
    level = [value] if type(value) in _CONTAINERS else []
    for _ in range(most_depth):
        if not level:
            return False
        level = [
            inner
            for at in level
            for inner in (at.values() if type(at) is dict else at)
            if type(inner) in _CONTAINERS
        ]
    return bool(level)


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


def duplicate_key(body: bytes, keys: int) -> tuple[str | int, ...] | None:
    """Return the way to the first key that stands twice in one object, or None when none does.

    `keys` is how many keys were decoded.

    Every key ends with `":` unless there is space between, and `":` may also stand in a string. So when
    there is no such space and as many `":` as keys were decoded, none was swallowed; otherwise a slow
    decoder looks at every key. No space is before a colon when all colons follow a quote.
    """
    quoted = body.count(b'":')
    if quoted == keys and (body.count(b":") == quoted or not _SPACED_COLON.search(body)):
        return None
    try:
        whole = json.loads(body, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise Rejected((Problem("", "json", f"not JSON: {error}"),)) from None
    # As deep as the body, never as wide: a hostile one may have a million empty arrays.
    way: list[str | int] = []
    open_: list[Iterator[tuple[str | int, Any]]] = [iter([("", whole)])]
    while open_:
        for step, at in open_[-1]:
            if isinstance(at, list):
                way.append(step)
                if isinstance(at, _Pairs):
                    twice = _first_twice(at)
                    if twice is not None:
                        return (*way[1:], twice)
                open_.append(iter(at) if isinstance(at, _Pairs) else enumerate(at))
                break
        else:
            open_.pop()
            if way:
                way.pop()
    return None


def _first_twice(members: _Pairs) -> str | None:
    seen: set[str] = set()
    for key, _ in members:
        if key in seen:
            return key
        seen.add(key)
    return None


class _Pairs(list[tuple[str, Any]]):
    """The members of one object, each as often as it was sent."""
