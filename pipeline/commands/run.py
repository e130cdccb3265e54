"""`pipeline run`: the embedded default, everything in one process on the SQLite log."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

import structlog
import uvloop

from pipeline.commands.configured import client_ip_of, limits_of, load_directory
from pipeline.commands.garbage import tune_gc
from pipeline.commands.home import make_data_dir
from pipeline.contract.codec import Codec
from pipeline.contract.ports import Unavailable
from pipeline.contract.positions import position_maker
from pipeline.contract.topics import load_topics
from pipeline.ingest.app import App, Door
from pipeline.ingest.server import bind, serve
from pipeline.log.log import Log
from pipeline.log.registry_file import FileRegistry
from pipeline.metrics import Meters
from pipeline.settings import SettingError, Settings
from pipeline.stages.flood import Limit
from pipeline.stages.sizes import sizes_of
from pipeline.topology import UPLOADS, Topology
from pipeline.traces import open_traces
from pipeline.worker.embedded import EmbeddedWorker

_log = structlog.get_logger("pipeline.run")

REGISTRY_FILE: Final = "registry.json"


class Embedded:
    """One process: the log, the worker's thread, the maintenance thread and the HTTP service."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.meters = Meters()
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._socket: socket.socket | None = None
        self._on_failure: Callable[[], object] = lambda: None

    @property
    def port(self) -> int:
        """The port that is listened on (of interest when the setting is 0)."""
        assert self._socket is not None  # noqa: S101 - only asked for while serving
        return int(self._socket.getsockname()[1])

    def serve(self, when_serving: Callable[[], None] | None = None) -> int:
        """Serve until SIGINT or SIGTERM; return the exit code. Raises `SettingError` before it begins.

        `when_serving` runs in a thread of its own once requests are answered; when it is done and
        returns, the service goes on. `stop` ends it.
        """
        directory = load_directory(self.settings)
        client_ip = client_ip_of(self.settings)
        topics = load_topics(self.settings.partitions)
        self._socket = bind(self.settings)
        with (
            self._socket,
            contextlib.closing(open_traces(self.settings, "pipeline-run")) as traces,
            opened_log(self.settings) as (log, codec),
        ):
            limit = Limit(self.settings.worker_dead_letters_percent, self.settings.worker_dead_letters_least)
            topology = Topology(codec, topics, directory, limit, sizes_of(self.settings))
            door = Door(
                topology,
                log,
                self.meters,
                self.settings.ingest_body_limit_bytes,
                self.settings.ingest_store_deadline_ms / 1000,
                self.settings.ingest_path_prefix,
                is_ready=lambda: not self._stop.is_set() and log.is_writable(),
                limits=limits_of(self.settings, directory),
                memory_limit_bytes=self.settings.ingest_memory_bytes,
                client_ip=client_ip,
                traces=traces,
            )
            worker = EmbeddedWorker(
                topology,
                log,
                self.meters,
                partitions=topics[UPLOADS].partitions,
                batch_records=self.settings.worker_batch_records,
                traces=traces,
            )
            threads = [
                threading.Thread(target=self._guarded, args=(lambda: worker.run(self._stop),), name="worker"),
                threading.Thread(target=self._guarded, args=(lambda: self._maintain(log),), name="maintain"),
            ]
            for thread in threads:
                thread.start()
            try:
                tune_gc()
                uvloop.run(self._serve(App(door), when_serving))
            finally:
                self._stop.set()
                for thread in threads:
                    thread.join()
        if self._failure is not None:
            _log.error("stopped", error=repr(self._failure))
            return 1
        return 0

    def stop(self) -> None:
        """Ask the service to end as SIGTERM would: finish what was acknowledged, then return."""
        signal.raise_signal(signal.SIGTERM)

    async def _serve(self, app: App, when_serving: Callable[[], None] | None) -> None:
        assert self._socket is not None  # noqa: S101 - bound in serve()

        def serving(stop: Callable[[], None]) -> None:
            self._on_failure = stop
            if self._failure is not None:
                stop()
            url = f"http://{self.settings.ingest_host}:{self.port}"
            if self.settings.kafka_bootstrap:
                _log.warning(
                    "kafka_is_not_used",
                    kafka=self.settings.kafka_bootstrap,
                    why="all goes to the data directory; `pipeline ingest` and `pipeline worker` use Kafka",
                )
            _log.info("serving", url=url, data_dir=str(self.settings.data_dir))
            if when_serving is not None:
                threading.Thread(target=when_serving, name="when-serving", daemon=True).start()

        await serve(app, self.settings, self._socket, self.meters, serving)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - our own fault ends the process, whatever it was
            self._failure = error
            self._stop.set()
            self._on_failure()

    def _maintain(self, log: Log) -> None:
        while not self._stop.wait(self.settings.log_maintain_interval_s):
            try:
                log.maintain(time.time_ns() // 1_000_000)
            except Unavailable as error:  # a full disk passes, or retention makes room at the next turn
                _log.warning("not_maintained", error=repr(error))


@contextlib.contextmanager
def opened_log(settings: Settings) -> Iterator[tuple[Log, Codec]]:
    """Yield the open log of the data directory and its codec, or raise `SettingError` naming it."""
    make_data_dir(settings)
    try:
        codec = Codec(FileRegistry(settings.data_dir / REGISTRY_FILE))
        log = Log(settings.data_dir, load_topics(settings.partitions), position_maker(codec))
        log.open()
    except OSError as error:
        raise SettingError(
            f"PIPELINE_DATA_DIR (--data-dir): can't use {settings.data_dir}: {error}"
        ) from None
    try:
        yield log, codec
    finally:
        log.close()
