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
from collections.abc import Callable, Mapping, Sequence
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
from pipeline.stages.outcome import DEAD_LETTERS, duplicate, refused, without_weight
from pipeline.stages.prepare import Prepared, Refusal, prepare
from pipeline.stages.receive import Reception, Request, receive
from pipeline.stages.sizes import DEFAULT_SIZES, OutputTooLarge, Sizes, require_small
from pipeline.traces import Headers, passed_on
from pipeline.wire.problems import Problem

UPLOADS: Final = "media.uploads"
INDEX: Final = "media.index"
FRAME_BYTES: Final = 4 * 1024
"""Room for a record's key, headers and framing beside its value."""

_NONE_REFUSED: Final[Mapping[int, int]] = {}
Known = Callable[[Sequence[bytes]], Mapping[bytes, bytes]]


class Processed(NamedTuple):
    """What one batch gives: all records of one commit, counts by metric and labels, and faults."""

    records: tuple[Record, ...]
    counts: Mapping[tuple[str, ...], int]
    faults: tuple[str, ...]
    dead_letters: tuple[DeadLetter, ...] = ()
    lateness_ms: tuple[int, ...] = ()
    """Of each accepted upload: receipt after the viewing's end."""
    taken: int = 0
    """So many uploads of the batch were carried; the rest would give more than one commit may hold."""
    size_bytes: int = 0


class Topology:
    """The stages bound to a contract: the only thing that the homes need to know of them."""

    def __init__(
        self,
        codec: Codec,
        topics: Mapping[str, Topic],
        directory: Directory,
        limit: flood.Limit = flood.DEFAULT_LIMIT,
        sizes: Sizes = DEFAULT_SIZES,
    ) -> None:
        self._codec = codec
        self._partitions = {name: topic.partitions for name, topic in topics.items()}
        self._follow_upload = {name for name, topic in topics.items() if topic.placed_by == "upload"}
        self._directory = directory
        self._limit = limit
        self._most_bytes = sizes.output_bytes
        self._largest = {
            name: topic.max_record_bytes(sizes.body_bytes) - FRAME_BYTES for name, topic in topics.items()
        }

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
        never_taken: Mapping[int, int] = _NONE_REFUSED,
        headers_of: Callable[[StoredRecord], Headers] = passed_on,
    ) -> Processed:
        """Return what this batch of one partition gives, or its first uploads; pure but for `known`.

        All records together are within the limit of one commit, which may take the first uploads only.

        `headers_of` says what the records made of an upload carry: its trace context.
        The uploads at the offsets `never_taken` gave records that the log refuses: each is a dead letter, of
        so many bytes at most.
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
        taken = size_bytes = 0
        largest = self._largest[DEAD_LETTERS]
        for step in prepared:
            most = never_taken.get(step.stored.offset, largest)
            outcome, outputs, made, end = self._carried(
                step, entries, now_ms, headers_of(step.stored), min(most, largest)
            )
            more_bytes = sum([len(record.value or b"") for record in made])
            if taken and size_bytes + more_bytes > self._most_bytes:
                break
            taken, size_bytes = taken + 1, size_bytes + more_bytes
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
        after = flood.judged(before, taken, ended, self._limit, now_ms)
        if after is not None:
            records.append(self._record(Output(INDEX, window_key, after), now_ms, (), batch[0]))
        faults = tuple(end.refusal.fault for end in ended if end.refusal is not None and end.refusal.fault)
        return Processed(
            tuple(records), counts, faults, tuple(dead_letters), tuple(lateness_ms), taken, size_bytes
        )

    def _carried(
        self, step: Prepared, entries: dict[bytes, IndexEntry], now_ms: int, headers: Headers, most_bytes: int
    ) -> tuple[Outcome, Sequence[Output], list[Record], Prepared]:
        """Return the outcome, what was made of it and the step as it ended; remembers it in `entries`."""
        judgement = judge(step, entries)
        if judgement.outcome is Outcome.REDELIVERED:
            return judgement.outcome, (), [], step
        stored = step.stored
        try:
            outputs = self._outputs(step, judgement, now_ms)
            records = self._records(outputs, stored, headers, most_bytes)
        except Exception as error:  # noqa: BLE001 - a stage that fails on one upload is that upload's dead letter
            step = step._replace(identified=None, refusal=_refusal_of(error))
            judgement = Judgement(Outcome.REJECTED)
            outputs = refused(step, now_ms)
            records = self._records(outputs, stored, headers, most_bytes)
        entries.update({o.key: o.value for o in outputs if isinstance(o.value, IndexEntry)})
        return judgement.outcome, outputs, records, step

    def _outputs(self, step: Prepared, judgement: Judgement, now_ms: int) -> tuple[Output, ...]:
        if judgement.outcome is Outcome.ACCEPTED:
            if step.identified is not None and step.upload is not None:
                require_small(step.identified.session, len(step.upload.body), self._most_bytes)
            return derive(step, now_ms)
        if judgement.outcome is Outcome.DUPLICATE:
            return duplicate(step, judgement, now_ms)
        return refused(step, now_ms)

    def _records(
        self, outputs: Sequence[Output], stored: StoredRecord, headers: Headers, most_bytes: int
    ) -> list[Record]:
        """Return the records, or raise `OutputTooLarge` as soon as they are more than may be written.

        A dead letter is cut to `most_bytes` instead.
        """
        records = []
        room = self._most_bytes
        for output in outputs:
            record = self._record(output, stored.timestamp_ms, headers, stored)
            size = len(record.value or b"")
            if isinstance(output.value, DeadLetter):
                if size > most_bytes:
                    cut = output._replace(value=self._cut(output.value, most_bytes))
                    record = self._record(cut, stored.timestamp_ms, headers, stored)
                records.append(record)
                continue
            room -= size
            if size > self._largest[output.topic]:
                raise OutputTooLarge(f"a record of {output.topic} would have {size} bytes")
            if room < 0:
                raise OutputTooLarge(f"all records would have more than {self._most_bytes} bytes")
            records.append(record)
        return records

    def _cut(self, letter: DeadLetter, most_bytes: int) -> DeadLetter:
        """Return the letter in at most so many bytes: what is heavy beside the body goes first."""
        letter = without_weight(letter)
        excess = len(self._codec.encode(DEAD_LETTERS, letter)) - most_bytes
        return letter._replace(body=letter.body[: max(0, len(letter.body) - max(0, excess))])

    def _record(
        self, output: Output, timestamp_ms: int, headers: Headers, source: StoredRecord | None
    ) -> Record:
        # The index lives by source partition, so that a worker that owns the partition owns its index; what
        # consumers read follows it, so that a transaction touches one partition of each topic.
        if source is not None and output.topic in self._follow_upload:
            partition = source.partition
        else:
            partition = partition_of(output.key, self._partitions[output.topic])
        value = self._codec.encode(output.topic, output.value)
        return Record(output.topic, partition, output.key, value, timestamp_ms, headers)


def _too_large(step: Prepared) -> Prepared:
    if step.refusal is not None:  # its dead letter it was that Kafka refused
        return step
    error = OutputTooLarge("a record of this upload is larger than Kafka takes")
    return step._replace(identified=None, refusal=_refusal_of(error))


def _refusal_of(error: Exception) -> Refusal:
    """Return why an upload that gave this error is rejected: too large by itself, or a fault of ours."""
    if isinstance(error, OutputTooLarge):
        return Refusal("record_too_large", (Problem("", "output_too_large", str(error)),))
    return Refusal("internal_error", fault=repr(error))


def _counts(outcome: Outcome, step: Prepared) -> dict[tuple[str, ...], int]:
    if outcome is Outcome.REDELIVERED:
        return {("pipeline_redelivered_total",): 1}
    counts: dict[tuple[str, ...], int] = {("pipeline_outcomes_total", outcome.value): 1}
    if step.refusal is not None and step.refusal.reason == "door_disagrees":
        counts["pipeline_door_disagrees_total",] = 1
    if step.refusal is not None and step.refusal.fault:
        counts["pipeline_internal_errors_total", "worker"] = 1
    return counts
