"""Pseudonyms: keyed hashes in the place of identities, in outputs only (DESIGN.md 6.12).

The identity of a session is computed before, from what the device sent, so that pseudonymising changes
neither ids nor the recognition of re-uploads.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection
from typing import Final

from pipeline.session.model import Visitor

ECID_DIGITS: Final = 38
OTHER_DIGITS: Final = 32

PSEUDONYMISED: Final = frozenset({"ecid", "aid", "vid", "identities"})
"""What a datastream may name: an ECID, the Analytics ids, and every other identity of the upload."""
_SEEDS: Final = frozenset({"ecid", "identities"})


def pseudonymised(visitor: Visitor, fields: Collection[str], key: bytes) -> Visitor:
    """Return the visitor with these fields as keyed hashes; an ECID stays one of 38 digits."""

    def of(field: str, value: str | None, shape: Callable[[str], str]) -> str | None:
        return shape(value) if value and field in fields else value

    def hashed(value: str) -> str:
        return hmac.new(key, value.encode(), "sha256").hexdigest()[:OTHER_DIGITS]

    def seed(value: str | None) -> str | None:
        """Hide what a generated ECID is made of, which is another identity of the upload as well."""
        return hashed(value) if value and not _SEEDS.isdisjoint(fields) else value

    def ecid(value: str) -> str:
        number = int.from_bytes(hmac.digest(key, value.encode(), "sha256"), "big")
        return str(number % 10**ECID_DIGITS).rjust(ECID_DIGITS, "0")

    return visitor._replace(
        ecid=of("ecid", visitor.ecid, ecid),
        aid=of("aid", visitor.aid, hashed),
        vid=of("vid", visitor.vid, hashed),
        app_installation_id=seed(visitor.app_installation_id),
        ecid_seed=seed(visitor.ecid_seed),
        identities=tuple(
            one._replace(id=of("ecid", one.id, ecid) or "")
            if one.is_ecid
            else one._replace(id=of("identities", one.id, hashed) or "")
            for one in visitor.identities
        ),
    )
