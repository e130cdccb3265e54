"""The program as a person runs it: a process of its own, over real HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from tests.called import called
from tests.load import plain_client

ROOT: Final = Path(__file__).resolve().parents[2]
PIPELINE: Final = Path(sys.executable).with_name("pipeline")
STARTED: Final = re.compile(r"http://[\d.]+:(\d+)")


def run(
    *arguments: str, stdin: bytes = b"", environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Return the finished command, a process of its own."""
    return subprocess.run(
        [PIPELINE, *arguments],
        input=stdin,
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, **(environ or {})},
        timeout=120,
        check=False,
    )


def run_here(
    *arguments: str, stdin: bytes = b"", environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Return the finished command, run in this process with no other variables of ours."""
    return called(arguments, environ or {}, stdin)


def refused(*arguments: str, environ: dict[str, str] | None = None) -> str:
    """Return the one line that the command line ends with and its exit code 2, in this process."""
    done = run_here(*arguments, environ=environ)
    said = done.stderr.decode()
    assert (done.returncode, said.count("\n")) == (2, 1), said
    return said


def rows(*arguments: str) -> list[dict[str, Any]]:
    """Return the JSON lines that a command prints."""
    done = run_here(*arguments)
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


class Served:
    """A running `pipeline run` on a free port."""

    def __init__(self, data_dir: Path, **environ: str) -> None:
        self.data_dir = data_dir
        self.process = subprocess.Popen(
            [PIPELINE, "run", "--data-dir", str(data_dir), "--port", "0"],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environ},
        )
        assert self.process.stderr is not None
        self.said: list[str] = []
        """What it logged until it served, line by line."""
        guard = threading.Timer(180, self.process.kill)
        guard.start()
        for line in self.process.stderr:
            self.said.append(line)
            found = STARTED.search(line)
            if found:
                self.base = f"http://127.0.0.1:{found[1]}"
                guard.cancel()
                return
        guard.cancel()
        raise AssertionError("pipeline run did not start:\n" + "".join(self.said))

    def client(self) -> httpx.Client:
        return plain_client(self.base)

    def kill(self) -> None:
        self.process.kill()
        self._wait()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self._wait()

    def _wait(self) -> int:
        code = self.process.wait(timeout=180)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


@contextmanager
def served(data_dir: Path, **environ: str) -> Iterator[Served]:
    """Yield a running service that is gone afterwards."""
    service = Served(data_dir, **environ)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            service.kill()


def ledger(data_dir: Path) -> dict[str, Any]:
    """Return what `pipeline ledger --json` prints, whether it balances or not."""
    found: dict[str, Any] = json.loads(run_here("ledger", "--json", "--data-dir", str(data_dir)).stdout)
    return found


def settled(data_dir: Path, deadline_s: float = 90) -> dict[str, Any]:
    """Return the ledger once nothing is pending."""
    end = time.monotonic() + deadline_s
    while True:
        found = ledger(data_dir)
        if not found["pending"] or time.monotonic() > end:
            return found
        time.sleep(0.2)
