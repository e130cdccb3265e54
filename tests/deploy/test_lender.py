"""The processes of a test run have their servers together, and the servers end with the run."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from deploy.fetching import ServerFailed
from tests.commands.serving import ROOT
from tests.deploy.test_servers import Script, is_running
from tests.lender import Lender, borrow


@pytest.fixture
def lender() -> Iterator[Lender]:
    """Yield one that lends a server whose address is its process id, and one that never comes up."""
    made = Lender(
        {
            "good": lambda running: str(running.enter_context(Script("echo up; exec sleep 600")).pid),
            "bad": lambda running: str(running.enter_context(Script("echo 'no room'; exit 3")).pid),
        }
    )
    yield made
    if made.is_lending:
        made.close()


def test_all_who_ask_get_the_same_server_and_it_ends_with_the_lender(lender: Lender) -> None:
    with ThreadPoolExecutor(5) as pool:
        (pid,) = {int(each) for each in pool.map(lambda _: borrow(lender.address, "good"), range(5))}
    assert is_running(pid)
    lender.close()
    assert not is_running(pid)


def test_all_who_ask_are_told_why_there_is_no_server(lender: Lender) -> None:
    for _ in range(2):
        with pytest.raises(ServerFailed, match="no room"):
            borrow(lender.address, "bad")
    assert is_running(int(borrow(lender.address, "good")))


def test_one_who_asked_and_is_gone_stops_nothing(lender: Lender) -> None:
    program = (
        "import sys; from multiprocessing.connection import Client\n"
        "asked = Client(sys.argv[1]); asked.send('good'); sys.exit()"
    )
    subprocess.run([sys.executable, "-c", program, lender.address], check=True, cwd=ROOT)
    subprocess.run(
        [sys.executable, "-c", program.replace("asked.send('good'); ", ""), lender.address], check=True
    )
    assert is_running(int(borrow(lender.address, "good")))


def test_a_lent_server_does_not_outlive_a_test_run_that_is_killed() -> None:
    program = (
        "import time\n"
        "from tests.deploy.test_servers import Script\n"
        "from tests.lender import Lender, borrow\n"
        "start = lambda running: str(running.enter_context(Script('echo up; exec sleep 600')).pid)\n"
        "print(borrow(Lender({'it': start}).address, 'it'), flush=True)\n"
        "time.sleep(600)\n"
    )
    # The killed one leaves its files; pytest's own directories are too deep for the name of a socket.
    with tempfile.TemporaryDirectory() as place:
        run = subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "TMPDIR": place},
        )
        with run:
            assert run.stdout is not None
            pid = int(run.stdout.readline())
            assert is_running(pid)
            run.kill()
        end = time.monotonic() + 60
        while is_running(pid):
            assert time.monotonic() < end, "the server runs on"
            time.sleep(0.05)
