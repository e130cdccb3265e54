"""How a batch is cut into transactions."""

from __future__ import annotations

from pipeline.contract.record import StoredRecord
from pipeline.worker.carrier import split


def record(offset: int, size: int) -> StoredRecord:
    return StoredRecord("media.uploads", 0, offset, b"", b"x" * size, 0, ())


def offsets(sizes: list[int], most_bytes: int, most_records: int) -> list[list[int]]:
    rest = [record(offset, size) for offset, size in enumerate(sizes)]
    parts = []
    while rest:
        part, rest = split(rest, most_bytes, most_records)  # type: ignore[assignment]  # a list gives lists
        parts.append([r.offset for r in part])
    return parts


def test_a_transaction_is_bounded_by_bytes_and_a_larger_upload_goes_alone() -> None:
    assert offsets([4, 4, 50, 1], most_bytes=10, most_records=100) == [[0, 1], [2], [3]]


def test_a_transaction_is_bounded_by_the_number_of_uploads() -> None:
    assert offsets([1] * 5, most_bytes=100, most_records=2) == [[0, 1], [2, 3], [4]]


def test_nothing_is_left_out_when_all_fits() -> None:
    assert offsets([1, 1], most_bytes=100, most_records=2) == [[0, 1]]
