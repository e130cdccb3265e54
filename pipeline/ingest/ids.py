"""Random ids, a page of randomness at a time: asking the system for each one costs more than the id."""

from __future__ import annotations

import os
from typing import Final

PAGE_BYTES: Final = 4096
UUID_HEX: Final = 32
_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


_pools: Final[dict[int, list[str]]] = {}
"""What is left of a page, by length; taking from a list is one step, so that no two threads get the same."""


def random_hex(length: int) -> str:
    """Return so many random hex digits, each given once, to whichever thread."""
    try:
        return _pools[length].pop()
    except LookupError:
        return _first_of_a_page(length)


def uuid4() -> str:
    """Return a random UUID (version 4)."""
    h = random_hex(UUID_HEX)
    return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-{_VARIANT[h[16]]}{h[17:20]}-{h[20:]}"


def _first_of_a_page(length: int) -> str:
    digits = os.urandom(max(PAGE_BYTES, length)).hex()
    first, *others = [digits[at : at + length] for at in range(0, len(digits) - length + 1, length)]
    _pools.setdefault(length, []).extend(others)
    return first
