"""The quick look of the front door: is a Media Collection body valid, and whose session is it?

Structs made of the same tables as the decoder let msgspec decide in one pass, without building a session.
What they take, the decoder takes too, with the same identity (a property test); whatever else there is, also
everything unknown that the decoder would only flag, is `None` here and the decoder's to judge and explain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import reduce
from operator import or_
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from pipeline.session.fields import Type
from pipeline.session.model import Kind
from pipeline.wire.media_collection import SESSIONS_PATH, report_suites_of
from pipeline.wire.tables import CUSTOMER_ID, CUSTOMER_IDS, EVENTS, METADATA_KEY, PLAYHEAD, TS, EventType
from pipeline.wire.values import NUMBER_LIMIT, Rule

SMALL: Final = b"0.0000"
"""In a playhead so small that the identity writes it with an exponent, and the encoder here without."""
SIMPLE_COLONS: Final = 4
"""Colons of an event without anything optional: eventType, playerTime, playhead, ts."""


class Glance(NamedTuple):
    """What the door needs of a valid body."""

    organisation: str
    visitor: str | None
    report_suites: tuple[str, ...]
    content_id: str
    skeleton: bytes
    """The events of the identity's canonical form."""

    def session_id(self, datastream_id: str) -> str:
        """Return the id that `pipeline.session.identity.session_id` gives for the decoded session."""
        head = _encode((datastream_id, self.organisation, self.visitor, self.content_id))
        return hashlib.sha256(head[:-1] + b"," + self.skeleton + b"]").hexdigest()


def glance(body: bytes, path: str) -> Glance | None:
    """Return what a valid body is, or None when the decoder must judge it."""
    events, skeleton = _seen(body)
    if not events or events[0].kind != _START or _has_a_key_twice(body, events):
        return None
    params: Any = events[0].params
    if params.downloaded is False or (path == SESSIONS_PATH and params.downloaded is not True):
        return None
    if skeleton.find(_START_JSON, len(b'[["')) >= 0:  # a second sessionStart
        return None
    return Glance(
        params.organisation,
        params.visitor or None,
        report_suites_of(params.report_suites),
        params.content_id,
        skeleton,
    )


def _seen(body: bytes) -> tuple[list[Any], bytes]:
    """Return the events and their canonical form; no events where the decoder must judge them."""
    try:
        # Playheads without a point stand in the canonical form as they are.
        events: list[Any] = _decode_whole(body)
        return events, _encode([(e.kind, (t := e.playerTime).playhead, t.ts) for e in events])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    try:
        events = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return [], b""
    skeleton = _encode([(e.kind, (t := e.playerTime).playhead, t.ts) for e in events])
    if b"-" in skeleton or SMALL in skeleton:
        return [], b""
    return events, skeleton.replace(b".0,", b",")


def _has_a_key_twice(body: bytes, events: list[Any]) -> bool:
    """Return False when surely no key stands twice in one object.

    Encoded anew, an event has each key once: with as many colons in both, none was swallowed. A colon
    inside a string is the same in both, unless it was sent as an escape.
    """
    full = [event for event in events if event.params or event.qoeData or event.customMetadata]
    colons = _encode(full).count(b":") + SIMPLE_COLONS * (len(events) - len(full))
    return colons != body.count(b":") or (b"\\" in body and b"\\u003" in body)


# --- The structs, made of the tables ----------------------------------------------------------------------

_NAMES: Final = {
    "media.id": "content_id",
    "media.downloaded": "downloaded",
    "analytics.reportSuite": "report_suites",
    "visitor.marketingCloudOrgId": "organisation",
    "visitor.marketingCloudUserId": "visitor",
}
"""The keys that are read here; `media.downloaded` and the visitor may be absent (UNSET is falsy)."""

_METADATA: Final = dict[Annotated[str, Meta(pattern=rf"^(?:{METADATA_KEY.pattern})\Z")], str]


def _numbers(rule: Rule, kind: type) -> Any:
    least = -NUMBER_LIMIT if rule.minimum is None else rule.minimum
    return Annotated[kind, Meta(ge=least, le=rule.maximum)]


def _type(rule: Rule) -> Any:
    """Return the type that takes only what the rule takes (whole numbers with a point are left out)."""
    found: Any
    if rule.enum is not None:
        found = Literal[rule.enum]
    elif rule.type is Type.BOOLEAN:
        found = bool
    elif rule.type is Type.STRING and rule.pattern is not None:
        found = Annotated[str, Meta(pattern=rf"^(?:{rule.pattern.pattern})\Z")]
    elif rule.type is Type.STRING:
        found = Annotated[str, Meta(min_length=1)] if rule.non_empty else str
    elif rule.type is Type.INTEGER and not rule.fraction_ok:
        found = _numbers(rule, int)
    else:
        found = _numbers(rule, float)  # takes whole numbers too; exact, as all limits are under 2**53
    return found | None if rule.nullable else found


def _struct(name: str, rules: Mapping[str, Rule], **nested: Any) -> type[Struct]:
    """Return the struct of an object with these keys and no others."""
    keys = {_NAMES.get(key, f"key_{number}"): key for number, key in enumerate(rules)}
    fields: list[Any] = [(field, _type(rules[key])) for field, key in keys.items() if rules[key].required]
    fields += [
        (field, _type(rules[key]) | UnsetType, UNSET)
        for field, key in keys.items()
        if not rules[key].required
    ]
    fields += [(field, kind | UnsetType, UNSET) for field, kind in nested.items()]
    renames = keys | {"customer_ids": CUSTOMER_IDS}
    return msgspec.defstruct(name, fields, rename=renames.get, forbid_unknown_fields=True, gc=False)


_CUSTOMERS: Final = dict[str, _struct("Customer", CUSTOMER_ID)]  # type: ignore[misc]  # an expression
_START: Final = Kind.SESSION_START.value
_START_JSON: Final = msgspec.json.encode(_START)


def _decoder(playhead: Any) -> Callable[[bytes], list[Any]]:
    """Return the decoder of bodies whose playheads are of this type."""
    time = msgspec.defstruct(
        "PlayerTime", [("playhead", playhead), ("ts", _type(TS))], forbid_unknown_fields=True, gc=False
    )
    # statesUpdate, which no SDK sends for downloads, has nested lists: the decoder's.
    events = [_event(name, event, time) for name, event in EVENTS.items() if name != "statesUpdate"]
    return msgspec.json.Decoder(list[reduce(or_, events)]).decode  # type: ignore[misc]  # an expression


def _event(name: str, event: EventType, time: type[Struct]) -> type[Struct]:
    nested = {"customer_ids": _CUSTOMERS} if event.kind is Kind.SESSION_START else {}
    params = _struct(f"{name}Params", event.params, **nested)
    sent: Any = ("params", params) if event.needs_params else ("params", params | UnsetType, UNSET)
    return msgspec.defstruct(
        name,
        [
            ("playerTime", time),
            sent,
            ("qoeData", _struct(f"{name}Quality", event.qoe) | UnsetType, UNSET),
            ("customMetadata", _METADATA | UnsetType, UNSET),
        ],
        tag_field="eventType",
        tag=name,
        forbid_unknown_fields=True,
        gc=False,
        namespace={"kind": event.kind.value},
    )


_decode: Final = _decoder(_type(PLAYHEAD))
_decode_whole: Final = _decoder(_numbers(PLAYHEAD, int))
_encode: Final = msgspec.json.encode
