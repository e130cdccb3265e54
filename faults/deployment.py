"""What the faults happen to: ingest and workers as processes on a cluster, under topics of their own."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final, Self

import httpx
from confluent_kafka.admin import AdminClient

from deploy.fetching import ROOT
from deploy.process import free_port
from deploy.servers import KafkaCluster
from deploy.services import PIPELINE, NotRunning, Supervised
from pipeline.commands.home import kafka_codec
from pipeline.contract.topics import load_topics
from pipeline.kafka import admin
from pipeline.settings import Settings, child_environ, load

COPIES: Final = 3
PARTITIONS: Final = 6
"""Fewer than by default: three brokers share one small machine here."""
MIN_INSYNC: Final = 2
SESSION_TIMEOUT_S: Final = 4
"""How soon the group gives a silent worker's partitions away; 15 s by default, less here to save time."""
LIVE_S: Final = 60.0
LEDGER_S: Final = 120.0
LOOK_S: Final = 0.05


class Service(Supervised):
    """An ingest or a worker, with its own health endpoint."""

    def __init__(self, name: str, settings: Settings, log: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        super().__init__([PIPELINE, name], child_environ(settings), log)

    def is_live(self) -> bool:
        """Return whether it answers that it is live."""
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health/live", timeout=1, trust_env=False).status_code == 200
        return False

    def metric(self, name: str) -> float:
        """Return one of its metrics without labels, or raise `LookupError`."""
        page = httpx.get(f"{self.url}/metrics", timeout=5, trust_env=False).text
        found = re.search(rf"^{name} (\S+)$", page, re.MULTILINE)
        if found is None:
            raise LookupError(name)
        return float(found[1])

    def await_live(self, other_than: int | None = None) -> None:
        """Wait until it answers, and is another process than this one; or raise `NotRunning`."""
        end = time.monotonic() + LIVE_S
        while self.process_id == other_than or not self.is_live():
            if time.monotonic() > end:
                raise NotRunning(f"{self.url} does not answer:\n{self.log_tail()}")
            time.sleep(LOOK_S)


class Deployment:
    """Topics under one prefix, an ingest and two workers on them; a third worker may come and go.

    Every service has a data directory of its own, as on machines of its own; they share schema ids.
    """

    def __init__(self, cluster: KafkaCluster, directory: Path, name: str, registry_url: str = "") -> None:
        self._running = ExitStack()
        self._directory = directory / name
        self._directory.mkdir(parents=True)
        self._ports = _ports(4)
        self.settings = load(
            {},
            kafka_bootstrap=cluster.bootstrap,
            kafka_topic_prefix=f"{name}.",
            kafka_replication_factor=COPIES,
            kafka_min_insync_replicas=MIN_INSYNC,
            partitions=PARTITIONS,
            data_dir=self._directory / "data",
            worker_group=f"worker-{name}",
            worker_session_timeout_s=SESSION_TIMEOUT_S,
            registry_url=registry_url,
            ingest_port=self._ports[0],
        )
        self.ingest: Service
        self.workers: list[Service] = []

    def __enter__(self) -> Self:
        with self._running:
            self._start()
            self._running = self._running.pop_all()  # what runs stays only when all of it does
        return self

    def _start(self) -> None:
        if self.settings.registry_url:
            subprocess.run(
                [PIPELINE, "topics", "apply"],
                env=child_environ(self.settings),
                cwd=ROOT,
                check=True,
                capture_output=True,
            )
        else:
            admin.apply(self.settings, load_topics(PARTITIONS))
        codec = kafka_codec(self.settings)
        for topic in load_topics():
            codec.prepare(topic)
        self.ingest = self._running.enter_context(self._service("ingest", "ingest", self._ports[0]))
        self.workers = [self.new_worker(number) for number in range(2)]
        for service in (self.ingest, *self.workers):
            service.await_live()

    def __exit__(self, *_exc: object) -> None:
        self._running.close()
        client = AdminClient({"bootstrap.servers": self.settings.kafka_bootstrap, "log_level": 2})
        names = [self.settings.kafka_topic_prefix + name for name in load_topics()]
        for future in client.delete_topics(names).values():
            with suppress(Exception):  # the cluster is thrown away with everything in it
                future.result(20)

    def new_worker(self, number: int) -> Service:
        """Start one more worker; it ends with the deployment at the latest."""
        return self._running.enter_context(
            self._service("worker", f"worker-{number}", self._ports[number + 1])
        )

    def ledger(self) -> dict[str, Any]:
        """Return what `pipeline ledger` says once it balances with nothing pending, or at the deadline."""
        end = time.monotonic() + LEDGER_S
        while True:
            done = subprocess.run(
                [PIPELINE, "ledger", "--json"],
                env=child_environ(self.settings),
                cwd=ROOT,
                capture_output=True,
                check=False,
            )
            found: dict[str, Any] = (
                json.loads(done.stdout)
                if done.stdout
                else {"balances": False, "pending": -1, "checks": [], "error": done.stderr.decode()[-500:]}
            )
            if (found["balances"] and found["pending"] == 0) or time.monotonic() > end:
                return found
            time.sleep(0.5)

    def _service(self, command: str, name: str, port: int) -> Service:
        directory = self._directory / name
        if not directory.exists():
            shutil.copytree(self.settings.data_dir, directory)
        settings = load(
            child_environ(self.settings, data_dir=directory, worker_port=port if command == "worker" else 0)
        )
        return Service(command, settings, self._directory / f"{name}.log", port)


def _ports(number: int) -> list[int]:
    found: set[int] = set()
    while len(found) < number:
        found.add(free_port())
    return sorted(found)
