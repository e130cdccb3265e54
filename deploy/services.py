"""Our services as processes under supervision: what compose's `restart: unless-stopped` does, without Docker.

The fault matrix and the tests start ingest and workers through `Supervised`; every process dies with the
one that started it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from deploy.fetching import ROOT
from deploy.process import die_with_parent

PIPELINE: Final = str(Path(sys.executable).with_name("pipeline"))
RESTART_S: Final = 1.0
"""How long the supervisor waits before it starts an ended process again."""
STARTED_S: Final = 60.0
STOP_S: Final = 30.0
LOOK_S: Final = 0.02


class NotRunning(Exception):
    """The process did not come up, or did not end in time; the message holds the end of its log."""


class Supervised:
    """A process that is started again a second after it ended, until it is stopped.

    `codes` are the exit codes of the processes that ended, in order.
    """

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], log: Path, directory: Path = ROOT
    ) -> None:
        self.codes: list[int] = []
        self.log = log
        self._command = command
        self._environ = environ
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.start()

    def start(self) -> None:
        """Start it, and supervise it; nothing happens when it is supervised already."""
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._supervise, daemon=True)
            self._thread.start()

    @property
    def process_id(self) -> int:
        """The id of the running process; waits for one, or raises `NotRunning`."""
        end = time.monotonic() + STARTED_S
        while (process := self._process) is None or process.poll() is not None:
            if time.monotonic() > end:
                raise NotRunning(f"{self._command[-1]} does not run:\n{self.log_tail()}")
            time.sleep(LOOK_S)
        return process.pid

    def signal(self, number: int) -> None:
        """Send a signal to the running process."""
        os.kill(self.process_id, number)

    def stop(self) -> int:
        """End it with SIGTERM and start it no more; return its exit code, or raise `NotRunning`."""
        self._stopping.set()
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._join(STOP_S)
        return self.codes[-1]

    def kill(self) -> None:
        """kill -9, and start it no more."""
        self._stopping.set()
        if self._process is not None:
            self._process.kill()
        self._join(STOP_S)

    def log_tail(self, characters: int = 3_000) -> str:
        """Return the end of what it logged."""
        return self.log.read_text(errors="replace")[-characters:] if self.log.exists() else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.kill()

    def _join(self, deadline_s: float) -> None:
        if self._thread is not None:
            self._thread.join(deadline_s)
            if self._thread.is_alive():
                raise NotRunning(f"{self._command[-1]} does not end:\n{self.log_tail()}")
            self._thread = None

    def _supervise(self) -> None:
        # This thread outlives each process that it starts: the process dies with it at the latest.
        while not self._stopping.is_set():
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command,
                    cwd=self._directory,
                    env=self._environ,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call, no lock can be held
                )
                if self._stopping.is_set():  # stopped in the moment of its start
                    self._process.kill()
                self.codes.append(self._process.wait())
            self._stopping.wait(RESTART_S)
