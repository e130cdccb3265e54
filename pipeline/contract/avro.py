"""Avro's binary form of the simple types, for the writers that are generated into `records.py`.

fastavro reads; the writers are generated. Measured, fastavro spent more on one session's thirteen
records than everything else together, since it tries a datum against each branch of a union before it
writes it, and every nullable field is a union. A test holds the writers to fastavro, byte for byte.
"""

from __future__ import annotations

import struct
from typing import Any, Final

_LONGS_LIMIT: Final = 24_576
_NAMES_LIMIT: Final = 4_096
_NAME_BYTES_LIMIT: Final = 128

double: Final = struct.Struct("<d").pack


class _Longs(dict[int, bytes]):
    """A whole number in zigzag varint form: small ones, and those of late, since times come several times."""

    def __missing__(self, number: int) -> bytes:
        if len(self) >= _LONGS_LIMIT:
            self.clear()
            self.update(_SMALL)
        self[number] = found = _long(number)
        return found


class _Names(dict[str, bytes]):
    """A string with its length before it, remembered: for map keys, of which there are few."""

    def __missing__(self, name: str) -> bytes:
        encoded = name.encode()
        found = LONG[len(encoded)] + encoded
        if len(encoded) <= _NAME_BYTES_LIMIT:
            if len(self) >= _NAMES_LIMIT:
                self.clear()
            self[name] = found
        return found


def _long(number: int) -> bytes:
    if 2**34 <= number < 2**41:  # six bytes: the ms of any day from 1970's summer to 2039
        rest = number << 1
        return bytes(
            (
                rest & 127 | 128,
                rest >> 7 & 127 | 128,
                rest >> 14 & 127 | 128,
                rest >> 21 & 127 | 128,
                rest >> 28 & 127 | 128,
                rest >> 35,
            )
        )
    if not -(2**63) <= number < 2**63:
        raise OverflowError(f"{number} is no 64-bit number")
    rest = (number << 1) ^ (number >> 63)
    found = bytearray()
    while rest > 127:
        found.append(rest & 127 | 128)
        rest >>= 7
    found.append(rest)
    return bytes(found)


_SMALL: Final = {number: _long(number) for number in range(-1, 8_192)}
LONG: Final = _Longs(_SMALL)
NAME: Final = _Names()


def write_any(out: bytearray, value: Any) -> None:
    """Append a value of the union string, long, double, boolean: the branch, then the value."""
    kind = type(value)
    if kind is str:
        text = value.encode()
        out += b"\x00" + LONG[len(text)] + text
    elif kind is int:
        out += b"\x02" + LONG[value]
    elif kind is float:
        out += b"\x04" + double(value)
    elif kind is bool:
        out += b"\x06\x01" if value else b"\x06\x00"
    else:
        raise TypeError(f"{value!r} is no string, long, double or boolean")
