"""Every metric that a process exposes, in one table, and the door to prometheus_client.

Names start with `pipeline_`, units are base units, counters end in `_total`, labels come from
closed sets. `docs/metrics.md` is checked against the table by a test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import partial
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

SHARED_DIR_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Read by prometheus_client when it is imported: with it every process writes its numbers there."""


class Type(StrEnum):
    """The Prometheus type of a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric(NamedTuple):
    """One row: a metric's name, type, labels and meaning; `buckets` are a histogram's upper bounds."""

    name: str
    type: Type
    labels: tuple[str, ...]
    doc: str
    buckets: tuple[float, ...] = ()


_REQUEST_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_WORK_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0)
_BATCH: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
_HOUR: Final = 3_600
_DAY: Final = 86_400
_LATENESS_S: Final = (
    *(60, 300, 900, _HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR),
    *(_DAY, 2 * _DAY, 3 * _DAY, 7 * _DAY, 14 * _DAY, 30 * _DAY, 90 * _DAY, 180 * _DAY, 365 * _DAY),
)

METRICS: Final[tuple[Metric, ...]] = (
    Metric(
        "pipeline_requests_total",
        Type.COUNTER,
        ("path", "status"),
        "Requests to the upload paths alone; 408 are also bodies that broke off, which get no answer.",
    ),
    Metric(
        "pipeline_request_seconds",
        Type.HISTOGRAM,
        ("path",),
        "Time from the request's headers to the answer, so also what the device takes to send the body.",
        _REQUEST_S,
    ),
    Metric("pipeline_uploads_total", Type.COUNTER, ("verdict",), "Uploads that the door made durable."),
    Metric("pipeline_store_failures_total", Type.COUNTER, (), "Requests answered 503: nothing was stored."),
    Metric("pipeline_limited_total", Type.COUNTER, ("limit",), "Requests answered 503 over a limit: alarm."),
    Metric("pipeline_refused_bytes_total", Type.COUNTER, (), "Bytes of refused bodies that were kept."),
    Metric("pipeline_spooled_total", Type.COUNTER, (), "Uploads stored in the spool, not at once in Kafka."),
    Metric("pipeline_forwarded_total", Type.COUNTER, (), "Spooled uploads that Kafka has acknowledged."),
    Metric("pipeline_set_aside_total", Type.COUNTER, (), "Spooled uploads that Kafka never takes: alarm."),
    Metric("pipeline_spool_records", Type.GAUGE, (), "Uploads that wait in the spools."),
    Metric("pipeline_spool_bytes", Type.GAUGE, (), "Bytes that wait in the spools."),
    Metric("pipeline_spool_set_aside_records", Type.GAUGE, (), "Uploads set aside in the spools: alarm."),
    Metric("pipeline_spool_set_aside_bytes", Type.GAUGE, (), "Their bytes."),
    Metric("pipeline_internal_errors_total", Type.COUNTER, ("part",), "Unexpected exceptions: alarm."),
    Metric("pipeline_outcomes_total", Type.COUNTER, ("outcome",), "Uploads by their one outcome."),
    Metric("pipeline_redelivered_total", Type.COUNTER, (), "The same upload id met again."),
    Metric("pipeline_door_disagrees_total", Type.COUNTER, (), "Worker and door disagree: alarm."),
    Metric("pipeline_lost_offsets_total", Type.COUNTER, (), "Uploads removed before they were read: alarm."),
    Metric("pipeline_lateness_seconds", Type.HISTOGRAM, (), "Receipt after the viewing's end.", _LATENESS_S),
    Metric("pipeline_dead_letters_total", Type.COUNTER, ("reason",), "Rejected uploads by reason."),
    Metric("pipeline_records_read_total", Type.COUNTER, (), "Records of media.uploads that were carried."),
    Metric("pipeline_records_written_total", Type.COUNTER, ("topic",), "Records that the worker committed."),
    Metric(
        "pipeline_batch_seconds",
        Type.HISTOGRAM,
        (),
        "Time of one worker batch, commit included.",
        _WORK_S,
    ),
    Metric("pipeline_batch_records", Type.HISTOGRAM, (), "Uploads in one worker batch.", _BATCH),
    Metric("pipeline_transaction_seconds", Type.HISTOGRAM, (), "Time of one partition's commit.", _WORK_S),
    Metric("pipeline_lag_records", Type.GAUGE, (), "Uploads that wait for the worker."),
    Metric("pipeline_partition_lag_records", Type.GAUGE, ("partition",), "The same, by partition, on Kafka."),
    Metric("pipeline_index_entries", Type.GAUGE, ("partition",), "What is known in the index, on Kafka."),
    Metric("pipeline_index_bytes", Type.GAUGE, (), "Disk space of the index's local stores, on Kafka."),
)


class Meters:
    """The metrics of one process, by name; unknown names raise KeyError.

    With `shared_dir`, which the environment must name too, `text` is the sum over all processes.
    """

    def __init__(self, shared_dir: str = "") -> None:
        self.registry = CollectorRegistry()
        self._shared_dir = shared_dir
        makers: dict[Type, Callable[..., Counter | Gauge | Histogram]] = {
            Type.COUNTER: Counter,
            Type.GAUGE: partial(Gauge, multiprocess_mode="livesum"),
            Type.HISTOGRAM: Histogram,
        }
        self._meters: dict[str, Counter | Gauge | Histogram] = {
            row.name: makers[row.type](
                row.name,
                row.doc,
                row.labels,
                registry=self.registry,
                **({"buckets": row.buckets} if row.buckets else {}),
            )
            for row in METRICS
        }
        self._shown: dict[str, set[str]] = {}
        self._children: dict[tuple[str, ...], Counter | Gauge | Histogram] = {}
        self._adders: dict[tuple[str, tuple[str, ...]], Callable[[float], None]] = {}

    def _child(self, name: str, labels: tuple[str, ...]) -> Counter | Gauge | Histogram:
        """Return the meter with these labels; looking one up at every use costs more than counting."""
        found = self._children.get((name, *labels))
        if found is None:
            meter = self._meters[name]
            found = self._children[name, *labels] = meter.labels(*labels) if labels else meter
        return found

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        """Add to a counter."""
        add = self._adders.get((name, labels))
        if add is None:
            meter = self._child(name, labels)
            assert isinstance(meter, Counter)  # noqa: S101 - the table says so; a wrong name is our own fault
            add = self._adders[name, labels] = meter.inc
        add(by)

    def set(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge."""
        meter = self._child(name, labels)
        assert isinstance(meter, Gauge)  # noqa: S101 - as above
        meter.set(value)

    def replace(self, name: str, values: Mapping[str, float]) -> None:
        """Set a gauge of one label for these label values, and forget all others it had here."""
        meter = self._meters[name]
        for gone in self._shown.get(name, set()) - set(values):
            meter.remove(gone)
            self._children.pop((name, gone), None)
        for label, value in values.items():
            self.set(name, value, label)
        self._shown[name] = set(values)

    def observe(self, name: str, value: float, *labels: str) -> None:
        """Add one observation to a histogram."""
        meter = self._child(name, labels)
        assert isinstance(meter, Histogram)  # noqa: S101 - as above
        meter.observe(value)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        if not self._shared_dir:
            return generate_latest(self.registry)
        everyone = CollectorRegistry()
        MultiProcessCollector(everyone, self._shared_dir)  # type: ignore[no-untyped-call]  # theirs
        return generate_latest(everyone)


def forget_process(shared_dir: str, process_id: int) -> None:
    """Take the gauges of a process that ended out of the sum; what it counted stays."""
    mark_process_dead(process_id, shared_dir)  # type: ignore[no-untyped-call]  # theirs
