"""What worker and ingest check before they begin: each fault is one line that says what to do."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from pipeline.contract import released
from pipeline.contract.codec import Codec
from pipeline.contract.ports import Unavailable

_log = structlog.get_logger("pipeline.startup")


def require_schemas(codec: Codec, topics: Iterable[str], needed: Iterable[str]) -> None:
    """Raise `SettingError` or `Unavailable` unless every schema is registered and breaks with no release.

    A registry that is away stops only a service that must write a `needed` topic and has never learned
    the id of its schema.
    """
    released.require_compatible()
    must = set(needed)
    for topic in topics:
        try:
            codec.prepare(topic)
        except Unavailable as error:
            if topic in must:
                raise
            _log.warning("registry_is_away", topic=topic, reason=str(error))
