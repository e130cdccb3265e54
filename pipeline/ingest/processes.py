"""Several ingest processes on one port: the parent listens, watches its children and starts them again.

A child whose parent is killed ends as at SIGTERM (on Linux): it would hold the port against a restart.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import structlog

from pipeline.kafka.uploads import FLUSH_S
from pipeline.metrics import SHARED_DIR_VARIABLE, forget_process
from pipeline.settings import Settings, child_environ

_log = structlog.get_logger("pipeline.ingest")

METRICS: Final = "metrics"
LOCK_NAME: Final = "lock"
BAD_SETTING: Final = 2
LOOK_S: Final = 0.2
AGAIN_S: Final = 1.0
PR_SET_PDEATHSIG: Final = 1
STOP_MARGIN_S: Final = FLUSH_S + 10.0
"""What a child may take beyond the drain: its producer's flush, and closing spool and traces."""
COMMAND: Final = (sys.executable, "-c", "from pipeline.cli import main; main()", "ingest")


def serve_by_processes(settings: Settings, listener: socket.socket) -> int:
    """Run `ingest_processes` children on this socket until SIGINT or SIGTERM; return the exit code."""
    with metrics_directory(settings.data_dir / METRICS) as shared:
        return _served(settings, listener, shared)


def _served(settings: Settings, listener: socket.socket, shared: Path) -> int:
    environ = child_environ(
        settings, ingest_processes=1, ingest_listener_fd=listener.fileno(), metrics_dir=str(shared)
    ) | {SHARED_DIR_VARIABLE: str(shared)}
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    children = [_started(environ, listener) for _ in range(settings.ingest_processes)]
    failed = False
    while not stopping.wait(LOOK_S) and not failed:
        for place, child in enumerate(children):
            code = child.poll()
            if code is None:
                continue
            forget_process(str(shared), child.pid)
            _log.error("process_ended", process=child.pid, exit_code=code)
            failed = code == BAD_SETTING
            if failed or stopping.wait(AGAIN_S):
                break
            children[place] = _started(environ, listener)
    codes = _stopped(children, settings.ingest_drain_s + STOP_MARGIN_S)
    return BAD_SETTING if failed else max(codes)


@contextlib.contextmanager
def metrics_directory(parent: Path) -> Iterator[Path]:
    """Yield a new directory of this process alone, locked while it lives; remove those of dead ones.

    Several may have one data directory, each in a container with process ids of its own.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        with (parent / LOCK_NAME).open("w") as making:  # no other looks while ours is not locked yet
            fcntl.flock(making, fcntl.LOCK_EX)
            for left in parent.iterdir():
                _remove_unlocked(left)
            own = Path(tempfile.mkdtemp(dir=parent))
            lock = held.enter_context((own / LOCK_NAME).open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        held.callback(shutil.rmtree, own, ignore_errors=True)
        yield own


def _remove_unlocked(left: Path) -> None:
    """Remove the directory of a dead process, or a file of an earlier version, which had all in one."""
    if left.suffix == ".db":
        left.unlink(missing_ok=True)
    elif left.is_dir():
        with contextlib.suppress(BlockingIOError), (left / LOCK_NAME).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)


def _started(environ: Mapping[str, str], listener: socket.socket) -> subprocess.Popen[bytes]:
    parent, system = os.getpid(), ctypes.CDLL(None)

    def end_with_parent() -> None:
        if sys.platform == "linux":
            system.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it ended before it could be told
                os._exit(1)

    return subprocess.Popen(  # noqa: S603 - ours
        COMMAND,
        env=environ,
        pass_fds=[listener.fileno()],
        preexec_fn=end_with_parent,  # noqa: PLW1509 - two system calls, no lock can be held
    )


def _stopped(children: list[subprocess.Popen[bytes]], patience_s: float) -> list[int]:
    """Stop all children; return their exit codes, or the signal that ended them."""
    end = time.monotonic() + patience_s
    for child in children:
        child.terminate()
    codes = []
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, end - time.monotonic()))
        child.kill()
        code = child.wait()
        # One that had not begun to serve dies of the signal itself.
        codes.append(0 if code == -signal.SIGTERM else abs(code))
    return codes
