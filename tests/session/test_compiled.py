"""The compiled hot path is of the source that lies beside it; every other test then runs on it."""

from __future__ import annotations

from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from deploy.compiled import built, sources
from deploy.fetching import ROOT

IS_BUILT = any(built(source).exists() for source in sources())

needs_build = pytest.mark.skipif(not IS_BUILT, reason="not built: `make compiled` compiles the hot path")


def test_what_is_compiled_exists_and_is_what_the_hot_path_imports() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in sources()}
    assert {
        "pipeline/session/measure.py",
        "pipeline/wire/media_collection.py",
        "pipeline/contract/records.py",
    } <= names
    assert all(path.is_file() for path in sources())


@needs_build
@pytest.mark.parametrize("path", sources(), ids=lambda path: path.stem)
def test_a_compiled_module_is_newer_than_its_source_and_is_what_python_runs(path: Path) -> None:
    assert built(path).stat().st_mtime >= path.stat().st_mtime, "stale: run `make compiled` again"
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    spec = PathFinder.find_spec(name, [str(path.parent)])
    assert spec is not None
    assert spec.origin == str(built(path))
