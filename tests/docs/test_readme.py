"""The commands of the README, run as they stand."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.commands.serving import ledger, served, settled

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent
LINES = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
COMMANDS = [line for line in LINES if line.startswith(".venv/bin/pipeline")]
CURLS = [line for line in LINES if line.startswith("curl")]
MAKE = ["make", "-o", ".venv/run.stamp", f"BIN={BIN}"]
"""Make, with what this test run was installed from in the place of `.venv`."""

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def test_every_pipeline_command_of_the_readme_works(tmp_path: Path) -> None:
    assert len(COMMANDS) >= 6
    for command in COMMANDS:
        here = command.replace(".venv/bin/pipeline", str(BIN / "pipeline"))
        done = subprocess.run(
            here.replace(".data/readme", str(tmp_path)).split(),
            capture_output=True,
            cwd=ROOT,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, (command, done.stdout.decode(), done.stderr.decode())


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_upload_by_curl_is_taken_and_carried(tmp_path: Path) -> None:
    assert len(CURLS) == 1
    with served(tmp_path) as service:
        for command in CURLS:
            here = command.replace("http://127.0.0.1:8080", service.base)
            done = subprocess.run(
                shlex.split(here), capture_output=True, text=True, cwd=ROOT, timeout=180, check=False
            )
            assert done.returncode == 0, done.stderr
            assert " 201 " in done.stdout.splitlines()[0]
        assert settled(tmp_path)["accepted"] == 1


@needs_make
def test_make_demo_shows_the_samples_and_ends_well(tmp_path: Path) -> None:
    done = subprocess.run(
        [*MAKE, f"DATA_DIR={tmp_path}", "demo"],
        env={**os.environ, "PIPELINE_INGEST_PORT": "0"},
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "What came out" in done.stdout
    assert ledger(tmp_path)["balances"]


@needs_make
def test_make_run_goes_on_serving_until_ctrl_c(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*MAKE, f"DATA_DIR={tmp_path}", "run"],
        env={**os.environ, "PIPELINE_INGEST_PORT": "0", "PYTHONUNBUFFERED": "1", "COLUMNS": "300"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    ) as running:
        assert running.stdout is not None
        shown = []
        guard = threading.Timer(120, os.killpg, (running.pid, signal.SIGKILL))
        guard.start()
        for line in running.stdout:
            shown.append(line)
            if "Ctrl-C stops" in line:
                os.killpg(running.pid, signal.SIGINT)  # a terminal sends it to all of them
        running.wait(60)
        guard.cancel()
    assert "What came out" in "".join(shown)
    assert "Traceback" not in "".join(shown)
    assert ledger(tmp_path)["accepted"] == 5


@pytest.mark.parametrize("target", sorted(set(re.findall(r"make (\w+)", README))))
def test_every_make_target_of_the_readme_is_in_the_makefile(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
