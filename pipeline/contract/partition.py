"""The one partitioner: murmur2 as Kafka's Java clients use it, so that every producer agrees.

The dedupe index lives by partition (DESIGN.md 3): a producer with another partitioner would split a
visitor's uploads over two indexes.
"""

from __future__ import annotations

from functools import lru_cache
from struct import unpack_from
from typing import Final

_M: Final = 0x5BD1E995
_SEED: Final = 0x9747B28C
_MASK: Final = 0xFFFFFFFF


@lru_cache(maxsize=4096)
def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of this key, 0 to `partitions` - 1."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """Return the 32-bit murmur2 hash with Kafka's seed, unsigned."""
    length = len(data)
    h = (_SEED ^ length) & _MASK
    whole = length & ~3
    for word in unpack_from(f"<{whole // 4}I", data):
        k = (word * _M) & _MASK
        k ^= k >> 24
        h = (h * _M ^ k * _M) & _MASK
    if length != whole:
        h ^= int.from_bytes(data[whole:], "little")
        h = (h * _M) & _MASK
    h ^= h >> 13
    h = (h * _M) & _MASK
    return h ^ (h >> 15)
