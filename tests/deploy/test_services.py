"""A supervised process comes back whatever ended it, until it is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.fetching import ROOT
from deploy.services import NotRunning, Supervised
from tests.waiting import until

OBEYS = (
    "import signal, sys; signal.signal(15, lambda *_: sys.exit(0)); print('up', flush=True); signal.pause()"
)
IGNORES = (
    "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True)\nwhile True: signal.pause()"
)


def python(code: str, log: Path) -> Supervised:
    return Supervised([sys.executable, "-c", code], os.environ, log)


def said(service: Supervised) -> int:
    return service.log_tail().count("up")


def is_alive(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_a_killed_process_is_started_again_and_a_stopped_one_is_not(tmp_path: Path) -> None:
    with python(OBEYS, tmp_path / "log") as service:
        until(lambda: said(service) == 1)
        first = service.process_id
        service.signal(signal.SIGKILL)
        until(lambda: said(service) == 2)
        assert service.process_id != first
        assert service.stop() == 0
        assert service.codes == [-signal.SIGKILL, 0]
        service.start()
        until(lambda: said(service) == 3)
    assert service.codes == [-signal.SIGKILL, 0, -signal.SIGKILL]


def test_a_frozen_process_ends_with_its_supervisor(tmp_path: Path) -> None:
    with python(OBEYS, tmp_path / "log") as service:
        until(lambda: said(service) == 1)
        process_id = service.process_id
        service.signal(signal.SIGSTOP)
    assert not is_alive(process_id)


def test_a_process_that_does_not_end_is_an_error_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = python(IGNORES, tmp_path / "log")
    until(lambda: said(service) == 1)
    with monkeypatch.context() as patched:
        patched.setattr("deploy.services.STOP_S", 0.3)
        with pytest.raises(NotRunning, match="up"):
            service.stop()
    service.signal(signal.SIGKILL)
    service.kill()


def test_a_process_dies_with_a_program_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import os, sys, time; from pathlib import Path; from deploy.services import Supervised\n"
        f"log = Path({str(tmp_path / 'log')!r})\n"
        f"service = Supervised([sys.executable, '-c', {OBEYS!r}], os.environ, log)\n"
        "print(service.process_id, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        process_id = int(parent.stdout.readline())
        assert is_alive(process_id)
        parent.kill()
        parent.wait()
        until(lambda: not is_alive(process_id))
