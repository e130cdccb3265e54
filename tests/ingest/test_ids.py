"""Ids are UUIDs of version 4, and none comes twice."""

from __future__ import annotations

import uuid

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
