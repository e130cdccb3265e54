"""Reference material that is not part of the project: specs, vectors, corpus, upstream schemas."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

SHARED: Final = Path(__file__).resolve().parents[2] / "shared"

needs_shared = pytest.mark.skipif(
    not (SHARED / "vectors").is_dir(), reason=f"the reference material is not at {SHARED.parent.name}/shared"
)


@cache
def load(name: str) -> Any:
    """Return a JSON file of the reference material; None where it is missing."""
    path = SHARED / name
    return json.loads(path.read_text()) if path.exists() else None
