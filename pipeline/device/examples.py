"""The sample uploads that the repository ships in `examples/`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Final, NamedTuple

EXAMPLES_DIR: Final = Path(__file__).resolve().parents[2] / "examples"


class Example(NamedTuple):
    """One sample: what to send where, and the status that it is answered with."""

    name: str
    path: str
    status: int
    shows: str
    body: bytes


def load_examples(directory: Path = EXAMPLES_DIR) -> tuple[Example, ...]:
    """Return the samples in the order of `examples.toml`."""
    table = tomllib.loads((directory / "examples.toml").read_text())
    return tuple(
        Example(
            Path(row["file"]).stem,
            row["path"],
            row["status"],
            row["shows"],
            (directory / row["file"]).read_bytes(),
        )
        for row in table["example"]
    )
