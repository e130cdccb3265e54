"""Records as Avro, value by value: what was written lately is kept, and not written again.

The records of one session repeat most of what they hold (ids, names, nulls, flags, small numbers), and Avro
writes a record as its fields one behind the other, an array or a map as a count, its items and a zero, a text
as its length and itself. So fastavro writes numbers and short lists once, and here the bytes are only put one
behind the other. The whole is byte for byte what fastavro makes of the whole record (a test), at a quarter of
the cost.

Each type is something like a mapping from its values to their bytes: what a subscript costs is what counts.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from operator import getitem, itemgetter
from typing import Any, Final, Protocol

import fastavro

from pipeline.contract import records

KEPT: Final = 4_096
"""How many values of one type are kept; when there are more, all are forgotten (a dozen types: some MB)."""
KEPT_BYTES: Final = 128
"""Longer ones are not kept: they seldom come again, and memory stays bounded."""
NULL: Final = b"\0"
"""Null in a union, of which it is the first branch in all of our schemas."""
END: Final = b"\0"
"""Behind the items of an array or a map, and an empty one."""
LONG_END: Final = 4
"""So many fields at a record's end are first looked at together: are all as they are by default?"""

_BRANCHES: Final = {str: "string", int: "long", float: "double", bool: "boolean"}
_join: Final = b"".join


class Written(Protocol):
    """The values of one type as Avro; a value of another type raises what fastavro raises."""

    def __getitem__(self, value: Any, /) -> bytes:
        """Return the value's bytes."""


class Writer:
    """Makes what writes the types of schemas; all of it shares what is kept, and any thread may use it."""

    def __init__(self, most: int = KEPT) -> None:
        """Keep at most so many values of a type."""
        self._made: dict[str, Written] = {}
        self._most = most

    def of(self, kind: Any) -> Written:
        """Return what writes this type, or raise ValueError for a type that no schema of ours has."""
        name = str(kind)
        if name not in self._made:
            self._made[name] = self._new(kind)
        return self._made[name]

    def _new(self, kind: Any) -> Written:
        match kind:
            case "bytes":
                return _Bytes(self.of("long"))
            case "string":
                return _Kept(Text(self.of("long")).__getitem__, self._most)
            case "double":
                return _Doubles(Fastavro(kind).__getitem__, self._most)
            case str() | {"type": "array", "items": "string" | "int"}:
                return _Kept(Fastavro(kind).__getitem__, self._most)
            case ["null", branch]:
                number, written = self.of("long")[1], self.of(branch)
                if isinstance(branch, str):
                    return _KeptOrNull(number, written, self._most)
                return _OrNull(number, written)
            case list():
                branches = {name: (self.of("long")[place], self.of(name)) for place, name in enumerate(kind)}
                return _Union({made: branches[name] for made, name in _BRANCHES.items()})
            case {"type": "array", "items": items}:
                return _Array(self.of("long"), self.of(items))
            case {"type": "map", "values": "string"}:
                return _Texts(self.of("long"), self.of("string"), self._most)
            case {"type": "map", "values": values}:
                return _Map(self.of("long"), self.of("string"), self.of(values))
            case {"type": "record", "name": name, "fields": fields}:
                return self._record(getattr(records, name), fields)
        raise ValueError(f"no record of ours holds {kind}")

    def _record(self, made: Any, fields: Sequence[Mapping[str, Any]]) -> Written:
        order = [made._fields.index(field["name"]) for field in fields]
        written = [self.of(field["type"]) for field in fields]
        if order != sorted(order):
            return _Reordered(written, order)
        defaults = tuple(made._field_defaults.values())
        return _Record(written, defaults) if len(defaults) >= LONG_END else _Record(written)


class Fastavro:
    """Any type, as fastavro writes it; nothing is kept."""

    def __init__(self, kind: Any) -> None:
        self._schema = fastavro.parse_schema(kind)

    def __getitem__(self, value: Any) -> bytes:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, self._schema, value)
        return out.getvalue()


class Text:
    """Texts: the length of the UTF-8 and that; nothing is kept."""

    def __init__(self, length: Written) -> None:
        self._length = length

    def __getitem__(self, value: str) -> bytes:
        encoded = str.encode(value)
        return self._length[len(encoded)] + encoded


class _Bytes:
    """Bytes behind their length."""

    def __init__(self, length: Written) -> None:
        self._length = length

    def __getitem__(self, value: bytes) -> bytes:
        return self._length[len(value)] + value


class _Kept(dict[Any, bytes]):
    """Scalars, lists and pairs of them: what is missing is written, and kept."""

    def __init__(self, write: Callable[[Any], bytes], most: int) -> None:
        super().__init__()
        self._write = write
        self._most = most

    def __missing__(self, value: Any) -> bytes:
        written = self._write(value)
        if len(written) <= KEPT_BYTES:
            if len(self) >= self._most:
                self.clear()
            self[value] = written
        return written


class _Doubles(_Kept):
    """Doubles: zeros are kept apart, since -0.0 is equal to 0.0."""

    def __init__(self, write: Callable[[Any], bytes], most: int) -> None:
        super().__init__(write, most)
        self._zeros = {1.0: write(0.0), -1.0: write(-0.0)}

    def __missing__(self, value: Any) -> bytes:
        return super().__missing__(value) if value else self._zeros[math.copysign(1.0, value)]


class _OrNull:
    """Null, or what is behind the number of the other branch."""

    def __init__(self, branch: bytes, written: Written) -> None:
        self._branch = branch
        self._written = written

    def __getitem__(self, value: Any) -> bytes:
        return NULL if value is None else self._branch + self._written[value]


class _KeptOrNull(_Kept):
    """The same for scalars: kept, too, but for what is zero (-0.0) or empty."""

    def __init__(self, branch: bytes, written: Written, most: int) -> None:
        super().__init__(lambda value: branch + written[value], most)
        self[None] = NULL

    def __missing__(self, value: Any) -> bytes:
        if value:
            return super().__missing__(value)
        if value is None:  # forgotten with all others
            self[None] = NULL
            return NULL
        return self._write(value)


class _Union:
    """One of several scalars, by its Python type: 1, 1.0 and True are equal."""

    def __init__(self, branches: Mapping[type, tuple[bytes, Written]]) -> None:
        self._branches = branches

    def __getitem__(self, value: Any) -> bytes:
        branch, written = self._branches[type(value)]
        return branch + written[value]


class _Array:
    """Items behind their count."""

    def __init__(self, count: Written, item: Written) -> None:
        self._count = count
        self._item = item

    def __getitem__(self, items: Sequence[Any]) -> bytes:
        item = self._item
        return _join([self._count[len(items)], *[item[one] for one in items], END]) if items else END


class _Map:
    """Keys and values behind their count."""

    def __init__(self, count: Written, key: Written, value: Written) -> None:
        self._count = count
        self._key = key
        self._value = value

    def __getitem__(self, pairs: Mapping[str, Any]) -> bytes:
        if not pairs:
            return END
        key, value = self._key, self._value
        parts = [part for name, held in pairs.items() for part in (key[name], value[held])]
        return _join([self._count[len(pairs)], *parts, END])


class _Texts:
    """A map of texts, each pair of which is kept."""

    def __init__(self, count: Written, text: Written, most: int) -> None:
        self._count = count
        self._pair = _Kept(lambda pair: text[pair[0]] + text[pair[1]], most).__getitem__

    def __getitem__(self, pairs: Mapping[str, str]) -> bytes:
        return _join([self._count[len(pairs)], *map(self._pair, pairs.items()), END]) if pairs else END


class _Record:
    """The fields of a record whose class has them in the schema's order."""

    def __init__(self, fields: Sequence[Written], defaults: tuple[Any, ...] = ()) -> None:
        self._fields = fields
        self._first = len(fields) - len(defaults)
        self._firsts = fields[: self._first]
        self._defaults = defaults
        self._end = _join(map(getitem, fields[self._first :], defaults))

    def __getitem__(self, record: Any) -> bytes:
        if self._end and record[self._first :] == self._defaults:
            return _join(map(getitem, self._firsts, record)) + self._end
        return _join(map(getitem, self._fields, record))


class _Reordered(_Record):
    """The fields of a record whose class has those without a default first."""

    def __init__(self, fields: Sequence[Written], order: Sequence[int]) -> None:
        super().__init__(fields)
        self._ordered = itemgetter(*order)

    def __getitem__(self, record: Any) -> bytes:
        return super().__getitem__(self._ordered(record))
