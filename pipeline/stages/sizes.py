"""How large what an upload gives may be: told before it is made, and counted while it is encoded.

Every analytics call and reporting row repeats what the session says once (routes, metadata, identities), so
a small body with long texts and many ads gives far more than it holds. What is over a limit is that
upload's dead letter `record_too_large`: the data's fault, never a worker without memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from pipeline.session.model import Kind, Routing, Session
from pipeline.settings import Settings

_ENTRY_BYTES: Final = 64
"""What a pair or an item weighs beside its text, while records are made of it."""
_BYTES_PER_BYTE: Final = 64
"""An upper bound of what one byte of a body weighs, such entries included, in one record."""


class Sizes(NamedTuple):
    """The limits: one upload's body, and all records of one upload and of one transaction."""

    body_bytes: int
    output_bytes: int


def sizes_of(settings: Settings) -> Sizes:
    """Return the limits that the settings give."""
    return Sizes(settings.ingest_body_limit_bytes, settings.worker_output_bytes)


DEFAULT_SIZES: Final = sizes_of(Settings())


class OutputTooLarge(Exception):
    """What an upload gives is over a limit; the message says which."""


def require_small(session: Session, body_bytes: int, most_bytes: int) -> None:
    """Raise `OutputTooLarge` when what the records would repeat of this session is over the limit.

    Nothing is made for that: it is counted from the parts, and not at all where the body is small enough.
    """
    most_records = 2 * (len(session.events) + 1)
    suites = session.routing.report_suites
    if most_records * (_BYTES_PER_BYTE + len(suites)) * body_bytes <= most_bytes:
        return
    parts = pods = pod = 0
    for event in session.events:
        if event.kind is Kind.AD_BREAK_START:
            pod = _text_bytes(event.details)
        elif event.kind is Kind.AD_START:
            parts, pods = parts + 1, pods + pod
        elif event.kind is Kind.CHAPTER_START:
            parts += 1
    records = 2 * (parts + 1)  # so many calls and as many rows, at most
    repeated = records * (_routes_bytes(session.routing) + 2 * _common_bytes(session)) + 3 * pods
    if repeated > most_bytes:
        raise OutputTooLarge(
            f"up to {records} calls and as many rows would repeat {repeated} bytes; {most_bytes} are allowed"
        )


def _routes_bytes(routing: Routing) -> int:
    """Return what the routes of one call hold: each repeats the tracking server."""
    each = len(routing.tracking_server) + len(routing.organisation) + _ENTRY_BYTES
    return sum(len(suite) + each for suite in routing.report_suites)


def _common_bytes(session: Session) -> int:
    """Return about what every call and every row holds of the session."""
    visitor = session.visitor
    identities = sum(len(one.namespace) + len(one.id) + _ENTRY_BYTES for one in visitor.identities)
    named = (visitor.ecid, visitor.aid, visitor.vid, visitor.app_installation_id)
    ids = sum(len(one) for one in named if one)
    return (
        identities
        + ids
        + _text_bytes(session.details)
        + _text_bytes(session.events[0].custom_metadata)
        + _text_bytes(session.context_data)
    )


def _text_bytes(held: Mapping[str, object] | None) -> int:
    return sum(
        len(name) + (len(value) if isinstance(value, str) else 0) + _ENTRY_BYTES
        for name, value in (held or {}).items()
    )
