"""A worker that is told to stop ends, also where Faust's own stop would wait for ever."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Final

import pytest

from pipeline.worker.carrier import Ending

SCRIPT: Final = """
import asyncio, sys
from mode import Service
from pipeline.worker import faust_worker
from pipeline.worker.faust_worker import App, Worker

class Hanging(Service):
    async def on_started(self):
        print("started", flush=True)

    async def on_stop(self):
        await asyncio.sleep(float(sys.argv[1]))

class OnlyThat(Worker):
    def on_init_dependencies(self):
        return [Hanging()]

faust_worker.STOP_S = float(sys.argv[2])
OnlyThat(App("test"), loglevel="WARN", redirect_stdouts=False, quiet=True).execute_from_commandline()
"""


@pytest.mark.parametrize(
    ("stop_s", "patience_s", "code"), [(3_600.0, 1.0, Ending.STUCK), (0.1, 120.0, 0)], ids=["hangs", "ends"]
)
def test_a_stop_ends_by_itself_or_is_ended(stop_s: float, patience_s: float, code: int) -> None:
    command = [sys.executable, "-c", SCRIPT, str(stop_s), str(patience_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as worker:
        assert worker.stdout is not None
        said = ""
        while "started" not in said:
            line = worker.stdout.readline()
            assert line, said
            said += line
        worker.send_signal(signal.SIGTERM)
        rest = worker.communicate(timeout=300)[0]
    is_late = code == Ending.STUCK
    assert (worker.returncode, "not_stopped" in rest) == (code, is_late), rest
    assert ("Hanging.on_stop" in rest) == is_late, "it says where it waits"
