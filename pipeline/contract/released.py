"""The released versions of the schemas: `python -m pipeline.contract.released [--add]`.

`schemas/released/<schema>.r<n>.avsc` is what consumers and stored records may have. Every schema must
read what each of them wrote, and each of them must read what the schema writes now; the check of that
is Apache Avro's own. `--add` releases every schema that has changed since its last release.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.errors import AvroException
from avro.schema import Schema, parse

from pipeline.contract.topics import SCHEMAS_DIR, load_topics
from pipeline.settings import SettingError

RELEASED_DIR: Final = SCHEMAS_DIR / "released"
_NUMBER: Final = re.compile(r"\.r(\d+)\.avsc$")
ADVICE: Final = "add fields with defaults only, or make a new topic with a schema of the next major version"


def require_compatible(schemas: Path = SCHEMAS_DIR) -> None:
    """Raise `SettingError` naming the first schema that breaks with a released version."""
    for problem in problems(schemas):
        raise SettingError(f"{problem}: {ADVICE}")


def problems(schemas: Path = SCHEMAS_DIR) -> Iterator[str]:
    """Yield every way in which a schema of this directory breaks with its released versions."""
    for topic in load_topics().values():
        name = topic.schema_file
        if not (schemas / name).exists():
            yield f"schemas/{name} is missing"
            continue
        present = (schemas / name).read_text()
        held = releases(name, schemas)
        if not held:
            yield f"schemas/{name} was never released (python -m pipeline.contract.released --add)"
        for path in held:
            yield from breaks(present, path.read_text(), f"schemas/{name}", f"released/{path.name}")


def breaks(present: str, released: str, name: str, released_name: str) -> Iterator[str]:
    """Yield why one of the two can't read what the other writes."""
    try:
        ours, theirs = parse(present), parse(released)
    except (AvroException, ValueError) as error:
        yield f"{name} or {released_name} is no Avro schema: {error}"
        return
    for reader, reader_name, writer, writer_name in (
        (ours, name, theirs, released_name),
        (theirs, released_name, ours, name),
    ):
        why = _why_not(reader, writer)
        if why:
            yield f"{reader_name} can't read what {writer_name} writes ({why})"


def releases(schema_file: str, schemas: Path = SCHEMAS_DIR) -> list[Path]:
    """Return the released versions of a schema, oldest first."""
    found = (schemas / "released").glob(f"{schema_file.removesuffix('.avsc')}.r*.avsc")
    return sorted(found, key=_number)


def add(schemas: Path = SCHEMAS_DIR) -> list[Path]:
    """Release every schema that has changed since its last release; return the new files."""
    made = []
    for topic in load_topics().values():
        text = (schemas / topic.schema_file).read_text()
        held = releases(topic.schema_file, schemas)
        if held and _content(held[-1].read_text()) == _content(text):
            continue
        number = _number(held[-1]) + 1 if held else 1
        path = schemas / "released" / f"{topic.schema_file.removesuffix('.avsc')}.r{number}.avsc"
        path.write_text(text)
        made.append(path)
    return made


def _why_not(reader: Schema, writer: Schema) -> str:
    result = ReaderWriterCompatibilityChecker().get_compatibility(reader, writer)
    if result.compatibility is SchemaCompatibilityType.compatible:
        return ""
    kinds = ", ".join(sorted({kind.value for kind in result.incompatibilities}))
    return f"{kinds}: {'; '.join(sorted(result.messages))} at {', '.join(sorted(result.locations))}"


def _content(text: str) -> Any:
    return json.loads(text)


def _number(path: Path) -> int:
    found = _NUMBER.search(path.name)
    return int(found[1]) if found else 0


def main() -> int:
    """Check the schemas against the released ones, or with `--add` release what has changed."""
    found = list(problems())
    if "--add" in sys.argv[1:]:
        found = [problem for problem in found if "was never released" not in problem]
        if not found:
            sys.stdout.writelines(f"released {path.name}\n" for path in add())
    sys.stderr.writelines(f"{problem}: {ADVICE}\n" for problem in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
