"""A service ends without the ends of interpreter and C library, which threads of its libraries outlive."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# An exit handler of the C library, as OpenSSL, RocksDB and librdkafka have them, that ends in a crash.
PROGRAM = """
import ctypes, logging.handlers, sys
from pipeline import cli
from pipeline.commands import ingest, worker

library = ctypes.CDLL(None)
library.__cxa_atexit(library.abort, None, None)
keeper = logging.handlers.MemoryHandler(9, target=logging.StreamHandler(sys.stderr))

def work(settings):
    keeper.emit(logging.makeLogRecord({"msg": "logged", "levelno": logging.INFO}))
    print("printed")
    return 7

ingest.ingest = worker.worker = work
cli.main()
"""


@pytest.mark.parametrize(("command", "code"), [("ingest", 7), ("worker", 7), ("--help", -6)])
def test_a_service_says_everything_and_then_ends_without_exit_handlers(command: str, code: int) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PIPELINE_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, command],
        capture_output=True,
        text=True,
        env=environ,
        timeout=180,
        check=False,
    )
    assert done.returncode == code, done.stderr
    if code == 7:
        assert (done.stdout, done.stderr) == ("printed\n", "logged\n")


def test_a_closed_standard_output_changes_no_exit_code() -> None:
    code = "from pipeline.commands.ending import leave; leave(7)"
    done = subprocess.run(["sh", "-c", f"{sys.executable} -c '{code}' >&-"], check=False, timeout=180)
    assert done.returncode == 7
