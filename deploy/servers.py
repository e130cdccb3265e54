"""Fetch and start the real servers: Apache Kafka and Apicurio Registry, by Maven.

`python -m deploy.servers kafka|registry` runs one until Ctrl-C; tests use the classes. A server that
does not come up raises `ServerFailed` with the end of its log.
"""

from __future__ import annotations

import base64
import contextlib
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Self

from deploy import fetching
from deploy.fetching import ROOT, ServerFailed, fetch_kafka, fetch_registry, find_java, java_version
from deploy.process import START_DEADLINE_S, Server, can_listen, free_port, is_open

REGISTRY_JAVA: Final = 21
"""Apicurio Registry 3.3 needs at least this Java; Kafka 4 needs 17."""
FORMAT: Final = ("kafka.tools.StorageTool", "format")
QUICK_JAVA: Final = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""A start takes half the CPU time without the second compiler, which pays only for those who run long."""


class Member(NamedTuple):
    """A node's place in a cluster of several."""

    node_id: int
    cluster_id: str
    controller_ports: Sequence[int]


def new_cluster_id() -> str:
    """Return a random cluster id that does not begin with "-", which Kafka would take for an option."""
    return base64.urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")


class _Node(Server):
    """One process of Apache Kafka; its storage is formatted before it is started for the first time."""

    java_options: Sequence[str] = ("-Xms256m", "-Xmx512m", *QUICK_JAVA)

    def __init__(self) -> None:
        super().__init__()
        self._java = find_java(17) or "java"
        self._archived: Sequence[str] = ()

    def launch(self) -> None:
        """Make ready what is missing, format the storage the first time, start."""
        fetch_kafka()
        self._archived = archived_classes(self._java)
        self._begin()

    def _begin(self) -> None:
        properties = self.directory / "server.properties"
        if not properties.exists():
            properties.write_text(self._properties())
            self._format("-c", str(properties), *self._format_options())
        super().launch()

    def start_again(self) -> None:
        """Start after a kill; what it logged before is not taken for its coming up."""
        (self.directory / "log").unlink(missing_ok=True)
        self.start()

    def _properties(self) -> str:
        raise NotImplementedError

    def _format_options(self) -> Sequence[str]:
        raise NotImplementedError

    def _format(self, *arguments: str) -> None:
        done = subprocess.run(
            [self._java, *QUICK_JAVA, *self._archived, "-cp", f"{fetching.KAFKA_LIB}/*", *FORMAT, *arguments],
            capture_output=True,
            text=True,
            timeout=START_DEADLINE_S,
            check=False,
        )
        if done.returncode:
            raise ServerFailed(f"kafka storage format failed:\n{done.stdout}{done.stderr}")

    def _command(self) -> Sequence[str]:
        logging = f"-Dlog4j2.configurationFile={ROOT / 'deploy' / 'kafka' / 'log4j2.properties'}"
        return [
            self._java,
            *self.java_options,
            *self._archived,
            logging,
            "-cp",
            f"{fetching.KAFKA_LIB}/*",
            "kafka.Kafka",
            "server.properties",
        ]

    def _answers(self) -> bool:
        return "Kafka Server started" in self.log_tail(200_000)


class Kafka(_Node):
    """Apache Kafka, one KRaft node on ports of its own, alone or as the member of a cluster."""

    name = "kafka"

    def __init__(self, port: int | None = None, member: Member | None = None) -> None:
        super().__init__()
        self.port = port or free_port()
        self._member = member
        self._controller_port = free_port() if member is None else member.controller_ports[member.node_id - 1]
        self.bootstrap = f"127.0.0.1:{self.port}"

    def _format_options(self) -> Sequence[str]:
        if self._member is None:
            return ("--standalone", "-t", new_cluster_id())
        return ("-t", self._member.cluster_id)

    def _answers(self) -> bool:
        return super()._answers() and is_open(self.port)

    def _properties(self) -> str:
        if self._member is None:
            node_id, copies = 1, 1
            quorum = f"controller.quorum.bootstrap.servers=127.0.0.1:{self._controller_port}"
        else:
            node_id, copies = self._member.node_id, len(self._member.controller_ports)
            ports = enumerate(self._member.controller_ports, 1)
            quorum = "controller.quorum.voters=" + ",".join(f"{i}@127.0.0.1:{port}" for i, port in ports)
        return f"""process.roles=broker,controller
node.id={node_id}
{quorum}
listeners=PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self._controller_port}
""" + _broker_properties(self.port, self.directory / "data", copies)


class _Archiving(Kafka):
    """The same, which at its end writes down the classes that it loaded."""

    def __init__(self, archive: Path) -> None:
        super().__init__()
        self.java_options = (*self.java_options, f"-XX:ArchiveClassesAtExit={archive}")

    def launch(self) -> None:
        """Start without an archive."""
        self._begin()


def archived_classes(java: str) -> Sequence[str]:
    """Return the option that gives this Java Kafka's classes as it left them in a first short run.

    With it a start takes half the CPU time. That run is made once for each Java; one that can't write down
    its classes starts without them, and one that finds that they are of other jars ignores them.
    """
    archive = fetching.KAFKA_LIB / f"classes-{java_version(java)}.jsa"
    with fetching.one_at_a_time():
        if not archive.exists():
            arriving = archive.with_suffix(".arriving")
            with contextlib.suppress(ServerFailed, OSError):
                with _Archiving(arriving):
                    pass
                arriving.replace(archive)
    return (f"-XX:SharedArchiveFile={archive}",) if archive.exists() else ()


class LastingKafka(Kafka):
    """The same for those who run long, with the options of Kafka's own start script."""

    java_options = (
        *("-Xms1g", "-Xmx1g", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"),
        *("-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent"),
    )


def _broker_properties(port: int, data: Path, copies: int) -> str:
    # Retention goes by record time: what tests date years back must be there until they have read it. So it
    # looks once at the start, when nothing is there (its own first look would come after 30 s), then daily;
    # so does the cleaner, which removes old records of topics that are compacted, too.
    return f"""advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
offsets.topic.replication.factor={copies}
offsets.topic.num.partitions=4
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={(copies + 1) // 2}
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor={copies}
share.coordinator.state.topic.min.isr={(copies + 1) // 2}
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
auto.create.topics.enable=false
log.initial.task.delay.ms=0
log.retention.check.interval.ms=86400000
log.cleaner.backoff.ms=86400000
"""


SESSION_MS: Final = 6_000
"""After so long without a heartbeat a `Controller` takes its broker for gone."""


class Controller(_Node):
    """A KRaft controller in a process of its own."""

    name = "controller"
    java_options = ("-Xms64m", "-Xmx256m", *QUICK_JAVA)

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self.cluster_id = new_cluster_id()

    def _format_options(self) -> Sequence[str]:
        return ("--standalone", "-t", self.cluster_id)

    def _properties(self) -> str:
        return f"""process.roles=controller
node.id=1000
controller.quorum.bootstrap.servers=127.0.0.1:{self.port}
listeners=CONTROLLER://127.0.0.1:{self.port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={self.directory / "data"}
broker.session.timeout.ms={SESSION_MS}
"""


class LoneBroker(Kafka):
    """One broker beside a `Controller`, which is started again only when the controller knows it was gone.

    A node that is broker and controller in one, or a broker that is back sooner, serves for a while what
    it led before, then loses and regains it; commit markers that fall between are never written
    (docs/kafka.md).
    """

    name = "broker"

    def __init__(self) -> None:
        super().__init__()
        self.controller = Controller()
        self._gone_at = 0.0

    def start(self) -> None:
        """Start the controller too, the first time."""
        if not self.controller.is_running:
            self.controller.start()
        super().start()

    def kill(self) -> None:
        """kill -9 of the broker alone."""
        super().kill()
        self._gone_at = time.monotonic()

    def start_again(self) -> None:
        """Start after a kill, as late as this broker may come back."""
        time.sleep(max(0.0, self._gone_at + 1.5 * SESSION_MS / 1000 - time.monotonic()))
        super().start_again()

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        self.controller.__exit__(*exc)

    def _format_options(self) -> Sequence[str]:
        return ("-t", self.controller.cluster_id)

    def _properties(self) -> str:
        return f"""process.roles=broker
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{self.controller.port}
listeners=PLAINTEXT://127.0.0.1:{self.port}
broker.heartbeat.interval.ms={SESSION_MS // 6}
broker.session.timeout.ms={SESSION_MS}
""" + _broker_properties(self.port, self.directory / "data", copies=1)


class KafkaCluster:
    """Three Kafka nodes: every partition has three copies, and any one node may be away."""

    def __init__(self, nodes: int = 3) -> None:
        controller_ports = [free_port() for _ in range(nodes)]
        cluster_id = new_cluster_id()
        self.nodes = [Kafka(member=Member(i + 1, cluster_id, controller_ports)) for i in range(nodes)]
        self.bootstrap = ",".join(node.bootstrap for node in self.nodes)

    def __enter__(self) -> Self:
        fetch_kafka()
        try:
            for node in self.nodes:  # none comes up before most of them are there
                node.launch()
            for node in self.nodes:
                node.await_answer()
        except ServerFailed:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        for node in self.nodes:
            node.kill()
            node.__exit__()


class Registry(Server):
    """Apicurio Registry, in memory unless its environment says more; its Confluent API is at `url`."""

    name = "registry"

    def __init__(self, port: int | None = None, environment: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.port = port or free_port()
        self._management_port = free_port()
        self._given = dict(environment or {})
        self.url = f"http://127.0.0.1:{self.port}/apis/ccompat/v7"

    def launch(self) -> None:
        """Fetch what is missing, start."""
        fetch_registry()
        super().launch()

    def _command(self) -> Sequence[str]:
        jar = next(fetching.REGISTRY_DIR.rglob("quarkus-run.jar"))
        return [find_java(REGISTRY_JAVA) or "java", "-Xmx512m", *QUICK_JAVA, "-jar", str(jar)]

    def _environment(self) -> dict[str, str]:
        return self._given | {
            "QUARKUS_HTTP_PORT": str(self.port),
            "QUARKUS_HTTP_HOST": "127.0.0.1",
            # Else it is 0.0.0.0:9000 for every registry, and a second one can't start.
            "QUARKUS_MANAGEMENT_PORT": str(self._management_port),
            "QUARKUS_MANAGEMENT_HOST": "127.0.0.1",
        }

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/subjects", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def main() -> int:
    """Run one server for a person, until Ctrl-C."""
    kind = sys.argv[1] if len(sys.argv) > 1 else ""
    if kind not in {"kafka", "registry"}:
        print("usage: python -m deploy.servers kafka|registry")
        return 2
    port = 9092 if kind == "kafka" else 8081
    if not can_listen(port):
        print(f"port {port} is in use: stop what listens there, perhaps another `make {kind}`")
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with LastingKafka(port) if kind == "kafka" else Registry(port) as server:
            where = server.bootstrap if isinstance(server, Kafka) else server.url
            print(f"{kind} is at {where}; Ctrl-C stops it and forgets its data", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        return 0
    except ServerFailed as failed:
        print(failed)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
