"""Decide an upload's one outcome from what is known already (DESIGN.md 2.3, 2.4).

The dedupe index knows a session by its id, with the upload that counted it, and an upload that
ended otherwise by its upload id. A replay keeps the upload id and carries a replay id of its own.

An upload that is read again is judged again, perhaps under other rules (a stricter datastream, another
version): the session id that the door gave it finds what it counted as before.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from pipeline.contract.records import IndexEntry
from pipeline.stages.prepare import Prepared


class Outcome(StrEnum):
    """How an upload ends; `redelivered` is a count, not an outcome."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"
    REDELIVERED = "redelivered"


class Judgement(NamedTuple):
    """An outcome; `first` is the index entry of the session that was counted before."""

    outcome: Outcome
    first: IndexEntry | None = None


def session_key(session_id: str) -> bytes:
    """Return the key of a session's index entry."""
    return b"session:" + session_id.encode()


def upload_key(upload_id: str) -> bytes:
    """Return the key of the index entry of an upload that was not accepted."""
    return b"upload:" + upload_id.encode()


def keys_of(prepared: Prepared) -> tuple[bytes, ...]:
    """Return the index keys that must be looked up to judge this upload."""
    return (upload_key(prepared.upload_id), *map(session_key, _session_ids(prepared)))


def judge(prepared: Prepared, known: Mapping[bytes, IndexEntry]) -> Judgement:
    """Return the outcome of this upload, given every index entry of `keys_of` that exists."""
    replay_id = prepared.upload.replay_id if prepared.upload else None
    ended = known.get(upload_key(prepared.upload_id))
    if ended is not None and ended.replay_id == replay_id:
        return Judgement(Outcome.REDELIVERED)
    for session_id in _session_ids(prepared):
        first = known.get(session_key(session_id))
        if first is not None and first.upload_id == prepared.upload_id and first.replay_id == replay_id:
            return Judgement(Outcome.REDELIVERED, first)
    if prepared.identified is None:
        return Judgement(Outcome.REJECTED)
    first = known.get(session_key(prepared.identified.session_id))
    return Judgement(Outcome.ACCEPTED) if first is None else Judgement(Outcome.DUPLICATE, first)


def _session_ids(prepared: Prepared) -> tuple[str, ...]:
    """Return the session's id as it is now, and the one that the door gave where that is another."""
    now = prepared.identified.session_id if prepared.identified else None
    then = prepared.upload.session_id if prepared.upload else None
    return tuple(one for one in (now, then if then != now else None) if one)
