"""The servers that tests start: they say why they fail, and none outlives its test run."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy import fetching, process, servers
from deploy.fetching import ServerFailed
from tests.commands.serving import ROOT

OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")


class Script(process.Server):
    """A shell script in the place of a server; it answers when it has said that it is up."""

    def __init__(self, script: str) -> None:
        super().__init__()
        self._script = script

    def _command(self) -> Sequence[str]:
        return ["sh", "-c", self._script]

    def _answers(self) -> bool:
        return "up" in self.log_tail()


def test_a_server_that_fails_shows_the_end_of_its_log() -> None:
    server = Script("echo 'Address already in use'; exit 3")
    with pytest.raises(ServerFailed, match=r"server did not come up:\nAddress already in use"):
        server.start()
    server.stop()


def test_a_server_that_hangs_is_ended_and_shows_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "START_DEADLINE_S", 5)
    server = Script("echo waiting for nothing; exec sleep 600")
    with pytest.raises(ServerFailed, match="waiting for nothing"):
        server.start()
    assert server._process is not None
    assert server._process.poll() == -signal.SIGKILL


def test_what_a_server_wrote_is_gone_when_it_is_done_with() -> None:
    with Script("echo up; exec sleep 600") as server:
        pid, directory = server.pid, server.directory
    assert not is_running(pid)
    assert not directory.exists()


def test_no_server_outlives_its_test_run_however_that_ends(tmp_path: Path) -> None:
    program = (
        "from tests.deploy.test_servers import Script\n"
        "import time\n"
        "server = Script('echo up; exec sleep 600')\n"
        "server.start()\n"
        "print(server.pid, server.directory, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as test_run:
        assert test_run.stdout is not None
        pid, directory = test_run.stdout.readline().split()
        test_run.kill()
    end = time.monotonic() + 60
    while is_running(int(pid)):
        assert time.monotonic() < end, "the server runs on"
        time.sleep(0.05)
    (Path(directory) / "log").unlink()
    Path(directory).rmdir()


def is_running(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        os.kill(pid, 0)
        # A child whose parent is gone may wait for init as a zombie.
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


def test_ports_differ_and_are_none_that_an_outgoing_connection_could_be_given() -> None:
    ports = [process.free_port() for _ in range(200)]
    assert len(set(ports)) == 200
    first_outgoing = int(OUTGOING.read_text().split()[0]) if OUTGOING.exists() else 32_768
    assert max(ports) < first_outgoing


def test_a_port_that_is_taken_is_not_given() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert not process.can_listen(taken.getsockname()[1])


def test_cluster_ids_never_begin_with_a_dash() -> None:
    ids = {servers.new_cluster_id() for _ in range(500)}
    assert len(ids) == 500
    assert {len(each) for each in ids} == {22}
    assert not any(each.startswith("-") for each in ids)


def test_without_maven_or_java_the_reason_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(fetching, "KAFKA_LIB", tmp_path / "none")
    assert fetching.why_not() == "Maven (mvn) is not installed, and it fetches Apache Kafka"
    (tmp_path / "mvn").touch(mode=0o755)
    assert fetching.why_not(java=999) == "no Java of version 999 or newer was found"


def test_a_fetch_is_tried_again_and_only_a_whole_one_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = (
        "#!/bin/sh\n"
        'for each; do case "$each" in -DoutputDirectory=*) out="${each#*=}";; esac; done\n'
        f"echo once >> {tmp_path}/tries\n"
        'touch "$out/kafka_2.13.jar"\n'
        f'[ "$(wc -l < {tmp_path}/tries)" -gt "$LEAST" ] || {{ echo "no route there"; exit 1; }}\n'
        'touch "$out/other.jar"\n'
    )
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "mvn").write_text(script)
    (tmp_path / "bin" / "mvn").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(fetching, "KAFKA_LIB", tmp_path / "kafka" / "lib")
    monkeypatch.setattr(fetching, "FETCH_PAUSES_S", (0, 0, 0))
    monkeypatch.setenv("LEAST", "9")
    with pytest.raises(ServerFailed, match="no route there"):
        fetching.fetch_kafka()
    assert list((tmp_path / "kafka").iterdir()) == []
    monkeypatch.setenv("LEAST", "4")
    fetching.fetch_kafka()
    assert {path.name for path in fetching.KAFKA_LIB.iterdir()} == {"kafka_2.13.jar", "other.jar"}
    assert len((tmp_path / "tries").read_text().splitlines()) == 5


@pytest.mark.parametrize(("kind", "port"), [("kafka", 9092), ("registry", 8081)])
def test_a_port_in_use_is_one_clear_line(kind: str, port: int) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # then something else listens there already
            taken.bind(("127.0.0.1", port))
            taken.listen()
        done = subprocess.run(
            [sys.executable, "-m", "deploy.servers", kind],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=180,
            check=False,
        )
    assert (done.returncode, done.stdout.count("\n")) == (2, 1)
    assert str(port) in done.stdout


def test_what_several_need_at_once_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def slow_maven(_pom: Path, out: Path) -> None:
        time.sleep(0.2)
        (out / "kafka_2.13.jar").touch()
        fetched.append(out)

    monkeypatch.setattr(fetching, "KAFKA_LIB", tmp_path / "lib")
    monkeypatch.setattr(fetching, "_maven", slow_maven)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: fetching.fetch_kafka(), range(4)))
    assert len(fetched) == 1
    assert [path.name for path in (tmp_path / "lib").iterdir()] == ["kafka_2.13.jar"]


def test_classes_are_written_down_once_for_each_java_and_what_they_are_not_for_starts_all_the_same(
    kafka_can_run: None,
) -> None:
    fetching.fetch_kafka()
    java = fetching.find_java(17)
    assert java is not None
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: servers.archived_classes(java), range(2))
    assert one == other
    archive = Path(one[0].partition("=")[2])
    written_at = archive.stat().st_mtime_ns
    loaded = {option: classes_loaded(java, option) for option in (*one, f"-XX:SharedArchiveFile={__file__}")}
    assert [by_archive > 1_000 for by_archive in loaded.values()] == [True, False]
    assert archive.stat().st_mtime_ns == written_at


def classes_loaded(java: str, option: str) -> int:
    """Return how many classes a command of Kafka's took out of an archive beside Java's own."""
    done = subprocess.run(
        [java, option, "-Xlog:class+load", "-cp", f"{fetching.KAFKA_LIB}/*", *servers.FORMAT, "--help"],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.count("shared objects file (top)")
