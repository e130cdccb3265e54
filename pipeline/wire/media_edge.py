"""Media Edge requests: `events[]` split into items, one item to a session (`spec/media-edge.md` 1, 6)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from pipeline.session.datastream import Datastream
from pipeline.session.model import (
    NO_DETAILS,
    Event,
    Form,
    Identity,
    Implementation,
    Kind,
    Qoe,
    Routing,
    Session,
    Visitor,
)
from pipeline.wire.body import count_keys, duplicate_key, parse
from pipeline.wire.moments import Moment, parse_moment
from pipeline.wire.problems import MOST_ITEMS, Full, Problem, Problems, Rejected, cut, more
from pipeline.wire.tables import (
    EDGE_DETAIL_MEMBERS,
    EDGE_DETAILS,
    EDGE_IDENTITY,
    EDGE_IMPLEMENTATION,
    EDGE_KINDS,
    EDGE_METADATA,
    EDGE_METADATA_KINDS,
    EDGE_PLAYHEAD,
    EDGE_QOE,
    EDGE_STATE,
)
from pipeline.wire.values import NUMBER_LIMIT, Members, Rule, fault_of

EVENT_TYPE: Final = "media.downloaded"
REQUEST_DEPTH: Final = 256
"""Levels of a whole request: an item that is too deep is refused alone, unless it is absurdly deep."""
_AUTH_STATES: Final = {"ambiguous": 0, "authenticated": 1, "loggedOut": 2}
_EVENTS: Final = "$.xdm.mediaDownloadedEvents"
_COLLECTION: Final = frozenset({"playhead", "qoeDataDetails", "customMetadata"})
_STATE_LISTS: Final = frozenset({"statesStart", "statesEnd"})
_NO_IDENTITY: Final = "$.xdm.identityMap"
_MOMENT_FORM: Final = "must be RFC 3339 with a UTC offset, for example 2026-01-31T20:15:00.250+01:00"
_PARTS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ITEMS: Final = msgspec.json.Decoder(list[msgspec.Raw])


def split(body: bytes) -> tuple[bytes, ...]:
    """Return the bytes of each `events[]` item, or raise `Rejected` when the request as a whole is bad."""
    request = parse(body, REQUEST_DEPTH)
    if type(request) is not dict:
        raise Rejected((Problem("$", "type", "must be an object"),))
    events = request.get("events")
    if events is None:
        raise Rejected((Problem("$.events", "required", "Missing required field"),))
    if type(events) is not list:
        raise Rejected((Problem("$.events", "type", "must be an array"),))
    if not events:
        raise Rejected((Problem("$.events", "empty", "has no events"),))
    if len(events) > MOST_ITEMS:
        message = f"has {len(events)} items, {MOST_ITEMS} are allowed: send them in several requests"
        raise Rejected((Problem("$.events", "too_many_items", message),))
    sent = bytes(_PARTS.decode(body)["events"])
    if body.count(b'"events"') != 1 or b"\\u" in body:  # a key may be written with escapes
        twice = duplicate_key(body, count_keys(request))
    else:  # what is inside an item is looked into with the item
        around = body.replace(sent, b"[]", 1)
        twice = duplicate_key(around, count_keys({**request, "events": []}))
    if twice is not None:
        raise Rejected((_stands_twice(twice),))
    return tuple(bytes(item) for item in _ITEMS.decode(sent))


def _stands_twice(way: tuple[str | int, ...]) -> Problem:
    place = "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in way)
    return Problem(cut(place), "duplicate_key", "the key stands twice in one object")


def decode(item: bytes, datastream: Datastream, *, strict: bool = False) -> Session:
    """Return the session of one item, or raise `Rejected` with every problem of it."""
    value = parse(item)
    reader = _Reader(strict=strict, ignore_session_id=datastream.ignore_session_id)
    try:
        session = reader.session(value, datastream)
    except Full as full:
        told = reader.problems.found
        left = 0 if full.index is None else len(value["xdm"]["mediaDownloadedEvents"]) - full.index - 1
        raise Rejected((*told, more("$", len(told), left))) from None
    if reader.problems.found or session is None:
        raise Rejected(tuple(reader.problems.found))
    twice = duplicate_key(item, count_keys(value))
    if twice is not None:
        raise Rejected((_stands_twice(twice),))
    return session


def lacks_identity(problems: Iterable[Problem]) -> bool:
    """Return whether an item without identityMap is among these: fatal for a strict datastream (6.8)."""
    return any(problem.pointer == _NO_IDENTITY and problem.rule == "required" for problem in problems)


class _Reader:
    """Collects events, problems and flags of one item."""

    __slots__ = ("_ignore_session_id", "_index", "_kept", "_strict", "_type", "flags", "problems")

    def __init__(self, *, strict: bool, ignore_session_id: bool) -> None:
        self.problems = Problems()
        self.flags: set[str] = set()
        self._strict = strict
        self._ignore_session_id = ignore_session_id
        self._index: int | None = None
        self._kept: dict[str, Any] = {}
        self._type: str | None = None

    def session(self, item: Any, datastream: Datastream) -> Session | None:
        """Return the session; it may be used only when there are no problems."""
        xdm = self._object("$", item, "xdm", required=True) if self._is_object("$", item) else None
        if xdm is None:
            return None
        event_type = xdm.get("eventType")
        if event_type != EVENT_TYPE:
            self._problem("$.xdm.eventType", *_absent_or(event_type, "enum", f"must be {EVENT_TYPE}"))
        visitor = self._visitor(xdm, datastream)
        sent_at = self._moment("$.xdm", xdm, "timestamp", required=False)
        implementation = self._object("$.xdm", xdm, "implementationDetails") or {}
        self._values("$.xdm.implementationDetails", implementation, EDGE_IMPLEMENTATION)
        self._others("$.xdm", xdm, _XDM_MEMBERS)
        self._misplaced(xdm)
        self._others("$", item, _ITEM_MEMBERS)
        context = self._context(item)
        events = self._events(xdm)
        default = Implementation()
        return Session(
            form=Form.MEDIA_EDGE,
            events=events,
            visitor=visitor,
            routing=Routing(
                organisation=datastream.organisation,
                report_suites=datastream.report_suites,
                tracking_server=datastream.tracking_server,
            ),
            implementation=Implementation(
                str(implementation.get("name", default.name)),
                str(implementation.get("version", default.version)),
                str(implementation.get("environment", default.environment)),
            ),
            sent_at_ms=sent_at.at_ms if sent_at else None,
            context_data=context,
            flags=frozenset(self.flags),
        )

    def _events(self, xdm: Mapping[str, Any]) -> tuple[Event, ...]:
        sent = xdm.get("mediaDownloadedEvents")
        if type(sent) is not list:
            self._problem(_EVENTS, *_absent_or(sent, "type", "must be an array"))
            return ()
        if not sent:
            self._problem(_EVENTS, "empty", "has no events")
        found: list[Event] = []
        for index, event in enumerate(sent):
            self._index, self._type = index, None
            place = f"{_EVENTS}[{index}]"
            if self._is_object(place, event):
                read = self._event(index, place, event)
                if read is not None:
                    found.append(read)
        return tuple(found)

    def _event(self, index: int, place: str, event: Mapping[str, Any]) -> Event | None:
        event_type = event.get("mediaEventType")
        kind = EDGE_KINDS.get(event_type) if type(event_type) is str else None
        self._type = event_type if type(event_type) is str else None
        moment = self._moment(place, event, "mediaEventTimestamp", required=True)
        collection = self._object(place, event, "mediaCollection", required=True)
        if kind is None:
            fault = _absent_or(event_type, "unknown_event_type", f"no media event type {event_type!r}")
            self._problem(f"{place}.mediaEventType", *fault)
            return None
        if (kind is Kind.SESSION_START) != (index == 0):
            rule, message = (
                ("first_event", "the first event must be media.sessionStart")
                if index == 0
                else ("second_session_start", "one item is one session: a second media.sessionStart")
            )
            self._problem(f"{place}.mediaEventType", rule, message)
        if collection is None:
            return None
        return self._collected(kind, f"{place}.mediaCollection", event, collection, moment)

    def _collected(
        self,
        kind: Kind,
        place: str,
        event: Mapping[str, Any],
        collection: Mapping[str, Any],
        moment: Moment | None,
    ) -> Event:
        playhead = collection.get("playhead")
        if "playhead" not in collection:
            self._problem(f"{place}.playhead", "required", "Missing required field")
        else:
            self._value(f"{place}.playhead", EDGE_PLAYHEAD, playhead)
        if "sessionID" in collection and not self._ignore_session_id:
            self._problem(f"{place}.sessionID", "not_allowed", "must not be sent: the server makes it")
        table = EDGE_DETAILS.get(kind)
        details: Mapping[str, Any] = NO_DETAILS
        if table is not None:
            details = self._details(place, collection, table.member, table.members)
        started, ended = self._states(kind, place, collection)
        if kind is Kind.BITRATE_CHANGE and "qoeDataDetails" not in collection:
            self._problem(f"{place}.qoeDataDetails", "required", "Missing required field")
        self._strange(kind, place, event, collection, table.member if table else "")
        qoe = self._qoe(place, collection)
        metadata = self._metadata(kind, place, collection)
        return Event(
            kind=kind,
            occurred_at_ms=moment.at_ms if moment else 0,
            playhead_s=playhead if isinstance(playhead, (int, float)) else 0,
            details=details,
            qoe=qoe,
            custom_metadata=metadata,
            states_started=started,
            states_ended=ended,
            utc_offset_min=moment.utc_offset_min if moment else None,
            unknown=self._taken(),
        )

    def _details(
        self, place: str, collection: Mapping[str, Any], member: str, rules: Members
    ) -> Mapping[str, Any]:
        sent = collection.get(member)
        if type(sent) is not dict:
            self._problem(f"{place}.{member}", *_absent_or(sent, "type", "must be an object"))
            return NO_DETAILS
        self._values(f"{place}.{member}", sent, rules)
        return {name: value for name, value in sent.items() if name in rules and name != "isDownloaded"}

    def _states(
        self, kind: Kind, place: str, collection: Mapping[str, Any]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        if kind is not Kind.STATES_UPDATE:
            return (), ()
        started = self._state_list(f"{place}.statesStart", collection.get("statesStart"))
        ended = self._state_list(f"{place}.statesEnd", collection.get("statesEnd"))
        if not collection.get("statesStart") and not collection.get("statesEnd"):
            self._problem(place, "anyOf", "needs statesStart or statesEnd with at least one state")
        return started, ended

    def _state_list(self, place: str, sent: Any) -> tuple[str, ...]:
        if sent is None:
            return ()
        if type(sent) is not list:
            self._problem(place, "type", "must be an array")
            return ()
        for number, state in enumerate(sent):
            if self._is_object(f"{place}[{number}]", state):
                self._values(f"{place}[{number}]", state, EDGE_STATE)
        return tuple(s["name"] for s in sent if type(s) is dict and type(s.get("name")) is str)

    def _qoe(self, place: str, collection: Mapping[str, Any]) -> Qoe | None:
        sent = self._object(place, collection, "qoeDataDetails")
        if not sent:
            return None
        self._values(f"{place}.qoeDataDetails", sent, EDGE_QOE)
        start_s = sent.get("timeToStart")
        if not isinstance(start_s, (int, float)) or abs(start_s) > NUMBER_LIMIT:
            start_s = None
        qoe = Qoe(
            bitrate=sent.get("bitrate"),
            dropped_frames=sent.get("droppedFrames"),
            frames_per_second=sent.get("framesPerSecond"),
            # Edge sends seconds, Media Collection ms (`spec/media-edge.md` 6.14).
            time_to_start_ms=None if start_s is None else start_s * 1000,
        )
        return None if qoe == _NO_QOE else qoe

    def _metadata(self, kind: Kind, place: str, collection: Mapping[str, Any]) -> dict[str, str] | None:
        sent = collection.get("customMetadata")
        if sent is None and "customMetadata" not in collection:
            return None
        if type(sent) is not list:
            self._problem(f"{place}.customMetadata", "type", "must be an array")
            return None
        kept: dict[str, str] = {}
        lasts: dict[str, int] = {}
        for number, pair in enumerate(sent):
            at = f"{place}.customMetadata[{number}]"
            if not self._is_object(at, pair):
                continue
            self._values(at, pair, EDGE_METADATA)
            name, value = pair.get("name"), pair.get("value")
            if type(name) is not str or type(value) is not str:
                continue
            if name.startswith("a."):
                self.flags.add("metadata_key_reserved")
                continue
            if name.startswith("media."):
                self.flags.add("metadata_key_media")
            if kept.get(name, value) != value:
                self._keep(
                    f"{place}.customMetadata[{lasts[name]}]", sent[lasts[name]], "custom_metadata_ignored"
                )
            kept[name], lasts[name] = value, number
        if kind not in EDGE_METADATA_KINDS:
            self.flags.add("custom_metadata_ignored")
        return kept or None

    def _strange(
        self, kind: Kind, place: str, event: Mapping[str, Any], collection: Mapping[str, Any], own: str
    ) -> None:
        """Keep the undocumented members of an event, and details that it may not carry."""
        for name, value in collection.items():
            if name in _COLLECTION or name == own:
                continue
            if name in _STATE_LISTS and kind is Kind.STATES_UPDATE:
                continue
            if name == "sessionID":
                if self._ignore_session_id:
                    self._keep(f"{place}.{name}", value, "session_id_ignored")
            elif name in EDGE_DETAIL_MEMBERS or name in _STATE_LISTS:
                if self._strict:
                    self._problem(f"{place}.{name}", "not_allowed", f"is not allowed on media.{kind.value}")
                self._keep(f"{place}.{name}", value, "details_ignored")
            else:
                self._unknown(f"{place}.{name}", value)
        self._others(place.removesuffix(".mediaCollection"), event, _EVENT_MEMBERS)

    def _others(self, place: str, values: Mapping[str, Any], known: frozenset[str]) -> None:
        if not values.keys() <= known:
            for name, value in values.items():
                if name not in known:
                    self._unknown(f"{place}.{name}", value)

    def _misplaced(self, xdm: Mapping[str, Any]) -> None:
        """Keep what a mediaCollection has that stands beside the events, where it means nothing.

        Strict or not: who goes by the published OpenAPI must send one.
        """
        place, sent = "$.xdm.mediaCollection", xdm.get("mediaCollection")
        if type(sent) is dict:
            for name, value in sent.items():
                self._keep(f"{place}.{name}", value, "unknown_member")
        elif "mediaCollection" in xdm:
            self._keep(place, sent, "unknown_member")

    def _visitor(self, xdm: Mapping[str, Any], datastream: Datastream) -> Visitor:
        sent = self._object("$.xdm", xdm, "identityMap")
        if sent is None:
            if self._strict and "identityMap" not in xdm:
                self._problem(_NO_IDENTITY, "required", "Missing required field")
            return Visitor()
        identities: list[Identity] = []
        for namespace, items in sent.items():
            place = f"$.xdm.identityMap.{cut(namespace)}"  # before every identity: never as long as a body
            if type(items) is not list:
                self._problem(place, "type", "must be an array")
                continue
            for number, identity in enumerate(items):
                if self._is_object(f"{place}[{number}]", identity):
                    self._values(f"{place}[{number}]", identity, EDGE_IDENTITY)
                    state = identity.get("authenticatedState")
                    identities.append(
                        Identity(
                            namespace,
                            str(identity.get("id", "")),
                            _AUTH_STATES.get(state, 0) if type(state) is str else 0,
                            identity.get("primary") is True,
                        )
                    )
        # Of several the order of the map, which a retry need not keep, must not decide.
        named = min(identities, key=lambda i: (not i.primary, i.namespace, i.id), default=None)
        ecid = max((i for i in identities if i.is_ecid), key=lambda i: i.primary, default=None)
        return Visitor(
            ecid=ecid.id if ecid else None,
            key_value=f"{named.namespace}:{named.id}" if named and named.primary else None,
            identities=tuple(identities),
            ecid_seed=(
                f"{datastream.organisation or datastream.id}\n{named.namespace}:{named.id}" if named else None
            ),
        )

    def _context(self, item: Mapping[str, Any]) -> dict[str, str] | None:
        """Return `_data.__adobe.analytics.contextData`: strings only, for the analytics calls.

        What lies beside it or on the way to it is not documented.
        """
        at, place = item, "$"
        for name in ("_data", "__adobe", "analytics", "contextData"):
            if name not in at:
                return None
            place = f"{place}.{name}"
            if type(at[name]) is not dict:
                self._unknown(place, at[name])
                return None
            at = at[name]
            if name != "contextData":
                self._others(place, at, _NEXT[name])
        for name, value in at.items():
            if type(value) is not str:
                self._unknown(f"{place}.{name}", value)
        return {name: value for name, value in at.items() if type(value) is str} or None

    def _moment(self, place: str, values: Mapping[str, Any], name: str, *, required: bool) -> Moment | None:
        sent = values.get(name)
        if sent is None and name not in values:
            if required:
                self._problem(f"{place}.{name}", "required", "Missing required field")
            return None
        moment = parse_moment(sent) if type(sent) is str else None
        if moment is None:
            rule = "format" if type(sent) is str else "type"
            self._problem(f"{place}.{name}", rule, _MOMENT_FORM)
        return moment

    def _object(
        self, place: str, values: Mapping[str, Any], name: str, *, required: bool = False
    ) -> dict[str, Any] | None:
        value = values.get(name)
        if type(value) is dict:
            return value
        if name in values:
            self._problem(f"{place}.{name}", "type", "must be an object")
        elif required:
            self._problem(f"{place}.{name}", "required", "Missing required field")
        return None

    def _is_object(self, place: str, value: Any) -> bool:
        if type(value) is dict:
            return True
        self._problem(place, "type", "must be an object")
        return False

    def _values(self, place: str, values: Mapping[str, Any], rules: Members) -> None:
        plain = rules.plain
        for name, value in values.items():
            if value and type(value) is plain.get(name):
                continue
            rule = rules.get(name)
            if rule is None:
                self._unknown(f"{place}.{name}", value)
            else:
                self._value(f"{place}.{name}", rule, value)
        for name in rules.required:
            if name not in values:
                self._problem(f"{place}.{name}", "required", "Missing required field")

    def _value(self, place: str, rule: Rule, value: Any) -> None:
        fault = fault_of(rule, value, strict=self._strict)
        if fault is not None:
            self._problem(place, fault.rule, fault.message)
        elif rule.fraction_ok and type(value) is float and not value.is_integer():
            self.flags.add("fraction_rounded")

    def _unknown(self, place: str, value: Any) -> None:
        if self._strict:
            self._problem(place, "additionalProperties", "is not a documented member")
        else:
            self._keep(place, value, "unknown_member")

    def _keep(self, place: str, value: Any, flag: str) -> None:
        self.flags.add(flag)
        self._kept[place.removeprefix(f"{_EVENTS}[{self._index}].")] = value

    def _taken(self) -> dict[str, Any] | None:
        """Return what is kept of the event since the last one, by its place."""
        kept = self._kept
        if not kept:
            return None
        self._kept = {}
        return kept

    def _problem(self, pointer: str, rule: str, message: str) -> None:
        self.problems.add(pointer, rule, message, self._index, self._type)


_ITEM_MEMBERS: Final = frozenset({"xdm", "_data"})
_XDM_MEMBERS: Final = frozenset(
    {"eventType", "identityMap", "implementationDetails", "mediaDownloadedEvents", "timestamp"}
    | {"mediaCollection"}  # the published OpenAPI wants it here, by a slip (`spec/media-edge.md` 1.2)
)
_NEXT: Final = {
    "_data": frozenset({"__adobe"}),
    "__adobe": frozenset({"analytics"}),
    "analytics": frozenset({"contextData"}),
}
"""What is read of each object on the way to the context data."""
_EVENT_MEMBERS: Final = frozenset({"mediaEventTimestamp", "mediaEventType", "mediaCollection"})
_NO_QOE: Final = Qoe()


def _absent_or(value: Any, rule: str, message: str) -> tuple[str, str]:
    """Return the rule `required` when there is no value at all, else the given one."""
    return ("required", "Missing required field") if value is None else (rule, message)
