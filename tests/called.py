"""A command of `pipeline` in this process: most of what it costs as a process of its own is the start."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Final

import pytest
import structlog

from pipeline.cli import main
from pipeline.commands import ending

OURS: Final = "PIPELINE_"


def called(
    arguments: tuple[str, ...], environ: Mapping[str, str], stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Return what the command line gives with only these of our variables set; one call at a time."""
    said, shown = io.BytesIO(), io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(OURS)]:
            patch.delenv(name)
        for name, value in environ.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["pipeline", *arguments])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        patch.setattr(sys, "stdout", io.TextIOWrapper(shown, "utf-8", write_through=True))
        patch.setattr(sys, "stderr", io.TextIOWrapper(said, "utf-8", write_through=True))
        patch.setattr(logging.root, "handlers", [])
        patch.setattr(ending, "leave", sys.exit)  # the real one ends the process
        code = _ended()
        structlog.reset_defaults()  # it was told to write where only this call reads
        logging.captureWarnings(capture=False)
        return subprocess.CompletedProcess(arguments, code, shown.getvalue(), said.getvalue())


def _ended() -> int:
    """Return the exit code of the command line.

    Not by `pytest.raises`, which holds the exception and so all that the command held, until the garbage
    collector comes by: when it does so in the thread of an admin client that failed, librdkafka aborts.
    """
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    raise AssertionError("a command line ends with an exit code")
