"""The worker's endpoint does not disturb its end."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time

import pytest

from deploy.process import free_port

# The interpreter is gone when the C library's own end waits for a byte of standard input.
PROGRAM = """
import ctypes, gc, sys, time
from deploy.probe import is_healthy
from pipeline.metrics import Meters
from pipeline.settings import load
from pipeline.worker.endpoint import start_endpoint
from pipeline.worker.progress import Progress

host, port = sys.argv[1], int(sys.argv[2])
start_endpoint(load({}, worker_host=host, worker_port=port), Meters(), Progress(60), time.monotonic)
while not is_healthy(f"http://{f'[{host}]' if ':' in host else host}:{port}/health/live"):
    time.sleep(0.01)
library = ctypes.CDLL(None)
library.__cxa_atexit(library.getchar, None, None)
gc.freeze()
print("serving", flush=True)
"""


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_process_ends_well_while_its_endpoint_still_serves(host: str) -> None:
    if host == "::1" and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, host, str(free_port())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "serving\n"
        time.sleep(1)  # the server looks around ten times a second
        assert process.poll() is None, "it did not wait: this proves nothing"
    assert process.returncode == 0
