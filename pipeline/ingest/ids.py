"""Random ids, a page of randomness at a time: asking the system for each one costs more than the id."""

from __future__ import annotations

import os
from typing import Final

PAGE_BYTES: Final = 4096
UUID_HEX: Final = 32
_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


class _Page:
    """What is left of a page of random hex digits."""

    digits = ""
    at = 0


def random_hex(length: int) -> str:
    """Return so many random hex digits, each given once."""
    end = _Page.at + length
    if end > len(_Page.digits):
        _Page.digits, end = os.urandom(PAGE_BYTES).hex(), length
    found = _Page.digits[end - length : end]
    _Page.at = end
    return found


def uuid4() -> str:
    """Return a random UUID (version 4)."""
    h = random_hex(UUID_HEX)
    return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-{_VARIANT[h[16]]}{h[17:20]}-{h[20:]}"
