"""docker-compose.yml: valid, safe, and its services work together in the order of `depends_on`.

There is no Docker engine here: our services' own commands, Kafka and Apicurio run as processes with the
environment that the file gives them; what the images themselves do is not tested.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from deploy import servers
from deploy.probe import is_healthy
from deploy.process import Server, free_port
from deploy.servers import Registry
from pipeline.device.examples import load_examples
from pipeline.settings import names
from tests.called import called
from tests.commands.serving import PIPELINE, ROOT

COMPOSE: Final = Path(sys.executable).with_name("docker-compose")
SERVERS: Final = {"controller", "kafka", "registry"}
HEALTHY_S: Final = 120.0
ONE_SHOT: Final = "service_completed_successfully"


def services() -> dict[str, Any]:
    """Return the services as Compose itself reads the file, or fail with what it says."""
    done = subprocess.run(
        [COMPOSE, "-f", ROOT / "docker-compose.yml", "config", "--format", "json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


def in_order(found: Mapping[str, Any]) -> list[str]:
    """Return the services so that each comes after those it depends on."""
    return list(TopologicalSorter({n: set(s.get("depends_on", {})) for n, s in found.items()}).static_order())


def test_compose_reads_the_file_and_finds_the_services() -> None:
    assert set(services()) == {*SERVERS, "topics", "ingest", "worker"}


def test_a_killed_broker_comes_back_only_when_the_controller_knows_it_was_gone() -> None:
    found = services()
    pause, _, then = found["kafka"]["command"][-1].partition(";")
    assert then.strip().startswith("exec ")
    session_ms = int(found["controller"]["environment"]["KAFKA_BROKER_SESSION_TIMEOUT_MS"])
    assert int(pause.removeprefix("sleep ")) * 1000 > session_ms
    assert found["kafka"]["environment"]["KAFKA_PROCESS_ROLES"] == "broker"


def test_kafka_has_the_time_to_stop_in_order() -> None:
    assert {services()[name]["stop_grace_period"] for name in ("controller", "kafka")} == {"1m0s"}


def test_every_setting_that_the_file_gives_is_one_of_ours() -> None:
    for name in set(services()) - SERVERS:
        given = services()[name]["environment"]
        assert given
        assert set(given) <= set(names()), name


def test_only_the_ingest_is_reachable_from_outside_and_only_from_this_machine() -> None:
    ports = {name: service.get("ports", []) for name, service in services().items()}
    assert [p["host_ip"] for p in ports.pop("ingest")] == ["127.0.0.1"]
    assert not any(ports.values())


def test_our_services_run_without_rights_and_come_back_when_they_end() -> None:
    for name, service in services().items():
        if name in SERVERS:
            continue
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["restart"] == ("on-failure:5" if name == "topics" else "unless-stopped")


def test_what_the_image_copies_is_there() -> None:
    lines = (ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    copied = [
        word
        for line in lines
        if line.startswith("COPY") and "--from=" not in line
        for word in line.split()[1:-1]
    ]
    assert "pipeline" in copied
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")}
    assert set(copied) <= allowed
    assert all((ROOT / path).exists() for path in copied)


def test_the_hot_path_of_the_image_is_plain_or_compiled() -> None:
    lines = (ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    stages = {line.split()[-1] for line in lines if line.startswith("FROM") and " AS " in line}
    builds = [s["build"]["args"] for name, s in services().items() if name not in SERVERS]
    assert {args["HOT_PATH"] for args in builds} == {"plain"}
    assert {"plain", "compiled"} <= stages
    assert lines[2] == "ARG HOT_PATH=plain"
    assert [line for line in lines if line.startswith("FROM")][-1] == "FROM ${HOT_PATH}"


class Node(servers._Node):
    """A node of Kafka with the settings that its image makes of the service's environment."""

    def __init__(self, service: Mapping[str, Any], cluster_id: str, replaced: Mapping[str, str]) -> None:
        super().__init__()
        self._cluster_id = cluster_id
        self._lines = []
        for variable, value in service["environment"].items():
            assert variable.startswith("KAFKA_"), variable
            given = str(value).replace("/var/lib/kafka/data", str(self.directory / "data"))
            for inside, outside in replaced.items():
                given = given.replace(inside, outside)
            self._lines.append(f"{variable.removeprefix('KAFKA_').lower().replace('_', '.')}={given}")

    def _properties(self) -> str:
        return "\n".join(self._lines)

    def _format_options(self) -> list[str]:
        return ["-t", self._cluster_id]


class Processes:
    """The services as processes, each with the environment of the file, addresses replaced."""

    def __init__(self, directory: Path) -> None:
        broker, controller, self._registry_port = free_port(), free_port(), free_port()
        self._cluster_id = servers.new_cluster_id()
        self._replaced = {
            "kafka:9092": f"127.0.0.1:{broker}",
            "//:9092": f"//127.0.0.1:{broker}",
            "controller:9093": f"127.0.0.1:{controller}",
            "//:9093": f"//127.0.0.1:{controller}",
            "http://registry:8080": f"http://127.0.0.1:{self._registry_port}",
            "0.0.0.0": "127.0.0.1",
        }
        self._directory = directory
        self.ports: dict[str, int] = {}

    def server(self, name: str, service: Mapping[str, Any]) -> Server:
        """Return Kafka or the registry as this service describes it."""
        if name != "registry":
            return Node(service, self._cluster_id, self._replaced)
        given = {
            variable: str(value).replace("kafka:9092", self._replaced["kafka:9092"])
            for variable, value in service["environment"].items()
        }
        return Registry(self._registry_port, given)

    def environment(self, name: str, service: Mapping[str, Any]) -> dict[str, str]:
        """Return the environment of a service on this machine: real addresses, a port and data of its own."""
        given = {variable: str(value) for variable, value in service["environment"].items()}
        for variable, value in given.items():
            for inside, outside in self._replaced.items():
                given[variable] = given[variable].replace(inside, outside)
            if variable.endswith("_PORT"):
                self.ports[value] = free_port()
                given[variable] = str(self.ports[value])
        given["PIPELINE_DATA_DIR"] = str(self._directory / name)
        return {**os.environ, **given}

    def run_once(self, name: str, service: Mapping[str, Any]) -> None:
        """Run a one-shot service, as `service_completed_successfully` demands it."""
        done = subprocess.run(
            [PIPELINE, *service["command"]],
            env=self.environment(name, service),
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
            cwd=self._directory,
        )
        assert done.returncode == 0, f"{name}: {done.stderr}"

    @contextmanager
    def start(self, name: str, service: Mapping[str, Any]) -> Iterator[None]:
        """Start a service and wait until its own health check passes; stop it afterwards."""
        with (self._directory / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [PIPELINE, *service["command"]],
                env=self.environment(name, service),
                stdout=log,
                stderr=log,
                cwd=self._directory,
            )
        try:
            command = [self._outside(word) for word in service["healthcheck"]["test"][1:]]
            assert command[:3] == ["python", "-m", "deploy.probe"]
            end = time.monotonic() + HEALTHY_S
            while not is_healthy(command[3]):
                said = (self._directory / f"{name}.log").read_text()
                assert process.poll() is None, f"{name} ended: {said}"
                assert time.monotonic() < end, f"{name}: {said}"
                time.sleep(0.2)
            yield
            process.terminate()
            assert process.wait(60) == 0, (self._directory / f"{name}.log").read_text()
        finally:
            process.kill()
            process.wait()

    def _outside(self, word: str) -> str:
        for inside, port in self.ports.items():
            word = word.replace(f"127.0.0.1:{inside}/", f"127.0.0.1:{port}/")
        return word


@pytest.mark.kafka
@pytest.mark.registry
@pytest.mark.usefixtures("registry_can_run")
def test_the_services_carry_an_upload_in_the_order_of_depends_on(tmp_path: Path) -> None:
    found = services()
    with ExitStack() as running:
        processes = Processes(tmp_path)
        one_shot = {
            needed
            for service in found.values()
            for needed, how in service.get("depends_on", {}).items()
            if how["condition"] == ONE_SHOT
        }
        for name in in_order(found):
            if name in SERVERS:
                running.enter_context(processes.server(name, found[name]))
            elif name in one_shot:
                processes.run_once(name, found[name])
            else:
                running.enter_context(processes.start(name, found[name]))
        example = next(e for e in load_examples() if e.path == "/api/v1/downloaded")
        inside = str(found["ingest"]["ports"][0]["target"])
        answer = httpx.post(
            f"http://127.0.0.1:{processes.ports[inside]}{example.path}",
            content=example.body,
            headers={"content-type": "application/json"},
            trust_env=False,
            timeout=180,
        )
        assert answer.status_code == 201
        session_id = answer.headers["location"].rsplit("/", 1)[1]
        assert session_id in _session_ids(processes, found["topics"])


def _session_ids(processes: Processes, service: Mapping[str, Any]) -> set[str]:
    """Return the ids of the sessions that came out, once one did."""
    end = time.monotonic() + HEALTHY_S
    while True:
        done = called(("records", "media.sessions", "--json"), processes.environment("topics", service))
        assert done.returncode == 0, done.stderr
        ids = {json.loads(line)["key"] for line in done.stdout.splitlines()}
        if ids or time.monotonic() > end:
            return ids
        time.sleep(0.5)
