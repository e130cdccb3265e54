"""Ids are UUIDs of version 4, and none comes twice."""

from __future__ import annotations

import sys
import uuid
from types import FrameType
from typing import Any

from pipeline.ingest import ids
from pipeline.ingest.ids import PAGE_BYTES, random_hex, uuid4


def test_ids_are_random_uuids_across_pages() -> None:
    found = [uuid4() for _ in range(PAGE_BYTES)]
    assert len(set(found)) == PAGE_BYTES
    assert {(uuid.UUID(one).version, uuid.UUID(one).variant) for one in found} == {(4, uuid.RFC_4122)}
    assert [str(uuid.UUID(one)) for one in found] == found


def test_hex_has_its_length_and_never_repeats() -> None:
    found = [random_hex(length) for length in (1, 16, 33, PAGE_BYTES, 16)]
    assert [len(one) for one in found] == [1, 16, 33, PAGE_BYTES, 16]
    assert found[1] != found[4]
    assert not found[2].startswith(found[1])


def test_another_thread_between_any_two_lines_gets_other_ids() -> None:
    others: list[str] = []

    def between(frame: FrameType, _event: str, _argument: object) -> Any:
        if frame.f_code.co_filename != ids.__file__:
            return None
        sys.settrace(None)  # the other thread's turn
        others.append(random_hex(16))
        sys.settrace(between)
        return between

    found = []
    for _ in range(PAGE_BYTES):
        sys.settrace(between)
        one = random_hex(16)
        sys.settrace(None)
        found.append(one)
    assert len(others) > len(found)
    assert len({*found, *others}) == len(found) + len(others)
