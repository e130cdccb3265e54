"""Compile the hot path with mypyc, in place: `python -m deploy.compiled [--clean]` (needs a C compiler).

The same source runs either way. Compiled, the core takes about a third of the time, and all stages together
seven tenths: much of what is left is done by C libraries. A compiled module lies beside its source and is
what Python imports then, so compile again after a change, or clean.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import Final

from deploy.fetching import ROOT

SUFFIX: Final = str(sysconfig.get_config_var("EXT_SUFFIX"))
GROUP: Final = "pipeline.compiled"
"""Where the code of all modules lies: one shared library in the package."""


def sources() -> tuple[Path, ...]:
    """Return the modules that are compiled: the domain core, and what a session goes through beside it."""
    session = sorted(ROOT.glob("pipeline/session/*.py"))
    others = [ROOT / f"pipeline/{room}/{name}.py" for room, names in _OTHERS.items() for name in names]
    return tuple(path for path in (*session, *others) if path.stem not in _ON_DEMAND)


def built(source: Path) -> Path:
    """Return where the compiled form of a module lies."""
    return source.with_suffix("").with_name(source.stem + SUFFIX)


def main() -> int:
    """Compile, or with `--clean` remove what was compiled."""
    if "--clean" in sys.argv[1:]:
        for path in ROOT.glob(f"pipeline/**/*{SUFFIX}"):
            path.unlink()
        return 0
    from mypyc.build import mypycify
    from setuptools import setup

    names = [str(path.relative_to(ROOT)) for path in sources()]
    setup(
        name="pipeline-compiled",
        packages=[],
        ext_modules=mypycify(names, group_name=GROUP, target_dir="build/mypyc"),
        script_args=["--quiet", "build_ext", "--inplace"],
    )
    return 0


_ON_DEMAND: Final = frozenset({"__init__", "explain", "metric_rules"})
"""Not on the hot path: explanations are made when somebody asks."""
_OTHERS: Final = {
    "wire": ("media_collection", "media_edge", "moments", "problems", "tables", "typed", "values"),
    "contract": ("codec", "partition", "record_writer", "records"),
    "stages": ("derive", "judge", "outcome", "prepare", "records_of", "sizes"),
}
"""Without `receive` and `topology`: most of what they do is done by others, and tests replace its parts."""


if __name__ == "__main__":
    sys.exit(main())
