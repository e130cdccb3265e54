"""The commands of the README, run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith(".venv/bin/pipeline")
]


def test_every_pipeline_command_of_the_readme_works(tmp_path: Path) -> None:
    assert len(COMMANDS) >= 6
    for command in COMMANDS:
        here = command.replace(".venv/bin/pipeline", str(Path(sys.executable).with_name("pipeline")))
        done = subprocess.run(
            here.replace(".data/readme", str(tmp_path)).split(),
            capture_output=True,
            cwd=ROOT,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, (command, done.stdout.decode(), done.stderr.decode())


@pytest.mark.parametrize("target", sorted(set(re.findall(r"make (\w+)", README))))
def test_every_make_target_of_the_readme_is_in_the_makefile(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
