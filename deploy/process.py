"""A server of this machine as a child process: its port, its log, its start and its end."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from deploy.fetching import LOG_TAIL, ServerFailed

START_DEADLINE_S: Final = 300.0
STOP_DEADLINE_S: Final = 20.0
PR_SET_PDEATHSIG: Final = 1
OWN_PORTS: Final = (15_000, 32_000)
PORTS_AT_ONCE: Final = 1_000
"""So many are for each process of a test run: one finds a port free that another has only just been given."""
_chance: Final = random.SystemRandom()
_given: Final[set[int]] = set()


def die_with_parent() -> None:
    """Ask Linux to kill this child when the thread that started it ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def free_port() -> int:
    """Return a port that nothing listens on, and that this process has not been given before.

    It lies below those that systems give to outgoing connections. Else a client that tries to reach a
    server that is down could be given the server's own port, and the server could not come back.
    """
    least, beyond = OWN_PORTS
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")[2:]
    if worker.isdigit():
        least += int(worker) * PORTS_AT_ONCE % (beyond - least)
        beyond = least + PORTS_AT_ONCE
    while True:
        port = _chance.randrange(least, beyond)
        if port in _given or not can_listen(port):
            continue
        _given.add(port)
        return port


def can_listen(port: int) -> bool:
    """Return whether the port of this machine is free."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def is_open(port: int) -> bool:
    """Return whether something answers at the port of this machine."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


class Server:
    """One child process with its log; it dies with this process at the latest."""

    name = "server"

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"pipeline-{self.name}-"))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except ServerFailed:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def pid(self) -> int:
        """The process id while it runs."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start (again) and return when it answers, or raise `ServerFailed`."""
        self.launch()
        self.await_answer()

    def launch(self) -> None:
        """Start the process."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env={**os.environ, **self._environment()},
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call, no lock can be held
            )

    def await_answer(self) -> None:
        """Return when the launched process answers, or raise `ServerFailed`."""
        assert self._process is not None
        end = time.monotonic() + START_DEADLINE_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise ServerFailed(f"{self.name} did not come up:\n{self.log_tail()}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop it in order, or after a while by force."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self, *, frozen: bool = True) -> None:
        """Stop or continue the process without ending it."""
        os.kill(self.pid, signal.SIGSTOP if frozen else signal.SIGCONT)

    def log_tail(self, characters: int = LOG_TAIL) -> str:
        """Return the end of its log."""
        path = self.directory / "log"
        return path.read_text(errors="replace")[-characters:] if path.exists() else ""

    def _command(self) -> Sequence[str]:
        raise NotImplementedError

    def _environment(self) -> dict[str, str]:
        return {}

    def _answers(self) -> bool:
        raise NotImplementedError
