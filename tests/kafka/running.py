"""The services on Kafka as processes: ingest, and workers that are restarted when they end."""

from __future__ import annotations

import io
import json
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import httpx

from deploy.fetching import ROOT
from deploy.services import PIPELINE, Supervised
from pipeline.commands.home import opened_home
from pipeline.commands.ledger import as_dict, read_ledger
from pipeline.commands.records import records as show_records
from pipeline.contract.ports import Unavailable
from pipeline.kafka.clients import Unreachable
from pipeline.settings import SettingError, Settings, child_environ
from tests.called import called
from tests.load import plain_client
from tests.waiting import until

QUICK_SESSION_S: Final = 6
"""So soon a group gives the partitions of a worker that was killed away, but those of a starved one, too."""
LONG_SESSION_S: Final = 30
"""For workers that nobody kills or joins: the group keeps their partitions however slow the machine is."""


def environ(settings: Settings, **other: Any) -> dict[str, str]:
    """Return the environment that gives a process these settings, but for the other values."""
    return child_environ(settings, **{"worker_port": 0, "worker_session_timeout_s": QUICK_SESSION_S} | other)


def started_from(root: Path, settings: Settings, **other: Any) -> tuple[list[str], dict[str, str]]:
    """Return the program of this checkout, and the environment that gives it these settings."""
    if root == ROOT:
        return [str(PIPELINE)], environ(settings, **other)
    program = [sys.executable, "-c", "from pipeline.cli import main; main()"]
    return program, {**environ(settings, **other), "PYTHONPATH": str(root)}


def command(settings: Settings, *arguments: str, root: Path = ROOT) -> subprocess.CompletedProcess[bytes]:
    """Return the finished command with these settings, of this checkout.

    This one's runs in this process, one at a time; another's as a process of its own.
    """
    if root == ROOT:
        return called(arguments, environ(settings))
    program, env = started_from(root, settings)
    return subprocess.run(
        [*program, *arguments], capture_output=True, cwd=root, env=env, timeout=180, check=False
    )


def records(settings: Settings, topic: str, root: Path = ROOT) -> list[dict[str, Any]]:
    """Return the records of a topic as `pipeline records --json` shows them.

    This checkout's are read in this process: most of what the command costs is its start.
    """
    if root != ROOT:
        return printed_records(settings, topic, root)
    end = time.monotonic() + 120
    while True:
        shown = io.StringIO()
        try:
            assert show_records(settings, topic, as_json=True, follow=False, out=shown) == 0
        except Unreachable:  # a broker that is starved says nothing for longer than a person would wait
            assert time.monotonic() < end
        else:
            return [json.loads(line) for line in shown.getvalue().splitlines()]


def printed_records(settings: Settings, topic: str, root: Path = ROOT) -> list[dict[str, Any]]:
    """Return the records of a topic as the command prints them."""
    done = command(settings, "records", topic, "--json", root=root)
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


def rows(settings: Settings, topic: str, root: Path = ROOT) -> list[dict[str, Any]]:
    """Return the decoded values of a topic."""
    return [record["value"] for record in records(settings, topic, root)]


def copies_of(settings: Settings, root: Path = ROOT) -> Counter[str]:
    """Return how often Kafka has each upload: twice when its acknowledgement came late, on a slow machine."""
    return Counter(str(value["upload_id"]) for value in rows(settings, "media.uploads", root))


def settled(settings: Settings, deadline_s: float = 120, root: Path = ROOT) -> dict[str, Any]:
    """Return the ledger once nothing is pending and it balances, or as it is at the deadline."""
    end = time.monotonic() + deadline_s
    while True:
        found = ledger(settings) if root == ROOT else printed_ledger(settings, root)
        if (found["pending"] == 0 and found["balances"]) or time.monotonic() > end:
            return found
        time.sleep(0.5)


def ledger(settings: Settings) -> dict[str, Any]:
    """Return the ledger of this moment as `pipeline ledger --json` shows it, read in this process."""
    try:
        with opened_home(settings) as home:
            found = read_ledger(home, time.time_ns() // 1_000_000)
    except (SettingError, Unavailable) as error:
        return {"pending": -1, "error": str(error)}
    return as_dict(found)


def printed_ledger(settings: Settings, root: Path = ROOT) -> dict[str, Any]:
    """Return the ledger as the command prints it."""
    done = command(settings, "ledger", "--json", root=root)
    found: dict[str, Any] = json.loads(done.stdout) if done.stdout else {"pending": -1, "stderr": done.stderr}
    return found


class Ingest:
    """A running `pipeline ingest`."""

    def __init__(
        self, settings: Settings, file_limit_bytes: int | None = None, root: Path = ROOT, port: int = 0
    ) -> None:
        def limit() -> None:
            if file_limit_bytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit_bytes, file_limit_bytes))

        program, env = started_from(root, settings)
        self._process = subprocess.Popen(
            [*program, "ingest", "--port", str(port)],
            cwd=root,
            env=env,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            preexec_fn=limit,  # noqa: PLW1509 - one system call, no lock can be held
        )
        guard = threading.Timer(120, self._process.kill)
        guard.start()
        assert self._process.stderr is not None
        said = []
        for line in self._process.stderr:
            said.append(line)
            found = re.search(r"http://[\d.]+:(\d+)", line)
            if found:
                guard.cancel()
                self.port = int(found[1])
                self._base = f"http://127.0.0.1:{self.port}"
                self._drain = threading.Thread(target=self._process.stderr.read)
                self._drain.start()
                return
        guard.cancel()
        self._process.stderr.close()
        self._process.wait()
        raise AssertionError("ingest did not start:\n" + "".join(said))

    @property
    def process_id(self) -> int:
        return self._process.pid

    def client(self) -> httpx.Client:
        return plain_client(self._base)

    def metric(self, name: str) -> float:
        """Return a metric without labels."""
        with self.client() as client:
            found = re.search(rf"^{name} (\S+)$", client.get("/metrics").text, re.MULTILINE)
        assert found is not None, name
        return float(found[1])

    def await_forwarded(self, deadline_s: float = 120) -> None:
        """Wait until nothing waits in the spools.

        What they hold is measured now and then; what was spooled since is told by what went in and out.
        """
        end = time.monotonic() + deadline_s
        while self.metric("pipeline_spool_records") > 0 or self._spooled() > 0:
            assert time.monotonic() < end, "the spool does not drain"
            time.sleep(0.2)

    def _spooled(self) -> float:
        """Return how many more uploads went into the spools than left them."""
        left = self.metric("pipeline_forwarded_total") + self.metric("pipeline_set_aside_total")
        return self.metric("pipeline_spooled_total") - left

    def await_spooled(self, deadline_s: float = 120) -> None:
        """Wait until an upload has gone to the spool."""
        until(lambda: self.metric("pipeline_spooled_total") > 0, "nothing goes to the spool", deadline_s)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def begin_to_stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def await_end(self, deadline_s: float = 180) -> int:
        """Return the exit code of a process that ends by itself."""
        return self._process.wait(timeout=deadline_s)

    def stop(self) -> int:
        self.begin_to_stop()
        return self.await_end()

    def __enter__(self) -> Ingest:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._drain.join()
        assert self._process.stderr is not None
        self._process.stderr.close()


class Worker(Supervised):
    """A worker under supervision, with these settings but for the other values."""

    def __init__(self, settings: Settings, log: Path, root: Path = ROOT, **other: Any) -> None:
        program, env = started_from(root, settings, **other)
        super().__init__([*program, "worker"], env, log, root)

    def await_assignment(self, times: int = 1, deadline_s: float = 120) -> None:
        """Wait until partitions were taken over so many times."""
        end = time.monotonic() + deadline_s
        while self.log.read_text(errors="replace").count("taken_over") < times if self.log.exists() else True:
            assert time.monotonic() < end, self.log_tail()
            time.sleep(0.1)

    def take_overs(self) -> list[list[int]]:
        """Return the partitions of each take-over so far, in order."""
        return take_overs(self.log)

    def await_share(self, partitions: int, after: int = 0, deadline_s: float = 120) -> None:
        """Wait until its newest take-over, one after so many, is of so many partitions."""
        end = time.monotonic() + deadline_s
        while len(found := self.take_overs()) <= after or len(found[-1]) != partitions:
            assert time.monotonic() < end, self.log_tail()
            time.sleep(0.1)


def take_overs(log: Path) -> list[list[int]]:
    """Return the partitions of each take-over that a worker has logged, in order."""
    said = log.read_text(errors="replace") if log.exists() else ""
    whole = said[: said.rfind("\n") + 1].splitlines()  # it may be writing the last one
    return [json.loads(line)["partitions"] for line in whole if '"event": "taken_over"' in line]
