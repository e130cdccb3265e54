"""`pipeline ingest`: the HTTP service on Kafka; an upload is answered when Kafka or the spool has it."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import structlog
import uvloop

from pipeline.commands.configured import client_ip_of, limits_of, load_directory
from pipeline.commands.garbage import tune_gc
from pipeline.commands.home import kafka_schema_ids, require_kafka
from pipeline.commands.startup import require_schemas
from pipeline.contract.codec import NO_ID, Codec, framed, has_id, schema_text, subject_of
from pipeline.contract.partition import partition_of
from pipeline.contract.ports import SchemaIds, Unavailable
from pipeline.contract.record import Record
from pipeline.contract.topics import Topic, load_schema, load_topics
from pipeline.ingest.app import App, Door
from pipeline.ingest.limits import LATEST_ANSWER_S
from pipeline.ingest.processes import serve_by_processes
from pipeline.ingest.server import bind, serve
from pipeline.ingest.spooling import Forwarder, SpooledSink, Way
from pipeline.kafka import admin
from pipeline.kafka.clients import Unreachable
from pipeline.kafka.uploads import UploadProducer
from pipeline.log.spool import Spool, left_behind
from pipeline.metrics import Meters
from pipeline.settings import SettingError, Settings
from pipeline.topology import UPLOADS, Topology
from pipeline.traces import open_traces

_log = structlog.get_logger("pipeline.ingest")

SPOOLS: Final = "spool"
RAN_BEFORE: Final = "ingest-ran-on-kafka"
"""A file that says which settings led to a working Kafka."""
SPOOL_DEADLINE_S: Final = 2.0
"""What the spool may take beyond the time that Kafka had."""
SPOOL_TRIES: Final = 10
REGISTRY_AGAIN_S: Final = 5.0


class Worked(NamedTuple):
    """What that file holds, a line each; earlier versions did not write the second."""

    address: str
    partitions: str


def ingest(settings: Settings) -> int:
    """Serve until SIGINT or SIGTERM; return the exit code."""
    require_kafka(settings)
    traces = open_traces(settings, "pipeline-ingest")
    topics = load_topics(settings.partitions)
    retention_ms = topics[UPLOADS].retention_ms
    if retention_ms is not None and settings.spool_max_age_s * 1000 >= retention_ms:
        raise SettingError(
            f"PIPELINE_SPOOL_MAX_AGE_S must be under the retention of {UPLOADS}, {retention_ms // 1000} s"
        )
    ids = kafka_schema_ids(settings)
    directory = load_directory(settings)
    ran_before = _require_kafka_once(settings)
    later = _LaterIds(ids, may_wait=ran_before)
    codec = Codec(later, settings.kafka_topic_prefix)
    require_schemas(codec, [UPLOADS], [UPLOADS])
    listener = bind(settings)
    if settings.ingest_processes > 1:
        traces.close()
        with listener:
            return serve_by_processes(settings, listener)
    meters = Meters(settings.metrics_dir)
    with listener, contextlib.closing(traces), opened_spool(settings) as own:
        producer = UploadProducer(settings, time.monotonic)
        ack_deadline_s = settings.ingest_ack_deadline_ms / 1000
        spool_deadline_s = min(SPOOL_DEADLINE_S, LATEST_ANSWER_S - ack_deadline_s)
        sink = SpooledSink(producer, own, meters, spool_deadline_s, lambda record: has_id(record.value))
        door = Door(
            Topology(codec, topics, directory),
            sink,
            meters,
            settings.ingest_body_limit_bytes,
            None,
            settings.ingest_path_prefix,
            is_ready=lambda: own.is_writable() or (not later.missing and producer.is_ready()),
            limits=limits_of(settings, directory),
            memory_limit_bytes=settings.ingest_memory_bytes,
            client_ip=client_ip_of(settings),
            traces=traces,
        )
        forwarder = Forwarder(
            producer,
            own,
            meters,
            Way(
                Adopter(settings, meters).adopt,
                Addresser(ids, topics, settings.kafka_topic_prefix),
                sink.resume,
            ),
        )

        async def run() -> None:
            await forwarder.adopt()
            forwarding = asyncio.create_task(forwarder.run())
            others = [asyncio.create_task(producer.watch()), asyncio.create_task(_prepared(codec, later))]
            url = f"http://{settings.ingest_host}:{listener.getsockname()[1]}"

            def serving(_stop: object) -> None:
                _log.info("serving", url=url, kafka=settings.kafka_bootstrap)

            told_at = 0.0
            try:
                told_at = await serve(App(door), settings, listener, meters, serving)
            finally:
                await _stop_forwarding(forwarding, forwarder, told_at + settings.ingest_drain_s)
                for task in others:
                    task.cancel()

        tune_gc()
        try:
            uvloop.run(run())
        finally:
            producer.close()
            forwarder.close()
    return 0


class _LaterIds:
    """Schema ids of a registry that may be away: the id is `NO_ID` then, and the spool keeps the record."""

    def __init__(self, ids: SchemaIds, *, may_wait: bool) -> None:
        self._ids = ids
        self._may_wait = may_wait
        self.missing: set[str] = set()
        """The subjects whose ids are not known yet."""

    def id_of(self, subject: str, schema: str) -> int:
        """Return the id of this schema, or `NO_ID`."""
        try:
            found = self._ids.id_of(subject, schema)
        except Unavailable as error:
            if not self._may_wait:
                raise
            self.missing.add(subject)
            _log.warning("schema_id_unknown", subject=subject, reason=str(error))
            return NO_ID
        self.missing.discard(subject)
        return found

    def schema_of(self, schema_id: int) -> str:
        """Return the schema with this id."""
        return self._ids.schema_of(schema_id)


async def _prepared(codec: Codec, later: _LaterIds) -> None:
    """Ask the registry again until it has told the id that uploads are framed with."""
    while later.missing:
        await asyncio.sleep(REGISTRY_AGAIN_S)
        try:
            await asyncio.to_thread(codec.prepare, UPLOADS)
        except SettingError as error:
            _log.error("schema_not_registered", reason=str(error))


class Addresser:
    """Gives a spooled record its partition of today, and its frame where the registry was away."""

    def __init__(self, ids: SchemaIds, topics: Mapping[str, Topic], prefix: str) -> None:
        self._ids = ids
        self._topics = topics
        self._prefix = prefix

    def __call__(self, record: Record, schema: str) -> Record:
        """Return the record as it is sent, or raise `Unavailable`."""
        partition = partition_of(record.key, self._topics[record.topic].partitions)
        value = record.value
        if value is not None and not has_id(value):
            try:
                schema_id = self._ids.id_of(self._prefix + subject_of(record.topic), schema)
            except SettingError as error:
                raise Unavailable(str(error)) from None
            value = framed(value, schema_id)
        return record._replace(partition=partition, value=value)


async def _stop_forwarding(forwarding: asyncio.Task[None], forwarder: Forwarder, end: float) -> None:
    """Let the spool drain until this time of the loop; what stays is kept for the next process."""
    now = asyncio.get_running_loop().time
    while forwarder.waiting and now() < end and not forwarding.done():  # noqa: ASYNC110 - it shrinks
        await asyncio.sleep(0.05)
    forwarding.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await forwarding
    if forwarder.waiting:
        _log.warning("spool_kept", records=forwarder.waiting)


def _require_kafka_once(settings: Settings) -> bool:
    """Return whether these settings have worked before; raise `SettingError` when Kafka refuses them.

    A broker that is away must not stop an ingest that could spool; an address that never worked is a
    mistake in the settings.
    """
    admin.require_client(settings)
    marker = settings.data_dir / RAN_BEFORE
    worked = Worked(f"{settings.kafka_bootstrap} {settings.kafka_topic_prefix}", str(settings.partitions))
    before = Worked(*marker.read_text().partition("\n")[::2]) if marker.exists() else None
    ran_before = before is not None and before.address == worked.address
    try:
        admin.require_topics(settings, load_topics(settings.partitions))
        admin.require_retention(settings)
    except Unreachable as error:
        if before is None or not ran_before:
            raise
        if before.partitions not in ("", worked.partitions):
            raise SettingError(
                f"PIPELINE_PARTITIONS is {worked.partitions}, but the topics had {before.partitions} when "
                f"Kafka was last reached: it must be what they were made with. And now: {error}"
            ) from None
        _log.warning("kafka_is_away", reason=str(error))
        return True
    if before != worked:
        marker.write_text("\n".join(worked))
    return ran_before


class Adopter:
    """Finds the spools that dead processes have left behind."""

    def __init__(self, settings: Settings, meters: Meters) -> None:
        self._settings = settings
        self._meters = meters
        self._broken: set[Path] = set()

    def adopt(self) -> list[Spool]:
        """Return them locked and open; one that can't be read stays where it is, with an alarm."""
        adopted: list[Spool] = []
        for directory in left_behind(self._settings.data_dir / SPOOLS):
            spool = _spool(self._settings, directory)
            try:
                spool.open()
            except BlockingIOError:  # another process was quicker
                continue
            except OSError as error:
                if directory not in self._broken:
                    self._broken.add(directory)
                    self._meters.count("pipeline_internal_errors_total", "forwarder")
                    _log.error("spool_unreadable", spool=directory.name, reason=str(error))
                continue
            adopted.append(spool)
            _log.info("adopted", spool=directory.name, records=spool.totals.records)
        return adopted


@contextlib.contextmanager
def opened_spool(settings: Settings) -> Iterator[Spool]:
    """Yield this process's own spool."""
    parent = settings.data_dir / SPOOLS
    try:
        parent.mkdir(parents=True, exist_ok=True)
        own = _new_spool(settings, parent)
    except OSError as error:
        raise SettingError(f"PIPELINE_DATA_DIR (--data-dir): can't spool in {parent}: {error}") from None
    try:
        yield own
    finally:
        with contextlib.suppress(Unavailable):
            own.close()


def _new_spool(settings: Settings, parent: Path) -> Spool:
    """Return a new open spool, or raise OSError; one that another process took for left behind is its."""
    for _ in range(SPOOL_TRIES):
        spool = _spool(settings, parent / uuid.uuid4().hex)
        try:
            spool.open()
        except (BlockingIOError, FileNotFoundError):
            continue
        return spool
    raise BlockingIOError(f"each of {SPOOL_TRIES} new spools was locked by another process")


def _spool(settings: Settings, directory: Path) -> Spool:
    return Spool(
        directory,
        most_bytes=settings.spool_limit_bytes,
        most_age_ms=settings.spool_max_age_s * 1000,
        now_ms=lambda: time.time_ns() // 1_000_000,
        schema=schema_text(load_schema(UPLOADS)),
    )
