"""Media Collection bodies: a JSON array of events to a session (`spec/media-collection.md` 1, 2.1, 6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

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
from pipeline.wire.moments import LAST_MS
from pipeline.wire.problems import Full, Problem, Problems, Rejected, cut, more
from pipeline.wire.tables import (
    BARE,
    CUSTOMER_ID,
    CUSTOMER_IDS,
    EVENTS,
    METADATA_KEY,
    PLAYER_TIME,
    POD_NAME,
    QOE,
    STATE,
    STATE_LISTS,
    EventType,
)
from pipeline.wire.values import NUMBER_LIMIT, Members, fault_of

SESSIONS_PATH: Final = "/api/v1/sessions"
_DOWNLOADED: Final = "media.downloaded"
_START: Final = "sessionStart"
_MEMBERS: Final = frozenset({"eventType", "playerTime", "params", "qoeData", "customMetadata"})
_NUMBERS: Final = (int, float)
_IMPLEMENTATION: Final = Implementation(name="media-collection-api")
_ERROR_ID: Final = ("media.errorId", "media.qoe.errorID")
_ERROR_SOURCE: Final = ("media.errorSource", "media.qoe.errorSource")


def decode(body: bytes, path: str, *, strict: bool = False) -> Session:
    """Return the session, or raise `Rejected` with every problem of the body."""
    elements = parse(body)
    if type(elements) is not list:
        raise Rejected((_not_array(elements, path),))
    if not elements:
        raise Rejected((Problem("", "empty", "the array has no events"),))
    reader = _Reader(strict=strict)
    events: list[Event | None] = []
    try:
        events = [reader.event(index, element) for index, element in enumerate(elements)]
        reader.whole(elements[0], path)
    except Full as full:
        left = 0 if events or full.index is None else len(elements) - full.index - 1
        told = _in_order(reader.problems)
        raise Rejected((*told, more("", len(told), left)), _named(elements[0])) from None
    if reader.problems.found:
        raise Rejected(_in_order(reader.problems), _named(elements[0]))
    twice = duplicate_key(body, reader.keys)
    if twice is not None:
        pointer = cut("".join(f"/{_escaped(str(step))}" for step in twice))
        problem = Problem(pointer, "duplicate_key", "the key stands twice in one object")
        raise Rejected((problem,), _named(elements[0]))
    params = elements[0]["params"]
    return Session(
        form=Form.MEDIA_COLLECTION,
        events=tuple(events),  # type: ignore[arg-type]  # None only where there is a problem
        visitor=_visitor(params),
        routing=_routing(params),
        implementation=_implementation(params),
        flags=frozenset(reader.flags),
    )


def _in_order(problems: Problems) -> tuple[Problem, ...]:
    return tuple(sorted(problems.found, key=lambda p: -1 if p.index is None else p.index))


def _named(first: Any) -> tuple[str, ...]:
    """Return the report suites that a refused body names."""
    params = first.get("params") if type(first) is dict else None
    listed = params.get("analytics.reportSuite") if type(params) is dict else None
    return report_suites_of(listed) if type(listed) is str else ()


def _not_array(value: Any, path: str) -> Problem:
    if path != SESSIONS_PATH or type(value) is not dict:
        return Problem("", "type", "must be an array of events")
    params = value.get("params")
    if type(params) is dict and params.get(_DOWNLOADED) is True:
        return Problem("", "downloaded_flag_on_live", "a downloaded session must be sent as an array")
    return Problem("", "live_sessions_not_supported", "live sessions are not supported")


class _Reader:
    """Collects events, problems and flags of one body; counts keys for the duplicate check."""

    __slots__ = ("_index", "_kept", "_starts", "_strict", "_type", "flags", "keys", "problems")

    def __init__(self, *, strict: bool) -> None:
        self.problems = Problems()
        self.flags: set[str] = set()
        self.keys = 0
        self._strict = strict
        self._index = 0
        self._kept: dict[str, Any] = {}
        self._starts: list[int] = []
        self._type: str | None = None

    def event(self, index: int, element: Any) -> Event | None:
        """Return the event, or None when it has a problem."""
        self._index = index
        self._type = None
        if type(element) is not dict:
            self._problem(f"/{index}", "type", "must be an object")
            return None
        event_type = element.get("eventType")
        if type(event_type) is not str:
            missing = "eventType" not in element
            self._problem(
                f"/{index}" if missing else f"/{index}/eventType",
                "required" if missing else "type",
                "eventType is missing" if missing else "must be of type string",
            )
            return None
        self._type = event_type
        if event_type == _START:
            self._starts.append(index)
        kind = EVENTS.get(event_type)
        if kind is None:
            self._problem(f"/{index}/eventType", "unknown_event_type", f"no event type {event_type!r}")
            return None
        time = element.get("playerTime")
        ts: Any
        playhead_s: Any
        if (
            type(time) is dict
            and len(time) == 2
            and type(ts := time.get("ts")) is int
            and 0 <= ts <= LAST_MS
            and type(playhead_s := time.get("playhead")) in _NUMBERS
            and 0 <= playhead_s <= NUMBER_LIMIT
        ):
            self.keys += 2 + len(element)
            if len(element) == 2 and event_type in BARE:
                return Event(kind.kind, ts, playhead_s)
        else:
            playhead_s, ts = self._player_time(element)
            self.keys += len(element)
        return self._full_event(element, kind, playhead_s, ts)

    def whole(self, first: Any, path: str) -> None:
        """Check what concerns the array: its first event, a second sessionStart, the downloaded flag."""
        first_type = first.get("eventType") if type(first) is dict else None
        if type(first_type) is str and first_type != _START and first_type in EVENTS:
            self._index, self._type = 0, first_type
            self._problem("/0/eventType", "first_event", "the first event must be sessionStart")
        for index in self._starts:
            if index:
                self._index, self._type = index, _START
                self._problem(
                    f"/{index}/eventType",
                    "second_session_start",
                    "one array is one session: a second sessionStart",
                )
        params = first.get("params") if first_type == _START else None
        if type(params) is dict:
            self._index, self._type = 0, _START
            self._downloaded(params.get(_DOWNLOADED), path)

    def _downloaded(self, flag: Any, path: str) -> None:
        if path == SESSIONS_PATH and flag in (None, False):
            message = "must be true for an array on this path"
        elif flag is False:
            message = "must be true or absent"
        else:
            return
        self._problem(f"/0/params/{_DOWNLOADED}", "downloaded_flag", message)

    def _player_time(self, element: Mapping[str, Any]) -> tuple[float, int]:
        """Return playhead and time, zeros where there is a problem, which is noted."""
        found = self._object(element, "playerTime", required=True)
        if found is None:
            return 0, 0
        self._values(f"/{self._index}/playerTime", found, PLAYER_TIME, "unknown_member")
        playhead, ts = found.get("playhead", 0), found.get("ts", 0)
        if type(ts) not in _NUMBERS or type(playhead) not in _NUMBERS:
            return 0, 0
        return (playhead, int(ts)) if max(abs(ts), abs(playhead)) <= NUMBER_LIMIT else (0, 0)

    def _full_event(self, element: dict[str, Any], kind: EventType, playhead_s: float, ts: int) -> Event:
        place = f"/{self._index}"
        sent = self._object(element, "params", required=element["eventType"] not in BARE)
        params = {} if sent is None else sent
        quality = self._object(element, "qoeData") or {}
        if kind.kind is Kind.SESSION_START and CUSTOMER_IDS in params:
            self._customer_ids(params[CUSTOMER_IDS])
        states = ((), ()) if sent is None else self._states(element["eventType"], params)
        if sent is not None:
            nested = _NESTED.get(element["eventType"], ())
            self._values(f"{place}/params", params, kind.params, "unknown_param", nested)
        if quality:
            self._values(f"{place}/qoeData", quality, kind.qoe, "unknown_param")
        if not element.keys() <= _MEMBERS:
            strange = {name: value for name, value in element.items() if name not in _MEMBERS}
            self._unknown(place, strange, "unknown_member")
        if params and quality:
            self._overruled(kind.kind, params, quality)
        return Event(
            kind=kind.kind,
            occurred_at_ms=ts,
            playhead_s=playhead_s,
            details=_details(kind, params, quality),
            qoe=_qoe({**params, **quality} if kind.kind is Kind.BITRATE_CHANGE else quality),
            custom_metadata=self._metadata(element, kind),
            states_started=states[0],
            states_ended=states[1],
            unknown=self._taken(),
        )

    def _overruled(self, kind: Kind, params: Mapping[str, Any], quality: Mapping[str, Any]) -> None:
        """Keep what stands in both objects with two values: of an error params win, of quality qoeData."""
        lost: dict[str, dict[str, Any]] = {}
        if kind is Kind.ERROR:
            pairs = [(param, name) for param, name in (_ERROR_ID, _ERROR_SOURCE) if params.get(param)]
            lost["qoeData"] = {n: quality[n] for p, n in pairs if quality.get(n, params[p]) != params[p]}
        elif kind is Kind.BITRATE_CHANGE:
            lost["params"] = {
                n: params[n] for n in QOE if n in params and quality.get(n, params[n]) != params[n]
            }
        for place, values in lost.items():
            if values:
                self.flags.add("unknown_param")
                self._kept[place] = {**self._kept.get(place, {}), **values}

    def _taken(self) -> dict[str, Any] | None:
        """Return what the event has that no API documents, by its place in the event."""
        kept = self._kept
        if not kept:
            return None
        self._kept = {}
        return kept

    def _states(self, event_type: str, params: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        if event_type == "statesUpdate":
            place = f"/{self._index}/params"
            if not any(name in params for name in STATE_LISTS):
                self._problem(place, "anyOf", "needs statesStart or statesEnd")
            started, ended = (self._state_list(f"{place}/{name}", params.get(name)) for name in STATE_LISTS)
            return started, ended
        name = params.get("media.state.name")
        names = (name,) if type(name) is str else ()
        if event_type == "stateStart":
            return names, ()
        return ((), names) if event_type == "stateEnd" else ((), ())

    def _state_list(self, place: str, states: Any) -> tuple[str, ...]:
        if states is None:
            return ()
        if type(states) is not list:
            self._problem(place, "type", "must be an array")
            return ()
        names: list[str] = []
        for number, state in enumerate(states):
            if type(state) is not dict:
                self._problem(f"{place}/{number}", "type", "must be an object")
                continue
            self._values(f"{place}/{number}", state, STATE, "unknown_param")
            name = state.get("media.state.name")
            if type(name) is str:
                names.append(name)
        return tuple(names)

    def _customer_ids(self, ids: Any) -> None:
        place = f"/{self._index}/params/{CUSTOMER_IDS}"
        if type(ids) is not dict:
            self._problem(place, "type", "must be an object")
            return
        self.keys += len(ids)
        for name, customer in ids.items():
            if type(customer) is dict:
                self._values(f"{place}/{_escaped(name)}", customer, CUSTOMER_ID, "unknown_param")
            else:
                self._problem(f"{place}/{_escaped(name)}", "type", "must be an object")

    def _metadata(self, element: Mapping[str, Any], kind: EventType) -> dict[str, str] | None:
        sent = self._object(element, "customMetadata")
        if not sent:
            return None
        place = f"/{self._index}/customMetadata"
        self.keys += len(sent)
        kept: dict[str, str] = {}
        for name, value in sent.items():
            if not METADATA_KEY.fullmatch(name):
                self._problem(
                    place,
                    "additionalProperties",
                    f"the key {name!r} has other characters than a-z A-Z 0-9 _ .",
                )
            elif type(value) is not str:
                self._problem(f"{place}/{name}", "type", "must be of type string")
            elif name.startswith("a."):
                self.flags.add("metadata_key_reserved")
            else:
                kept[name] = value
                if name.startswith("media."):
                    self.flags.add("metadata_key_media")
        if not kind.carries_metadata:
            self.flags.add("custom_metadata_ignored")
        return kept or None

    def _object(
        self, element: Mapping[str, Any], name: str, *, required: bool = False
    ) -> dict[str, Any] | None:
        value = element.get(name)
        if type(value) is dict:
            return value
        if name in element:
            self._problem(f"/{self._index}/{name}", "type", "must be an object")
        elif required:
            self._problem(f"/{self._index}", "required", f"{name} is missing")
        return None

    def _values(
        self,
        place: str,
        values: Mapping[str, Any],
        rules: Members,
        flag: str,
        nested: tuple[str, ...] = (),
    ) -> None:
        """Check the values of one object against their rules; those that have none are kept."""
        self.keys += len(values)
        strange: dict[str, Any] = {}
        plain = rules.plain
        for name, value in values.items():
            if value and type(value) is plain.get(name):
                continue
            rule = rules.get(name)
            if rule is None:
                if name not in nested:
                    strange[name] = value
                continue
            fault = fault_of(rule, value, strict=self._strict)
            if fault is not None:
                self._problem(f"{place}/{_escaped(name)}", fault.rule, fault.message)
            elif rule.fraction_ok and type(value) is float and not value.is_integer():
                self.flags.add("fraction_rounded")
        for name in rules.required:
            if name not in values:
                self._problem(place, "required", f"{name} is missing")
        if strange:
            self._unknown(place, strange, flag)

    def _unknown(self, place: str, strange: Mapping[str, Any], flag: str) -> None:
        self.keys += sum(count_keys(value) for value in strange.values())
        if self._strict:
            for name in strange:
                self._problem(place, "additionalProperties", f"{name!r} is not a documented key")
        else:
            self.flags.add(flag)
            self._kept[place.partition("/")[2].partition("/")[2] or "members"] = strange

    def _problem(self, pointer: str, rule: str, message: str) -> None:
        self.problems.add(pointer, rule, message, self._index, self._type)


_NESTED: Final[dict[str, tuple[str, ...]]] = {"sessionStart": (CUSTOMER_IDS,), "statesUpdate": STATE_LISTS}
"""Params that hold objects or arrays, checked on their own."""


def _details(kind: EventType, params: Mapping[str, Any], quality: Mapping[str, Any]) -> dict[str, Any]:
    if kind.kind is Kind.ERROR:
        error_id = params.get("media.errorId") or quality.get("media.qoe.errorID")
        source = params.get("media.errorSource") or quality.get("media.qoe.errorSource") or "player"
        return {"name": error_id, "source": source} if error_id else {"source": source}
    if not kind.fields:
        return NO_DETAILS  # type: ignore[return-value]  # shared and never written to
    details = {row.member: params[row.param] for row in kind.fields if row.param and row.param in params}
    if kind.kind is Kind.AD_START and POD_NAME in params:
        details["podFriendlyName"] = params[POD_NAME]
    return details


def _qoe(quality: Mapping[str, Any]) -> Qoe | None:
    if not quality:
        return None
    values = [quality.get(name) for name in QOE]
    return None if values == _NO_QOE else Qoe(*values)


_NO_QOE: Final = [None] * len(QOE)


def _visitor(params: Mapping[str, Any]) -> Visitor:
    ecid = params.get("visitor.marketingCloudUserId") or None
    hint = params.get("visitor.aamLocationHint")
    return Visitor(
        ecid=ecid,
        key_value=ecid,
        aid=params.get("analytics.aid") or None,
        vid=params.get("analytics.visitorId") or None,
        location_hint=None if hint is None else int(hint),
        app_installation_id=params.get("appInstallationId") or None,
        identities=tuple(
            Identity(name, customer["id"], int(customer.get("authState", 0)))
            for name, customer in params.get(CUSTOMER_IDS, {}).items()
        ),
    )


def _implementation(params: Mapping[str, Any]) -> Implementation:
    """Return what sent it: its version is that of the media library (`spec/params.csv`)."""
    version = params.get("media.libraryVersion")
    return _IMPLEMENTATION._replace(version=version) if version else _IMPLEMENTATION


def _routing(params: Mapping[str, Any]) -> Routing:
    return Routing(
        organisation=params["visitor.marketingCloudOrgId"],
        report_suites=report_suites_of(params["analytics.reportSuite"]),
        tracking_server=params["analytics.trackingServer"],
        ssl=params.get("analytics.enableSSL", True),
        opt_out_forwarding=params.get("analytics.optOutServerSideForwarding", False),
        opt_out_share=params.get("analytics.optOutShare", False),
    )


def report_suites_of(listed: str) -> tuple[str, ...]:
    """Return the report suites of a comma list, each once."""
    if "," not in listed:
        only = listed.strip()
        return (only,) if only else ()
    suites = (suite.strip() for suite in listed.split(","))
    return tuple(dict.fromkeys(suite for suite in suites if suite))


def _escaped(name: str) -> str:
    """Return the name as a token of a JSON Pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")
