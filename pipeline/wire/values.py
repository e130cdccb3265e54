"""One rule for one value: checked by hand on the hot path, and the same rule as JSON Schema."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pipeline.session.fields import Type

NUMBER_LIMIT: Final = 2**53 - 1
"""Numbers beyond it are not exact in JSON and fit nothing that is derived."""


class Rule(NamedTuple):
    """What a value must be. `fraction_ok`: a whole number that may have a fraction unless strict."""

    type: Type
    required: bool = False
    non_empty: bool = False
    minimum: int | None = None
    maximum: int = NUMBER_LIMIT
    enum: tuple[Any, ...] | None = None
    pattern: re.Pattern[str] | None = None
    fraction_ok: bool = False
    nullable: bool = False


class Members(dict[str, Rule]):
    """The rules of one object's members by name, with what the hot path asks of them."""

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        super().__init__(rules)
        self.required = tuple(name for name, rule in rules.items() if rule.required)
        self.plain: Mapping[str, type] = {
            name: _PYTHON[rule.type][0]
            for name, rule in rules.items()
            if rule.type in (Type.STRING, Type.BOOLEAN) and rule.enum is None and rule.pattern is None
        }
        """Members for which any value but an empty one is right, if it has this type."""


class Fault(NamedTuple):
    """A broken rule and what is wrong, for people."""

    rule: str
    message: str


_PYTHON: Final[dict[Type, tuple[type, ...]]] = {
    Type.STRING: (str,),
    Type.NUMBER: (int, float),
    Type.INTEGER: (int, float),
    Type.BOOLEAN: (bool,),
}
_FRACTION: Final = Fault("type", "must be a whole number")


def fault_of(rule: Rule, value: Any, *, strict: bool) -> Fault | None:
    """Return what is wrong with the value, or None; bool is never a number here."""
    kind = type(value)
    if kind not in _PYTHON[rule.type]:
        if value is None and rule.nullable:
            return None
        return Fault("type", f"must be of type {rule.type.value}")
    if kind is str:
        return _string_fault(rule, value)
    if kind is bool:
        return None
    if kind is float and rule.type is Type.INTEGER and not value.is_integer():
        return _FRACTION if strict or not rule.fraction_ok else _bounds(rule, value)
    return _bounds(rule, value)


def _string_fault(rule: Rule, value: str) -> Fault | None:
    if not value and rule.non_empty:
        return Fault("minLength", "must not be empty")
    if rule.pattern is not None and not rule.pattern.fullmatch(value):
        return Fault("pattern", f"must match {rule.pattern.pattern}")
    return _member(rule, value)


def _bounds(rule: Rule, value: Any) -> Fault | None:
    if rule.minimum is not None and value < rule.minimum:
        return Fault("minimum", f"must be at least {rule.minimum}")
    if value > rule.maximum or value < -NUMBER_LIMIT:
        return Fault("maximum" if value > 0 else "minimum", "is out of range")
    return _member(rule, value)


def _member(rule: Rule, value: Any) -> Fault | None:
    if rule.enum is not None and value not in rule.enum:
        return Fault("enum", f"must be one of {', '.join(str(v) for v in rule.enum)}")
    return None


def schema_of(rule: Rule, *, strict: bool) -> dict[str, Any]:
    """Return the rule as JSON Schema (draft-07, where 23.0 is an integer)."""
    kind: Any = rule.type.value
    if rule.type is Type.INTEGER and rule.fraction_ok and not strict:
        kind = Type.NUMBER.value
    schema: dict[str, Any] = {"type": [kind, "null"] if rule.nullable else kind}
    if rule.type in (Type.NUMBER, Type.INTEGER):
        schema["minimum"] = -NUMBER_LIMIT if rule.minimum is None else rule.minimum
        schema["maximum"] = rule.maximum
    if rule.non_empty:
        schema["minLength"] = 1
    if rule.pattern is not None:
        schema["pattern"] = f"^{rule.pattern.pattern}$"
    if rule.enum is not None:
        schema["enum"] = list(rule.enum)
    return schema
