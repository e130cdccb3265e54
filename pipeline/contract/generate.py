"""Generate `records.py` from the `.avsc` files: `python -m pipeline.contract.generate [--check]`.

One NamedTuple per Avro record, with a straight-line `from_avro` (`record_writer` writes them), and for XDM
records the table of their XDM names.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from pipeline.contract.topics import SCHEMAS_DIR

RECORDS: Final = Path(__file__).with_name("records.py")

_PRIMITIVES: Final = {
    "string": "str",
    "bytes": "bytes",
    "int": "int",
    "long": "int",
    "double": "float",
    "boolean": "bool",
}
_HIDES: Final = "  # type: ignore[assignment]  # hides the tuple's method, which nobody calls on a record"
_HEAD: Final = '''"""The records of every topic. Generated from `schemas/*.avsc`: change those, not this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple
'''


def generated() -> str:
    """Return the text of `records.py`, or raise ValueError for a schema without a doc somewhere."""
    classes: dict[str, str] = {}
    for path in sorted(SCHEMAS_DIR.glob("*.avsc")):
        _collect(json.loads(path.read_text()), classes, path.name)
    ruff = Path(sys.executable).with_name("ruff")
    text = _HEAD + "".join(classes.values())
    formatted = subprocess.run(  # noqa: S603 - our own ruff on our own text
        [ruff, "format", "-", "--stdin-filename", RECORDS.name],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    )
    return formatted.stdout


def _collect(schema: Any, classes: dict[str, str], place: str) -> None:
    if isinstance(schema, list):
        for branch in schema:
            _collect(branch, classes, place)
    elif isinstance(schema, dict) and schema["type"] == "array":
        _collect(schema["items"], classes, place)
    elif isinstance(schema, dict) and schema["type"] == "map":
        _collect(schema["values"], classes, place)
    elif isinstance(schema, dict) and schema["type"] == "record":
        for field in schema["fields"]:
            if not field.get("doc"):
                raise ValueError(f"{place}: {schema['name']}.{field['name']} has no doc")
            _collect(field["type"], classes, place)
        text = _class(schema)
        if classes.setdefault(schema["name"], text) != text:
            raise ValueError(f"{place}: {schema['name']} differs from the record of that name elsewhere")


def _class(schema: dict[str, Any]) -> str:
    fields = schema["fields"]
    ordered = [f for f in fields if "default" not in f] + [f for f in fields if "default" in f]
    lines = [f"\n\nclass {schema['name']}(NamedTuple):", f'    """{schema["doc"]}"""', ""]
    for field in ordered:
        default = f" = {_default(field)}" if "default" in field else ""
        hides = _HIDES if field["name"] in {"count", "index"} else ""
        lines.append(f"    {field['name']}: {_annotation(field['type'])}{default}{hides}")
        lines.append(f'    """{field["doc"]}"""')
    lines += [
        "",
        "    @classmethod",
        f"    def from_avro(cls, value: dict[str, Any]) -> {schema['name']}:",
    ]
    lines += ['        """Return the record that fastavro read, or raise KeyError."""', "        return cls("]
    lines += [f"            {f['name']}={_from(f['type'], _got(f))}," for f in ordered]
    lines += ["        )"]
    names = {f["xdm"]: f["name"] for f in fields if "xdm" in f}
    if names:
        table = "".join(f'    "{xdm}": "{name}",\n' for xdm, name in names.items())
        lines += ["", "", f"{_xdm_table(schema['name'])}: Final[dict[str, str]] = {{", table + "}"]
    return "\n".join(lines) + "\n"


def _xdm_table(name: str) -> str:
    snake = "".join("_" + c if c.isupper() else c for c in name).upper().strip("_")
    return f"{snake}_XDM"


def _default(field: dict[str, Any]) -> str:
    value, kind = field["default"], field["type"]
    if isinstance(kind, dict) and kind["type"] == "array":
        return "()"
    if kind == "bytes":
        return repr(value.encode())
    return repr(value)


def _got(field: dict[str, Any]) -> str:
    name = f'"{field["name"]}"'
    # A record written before the field was added lacks it: only fields with a default may be added.
    if "default" in field and field["default"] not in ([], {}):
        return f"value.get({name}, {_default(field)})"
    return f"value[{name}]" if "default" not in field else f"value.get({name}, {field['default']!r})"


def _annotation(kind: Any) -> str:
    if isinstance(kind, list):
        return " | ".join(
            "None" if branch == "null" else _annotation(branch) for branch in sorted(kind, key=_null_last)
        )
    if isinstance(kind, str):
        return _PRIMITIVES[kind]
    match kind["type"]:
        case "array":
            return f"tuple[{_annotation(kind['items'])}, ...]"
        case "map":
            return f"Mapping[str, {_annotation(kind['values'])}]"
        case _:
            return str(kind["name"])


def _null_last(branch: Any) -> bool:
    return bool(branch == "null")


def _is_plain(kind: Any) -> bool:
    """Whether a value of this type is written as it is."""
    if isinstance(kind, list):
        return all(branch == "null" or _is_plain(branch) for branch in kind)
    if isinstance(kind, dict):
        return kind["type"] == "map" and _is_plain(kind["values"])
    return True


def _from(kind: Any, value: str) -> str:
    if _is_plain(kind):
        return value
    if isinstance(kind, list):
        (branch,) = (b for b in kind if b != "null")
        return f"None if (got := {value}) is None else {_from(branch, 'got')}"
    if kind["type"] == "array":
        if _is_plain(kind["items"]):
            return f"tuple({value})"
        return f"tuple({_from(kind['items'], 'item')} for item in {value})"
    if kind["type"] == "map":
        return f"{{key: {_from(kind['values'], 'items')} for key, items in {value}.items()}}"
    return f"{kind['name']}.from_avro({value})"


def main() -> int:
    """Write `records.py`, or with `--check` return 1 when it is not what the schemas give."""
    text = generated()
    if "--check" not in sys.argv[1:]:
        RECORDS.write_text(text)
        return 0
    if RECORDS.exists() and RECORDS.read_text() == text:
        return 0
    sys.stderr.write("pipeline/contract/records.py is not what schemas/*.avsc give: run make format\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
