"""A session back to either wire form: what a device would have sent (for devices, tests and examples)."""

from __future__ import annotations

from typing import Any

import msgspec

from pipeline.session.model import Event, Kind, Session
from pipeline.wire.moments import format_moment
from pipeline.wire.tables import EDGE_DETAILS, EVENTS, POD_NAME, QOE

_AUTH_STATES = {0: "ambiguous", 1: "authenticated", 2: "loggedOut"}


def to_media_collection(session: Session) -> bytes:
    """Return the session as a body of `POST /api/v1/downloaded`."""
    events = [_mc_event(event) for event in session.events]
    params: dict[str, Any] = events[0].setdefault("params", {})
    visitor, routing = session.visitor, session.routing
    sent = {
        "analytics.trackingServer": routing.tracking_server,
        "analytics.reportSuite": ",".join(routing.report_suites),
        "analytics.enableSSL": routing.ssl,
        "visitor.marketingCloudOrgId": routing.organisation,
        "visitor.marketingCloudUserId": visitor.ecid,
        "visitor.aamLocationHint": visitor.location_hint,
        "analytics.aid": visitor.aid,
        "analytics.visitorId": visitor.vid,
        "appInstallationId": visitor.app_installation_id,
    }
    params.update({name: value for name, value in sent.items() if value is not None})
    if visitor.identities:
        params["visitor.customerIDs"] = {
            i.namespace: {"id": i.id, "authState": i.auth_state} for i in visitor.identities
        }
    return msgspec.json.encode(events)


def _mc_event(event: Event) -> dict[str, Any]:
    name, params = _mc_params(event)
    found: dict[str, Any] = {
        "eventType": name,
        "playerTime": {"playhead": _number(event.playhead_s), "ts": event.occurred_at_ms},
    }
    if params:
        found["params"] = {key: _number(value) for key, value in params.items()}
    if event.qoe is not None:
        found["qoeData"] = {
            key: _number(value) for key, value in zip(QOE, event.qoe, strict=True) if value is not None
        }
    if event.custom_metadata:
        found["customMetadata"] = dict(event.custom_metadata)
    return found


def _number(value: Any) -> Any:
    """Return whole numbers without a point, as the JSON writers of both mobile platforms write them."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _mc_params(event: Event) -> tuple[str, dict[str, Any]]:
    if event.kind is Kind.STATES_UPDATE:
        lists = {"statesStart": event.states_started, "statesEnd": event.states_ended}
        params = {
            name: [{"media.state.name": state} for state in states]
            for name, states in lists.items()
            if states
        }
        return "statesUpdate", params
    if event.kind is Kind.ERROR:
        named = {"media.errorId": event.details.get("name"), "media.errorSource": event.details.get("source")}
        return "error", {key: value for key, value in named.items() if value is not None}
    fields = EVENTS[event.kind.value].fields
    sent: dict[str, Any] = {
        row.param: event.details[row.member] for row in fields if row.param and row.member in event.details
    }
    if "podFriendlyName" in event.details:
        sent[POD_NAME] = event.details["podFriendlyName"]
    return event.kind.value, sent


def to_media_edge(session: Session) -> bytes:
    """Return the session as one `events[]` item of a Media Edge request; playheads are cut to seconds."""
    identity_map: dict[str, list[dict[str, Any]]] = {}
    for i in session.visitor.identities:
        item = {"id": i.id, "authenticatedState": _AUTH_STATES[i.auth_state], "primary": i.primary}
        identity_map.setdefault(i.namespace, []).append(item)
    xdm: dict[str, Any] = {
        "eventType": "media.downloaded",
        "implementationDetails": session.implementation._asdict(),
        "mediaDownloadedEvents": [_edge_event(event) for event in session.events],
    }
    if identity_map:
        xdm["identityMap"] = identity_map
    if session.sent_at_ms is not None:
        xdm["timestamp"] = format_moment(session.sent_at_ms)
    item_value: dict[str, Any] = {"xdm": xdm}
    if session.context_data:
        item_value["_data"] = {"__adobe": {"analytics": {"contextData": dict(session.context_data)}}}
    return msgspec.json.encode(item_value)


def _edge_event(event: Event) -> dict[str, Any]:
    collection: dict[str, Any] = {"playhead": int(event.playhead_s)}
    table = EDGE_DETAILS.get(event.kind)
    if table is not None:
        collection[table.member] = {
            name: int(value) if isinstance(value, float) else value
            for name, value in event.details.items()
            if name in table.members
        }
    if event.qoe is not None or event.kind is Kind.BITRATE_CHANGE:
        collection["qoeDataDetails"] = _edge_qoe(event)
    for name, states in (("statesStart", event.states_started), ("statesEnd", event.states_ended)):
        if states:
            collection[name] = [{"name": state} for state in states]
    if event.custom_metadata:
        collection["customMetadata"] = [
            {"name": name, "value": value} for name, value in event.custom_metadata.items()
        ]
    return {
        "mediaEventTimestamp": format_moment(event.occurred_at_ms, event.utc_offset_min),
        "mediaEventType": f"media.{event.kind.value}",
        "mediaCollection": collection,
    }


def _edge_qoe(event: Event) -> dict[str, Any]:
    if event.qoe is None:
        return {}
    start_ms = event.qoe.time_to_start_ms
    sent = {
        "bitrate": event.qoe.bitrate,
        "droppedFrames": event.qoe.dropped_frames,
        "framesPerSecond": event.qoe.frames_per_second,
        "timeToStart": None if start_ms is None else start_ms / 1000,
    }
    return {name: value for name, value in sent.items() if value is not None}
