"""Which session an upload is, and whose: ids that a re-sent upload gives again (DESIGN.md 6.3, ADR 0004).

SDKs rebuild `params` at every try, so the id is made of what a retry can't change: datastream,
organisation, visitor, content and the skeleton of the events. Golden vectors freeze the form.
"""

from __future__ import annotations

import hashlib
import json
from typing import Final

from pipeline.session.datastream import Datastream
from pipeline.session.model import Session

ECID_DIGITS: Final = 38
_CANONICAL: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def session_id(session: Session, datastream: Datastream) -> str:
    """Return the session's id: 64 lower-case hex digits."""
    skeleton = [[event.kind, _number(event.playhead_s), event.occurred_at_ms] for event in session.events]
    parts = [
        datastream.id,
        session.routing.organisation,
        session.visitor.key_value,
        session.content_id,
        skeleton,
    ]
    return hashlib.sha256(_CANONICAL.encode(parts).encode("utf-8", "surrogatepass")).hexdigest()


def visitor_key(session: Session, datastream: Datastream, session_id: str) -> str:
    """Return the key that uploads and calls of one visitor share; the session id when there is none."""
    return visitor_key_of(session.visitor.key_value, datastream.id, session_id)


def visitor_key_of(value: str | None, datastream_id: str, session_id: str) -> str:
    """Return the key of a visitor with this `key_value`; the session id when it is None."""
    if value is None:
        return session_id
    return hashlib.sha256(_line(datastream_id, value)).hexdigest()[:32]


def ecid_of(session: Session, session_id: str) -> tuple[str | None, bool]:
    """Return the ECID and whether it was generated (`spec/media-collection.md` 6.48, DESIGN.md 6.3).

    A generated one derives from the organisation and `appInstallationId`, for an Edge upload from the
    visitor's identity, and only without any from the session id, so that a retry gets the same.
    """
    visitor = session.visitor
    if visitor.ecid is not None:
        return visitor.ecid, False
    organisation = session.routing.organisation
    if visitor.app_installation_id and organisation:
        return _digits(_line(organisation, visitor.app_installation_id)), True
    if session.form == "media_edge":
        of = ("session", session_id) if visitor.ecid_seed is None else ("visitor", visitor.ecid_seed)
        return _digits(_line(*of)), True
    return None, False


def pod_or_chapter_id(content_id: str, index: object) -> str:
    """Return md5(content id)_index, the id of an ad break or chapter (`spec/media-collection.md` 6.33)."""
    digest = hashlib.md5(content_id.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()
    return f"{digest}_{_number(index) if isinstance(index, float) else index}"


def _line(*parts: str) -> bytes:
    return "\n".join(parts).encode("utf-8", "surrogatepass")


def _digits(seed: bytes) -> str:
    return str(int.from_bytes(hashlib.sha256(seed).digest(), "big"))[-ECID_DIGITS:].zfill(ECID_DIGITS)


def _number(value: float) -> int | float:
    """Return integral floats as integers, so that 5 and 5.0 are one playhead."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
