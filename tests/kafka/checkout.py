"""Another version of this program: a copy of the package and its schemas that a test changes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.commands.serving import ROOT


def copied(to: Path) -> Path:
    """Return a checkout of its own in this directory."""
    for name in ("pipeline", "schemas"):
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    return to


def with_field(checkout: Path, schema_file: str, name: str) -> Path:
    """Add an optional text field to a schema, and generate the records anew."""
    path = checkout / "schemas" / schema_file
    schema = json.loads(path.read_text())
    added = {"name": name, "type": ["null", "string"], "default": None, "doc": "What a newer version adds."}
    schema["fields"].append(added)
    path.write_text(json.dumps(schema, indent=2))
    for module in ("pipeline.contract.generate", "pipeline.contract.released"):
        subprocess.run([sys.executable, "-m", module], cwd=checkout, check=True)
    return checkout


def with_text(checkout: Path, file: str, old: str, new: str) -> Path:
    """Replace one piece of code."""
    path = checkout / file
    text = path.read_text()
    assert text.count(old) == 1, (file, text.count(old))
    path.write_text(text.replace(old, new))
    return checkout
