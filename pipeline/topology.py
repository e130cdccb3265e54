"""The way of the data, on one screen.

    device ─HTTP─▶ receive ─▶ media.uploads ─▶ prepare (decode ▸ validate ▸ identify)
                                                  │
                                        judge: accepted | duplicate | rejected | redelivered
                                                  │
       accepted ─▶ derive (complete ▸ measure ▸ derive) ─▶ media.sessions, media.events,
                        media.analytics.calls, media.reporting, media.days.changed
       accepted, duplicate, rejected ─▶ media.outcomes, media.index
       rejected ─▶ media.uploads.dlq

Each step is a pure function of `pipeline.stages`; here they are put in order and what they return is
routed to topics. The homes (`pipeline.log`, `pipeline.kafka`) carry the records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, NamedTuple

from pipeline.contract.codec import Codec
from pipeline.contract.partition import partition_of
from pipeline.contract.record import Record, StoredRecord
from pipeline.contract.records import DeadLetter, IndexEntry
from pipeline.contract.records import Outcome as OutcomeRecord
from pipeline.contract.topics import Topic
from pipeline.stages import flood
from pipeline.stages.datastreams import Directory
from pipeline.stages.derive import Output, derive
from pipeline.stages.judge import Judgement, Outcome, judge, keys_of
from pipeline.stages.outcome import duplicate, refused
from pipeline.stages.prepare import Prepared, Refusal, prepare
from pipeline.stages.receive import Reception, Request, receive
from pipeline.traces import Headers, passed_on

UPLOADS: Final = "media.uploads"
INDEX: Final = "media.index"

Known = Callable[[Sequence[bytes]], Mapping[bytes, bytes]]


class Processed(NamedTuple):
    """What one batch gives: all records of one commit, counts by metric and labels, and faults."""

    records: tuple[Record, ...]
    counts: Mapping[tuple[str, ...], int]
    faults: tuple[str, ...]
    dead_letters: tuple[DeadLetter, ...] = ()
    lateness_ms: tuple[int, ...] = ()
    """Of each accepted upload: receipt after the viewing's end."""


class Topology:
    """The stages bound to a contract: the only thing that the homes need to know of them."""

    def __init__(
        self,
        codec: Codec,
        topics: Mapping[str, Topic],
        directory: Directory,
        limit: flood.Limit = flood.DEFAULT_LIMIT,
    ) -> None:
        self._codec = codec
        self._partitions = {name: topic.partitions for name, topic in topics.items()}
        self._directory = directory
        self._limit = limit

    def receive(self, request: Request, new_id: Callable[[], str]) -> Reception:
        """Return the door's answer and uploads for one request."""
        return receive(request, self._directory, new_id)

    def upload_records(self, reception: Reception, headers: Headers = ()) -> tuple[Record, ...]:
        """Return the records of `media.uploads` that must be durable before the answer goes out."""
        return tuple(
            [
                self._record(
                    Output(UPLOADS, upload.key.encode(), upload.value),
                    upload.value.received_at_ms,
                    headers,
                    None,
                )
                for upload in reception.uploads
            ]
        )

    def process(
        self,
        batch: Sequence[StoredRecord],
        known: Known,
        now_ms: int,
        never_taken: Collection[int] = (),
        headers_of: Callable[[StoredRecord], Headers] = passed_on,
    ) -> Processed:
        """Return everything that this batch of one partition gives; pure but for `known`.

        `headers_of` says what the records made of an upload carry: its trace context.
        The uploads at the offsets `never_taken` gave records that the log refuses: each is a dead letter.
        Raises `Flooded` when too many became dead letters by our own doing.
        """
        prepared = [prepare(stored, self._codec, self._directory) for stored in batch]
        prepared = [_too_large(step) if step.stored.offset in never_taken else step for step in prepared]
        window_key = flood.window_key(batch[0].partition)
        entries = {
            key: self._codec.decode_record(IndexEntry, value)
            for key, value in known(
                [window_key, *(key for step in prepared for key in keys_of(step))]
            ).items()
        }
        records: list[Record] = []
        counts: Counter[tuple[str, ...]] = Counter()
        ended: list[Prepared] = []
        dead_letters: list[DeadLetter] = []
        lateness_ms: list[int] = []
        for step in prepared:
            outcome, outputs, made, end = self._carried(step, entries, now_ms, headers_of(step.stored))
            records.extend(made)
            counts.update(_counts(outcome, end))
            if outcome is Outcome.REJECTED:
                ended.append(end)
            for _, _, value in outputs:
                if isinstance(value, DeadLetter):
                    dead_letters.append(value)
                elif isinstance(value, OutcomeRecord) and value.lateness_ms is not None:
                    lateness_ms.append(value.lateness_ms)
        before = entries.get(window_key)
        after = flood.judged(before, len(batch), ended, self._limit, now_ms)
        if after is not None:
            records.append(self._record(Output(INDEX, window_key, after), now_ms, (), batch[0]))
        faults = tuple(end.refusal.fault for end in ended if end.refusal is not None and end.refusal.fault)
        return Processed(tuple(records), counts, faults, tuple(dead_letters), tuple(lateness_ms))

    def _carried(
        self, step: Prepared, entries: dict[bytes, IndexEntry], now_ms: int, headers: Headers
    ) -> tuple[Outcome, Sequence[Output], list[Record], Prepared]:
        """Return the outcome, what was made of it and the step as it ended; remembers it in `entries`."""
        judgement = judge(step, entries)
        if judgement.outcome is Outcome.REDELIVERED:
            return judgement.outcome, (), [], step
        stored = step.stored
        try:
            outputs = _outputs(step, judgement, now_ms)
            records = [self._record(output, stored.timestamp_ms, headers, stored) for output in outputs]
        except Exception as error:  # noqa: BLE001 - a stage that fails on one upload is that upload's dead letter
            step = step._replace(identified=None, refusal=Refusal("internal_error", fault=repr(error)))
            judgement = Judgement(Outcome.REJECTED)
            outputs = refused(step, now_ms)
            records = [self._record(output, stored.timestamp_ms, headers, stored) for output in outputs]
        entries.update({o.key: o.value for o in outputs if isinstance(o.value, IndexEntry)})
        return judgement.outcome, outputs, records, step

    def _record(
        self, output: Output, timestamp_ms: int, headers: Headers, source: StoredRecord | None
    ) -> Record:
        # The index lives by source partition, so that a worker that owns the partition owns its index.
        if output.topic == INDEX and source is not None:
            partition = source.partition
        else:
            partition = partition_of(output.key, self._partitions[output.topic])
        value = self._codec.encode(output.topic, output.value)
        return Record(output.topic, partition, output.key, value, timestamp_ms, headers)


def _too_large(step: Prepared) -> Prepared:
    fault = "a record of this upload is larger than Kafka takes"
    return step._replace(identified=None, refusal=Refusal("record_too_large", fault=fault))


def _outputs(step: Prepared, judgement: Judgement, now_ms: int) -> tuple[Output, ...]:
    if judgement.outcome is Outcome.ACCEPTED:
        return derive(step, now_ms)
    if judgement.outcome is Outcome.DUPLICATE:
        return duplicate(step, judgement, now_ms)
    return refused(step, now_ms)


def _counts(outcome: Outcome, step: Prepared) -> dict[tuple[str, ...], int]:
    if outcome is Outcome.REDELIVERED:
        return {("pipeline_redelivered_total",): 1}
    counts: dict[tuple[str, ...], int] = {("pipeline_outcomes_total", outcome.value): 1}
    if step.refusal is not None and step.refusal.reason == "door_disagrees":
        counts["pipeline_door_disagrees_total",] = 1
    if step.refusal is not None and step.refusal.fault:
        counts["pipeline_internal_errors_total", "worker"] = 1
    return counts
