"""What says that an index was lost although it looks as if there never had been one (it was emptied, made
anew, or kept too short): without that, every session would count again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from typing import Final

from confluent_kafka.admin import AdminClient

from pipeline.contract.codec import Codec, Undecodable
from pipeline.contract.ports import PositionUnusable, Unavailable
from pipeline.contract.positions import INDEX, UPLOADS
from pipeline.contract.records import Outcome
from pipeline.kafka.reader import KafkaReader
from pipeline.kafka.takeover import bounds_of
from pipeline.settings import SettingError, Settings

SESSIONS: Final = "media.sessions"
OUTCOMES: Final = "media.outcomes"
KEPT_S: Final = 30.0
"""How long it is believed that there are no outcomes of a partition; a start takes many over at once."""


def require_index(admin: AdminClient, settings: Settings, partitions: Mapping[str, int]) -> None:
    """Raise `PositionUnusable` when the index holds nothing although sessions exist."""
    prefix = settings.kafka_topic_prefix
    index = bounds_of(admin, prefix + INDEX, range(partitions[INDEX]))
    if any(bounds.first < bounds.end for bounds in index.values()):
        return
    sessions = bounds_of(admin, prefix + SESSIONS, range(partitions[SESSIONS]))
    if any(bounds.first < bounds.end for bounds in sessions.values()):
        raise PositionUnusable(
            f"{INDEX} is empty although {SESSIONS} is not: it was lost, and every session would count "
            "again. Stop all workers and run `pipeline index rebuild`"
        )


class Carried:
    """The partitions of uploads that outcomes are of: each of them must have a position."""

    def __init__(
        self, settings: Settings, codec: Codec, partitions: int, progressed: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._codec = codec
        self._number = partitions
        self._progressed = progressed
        self._lock = threading.Lock()
        self._partitions: frozenset[int] = frozenset()
        self._read_at = -KEPT_S

    def require_none(self, partition: int) -> None:
        """Raise `PositionUnusable` when there are outcomes of this partition, which has no position."""
        with self._lock:
            if partition not in self._partitions and time.monotonic() - self._read_at > KEPT_S:
                self._partitions, self._read_at = self._read(), time.monotonic()
            is_carried = partition in self._partitions
        if is_carried:
            raise PositionUnusable(
                f"{INDEX} {partition} holds no position although {OUTCOMES} has outcomes of that partition "
                f"of {UPLOADS}: it was lost, and its sessions would count again. Stop all workers and run "
                "`pipeline index rebuild`"
            )

    def _read(self) -> frozenset[int]:
        """Read outcomes until every partition was met; raises `Unavailable` when they can't be read."""
        found: set[int] = set()
        try:
            with closing(KafkaReader(self._settings)) as reader:
                starts = {p: reader.first_offset(OUTCOMES, p) for p in range(reader.partitions(OUTCOMES))}
                for stored in reader.read(OUTCOMES, starts):
                    self._progressed()
                    with suppress(Undecodable):
                        found.add(self._codec.decode_record(Outcome, stored.value).source_partition)
                    if len(found) == self._number:
                        break
        except SettingError as error:
            raise Unavailable(f"can't learn of which uploads there are outcomes: {error}") from None
        return frozenset(found)
