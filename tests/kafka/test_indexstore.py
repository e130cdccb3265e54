"""The store is a copy: whatever happens to it, what was committed is known and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.kafka.indexstore import (
    Closed,
    Damaged,
    Entry,
    IndexStore,
    Origin,
    claim_directory,
    make_cache,
    month_of,
)

ORIGIN = Origin("cluster", "topic")
CACHE = make_cache()
ENTRIES = 4_000


def at(year: int, month: int, day: int = 15) -> int:
    return int(datetime(year, month, day, tzinfo=UTC).timestamp() * 1000)


def key(number: int) -> bytes:
    return f"session:{number}".encode()


def entries(numbers: range, timestamp_ms: int = at(2026, 11)) -> Iterator[Entry]:
    return (Entry(key(n), f"value {n} {n * 7919 % 10_007:0100x}".encode(), timestamp_ms) for n in numbers)


def opened(path: Path, origin: Origin = ORIGIN) -> IndexStore:
    return IndexStore(path, origin, CACHE)


def filled(path: Path) -> None:
    store = opened(path)
    store.apply(entries(range(ENTRIES)), ENTRIES)
    store.apply([Entry(b"position:media.uploads:0", b"here", 0)], ENTRIES + 1)
    store.close()
    again = opened(path)  # what was in the write-ahead log is in a table file now
    again.close()


def known(store: IndexStore) -> set[bytes]:
    return set(store.known([key(n) for n in range(ENTRIES)]))


def test_what_was_applied_is_known_after_opening_again_with_its_offset(tmp_path: Path) -> None:
    filled(tmp_path / "s")
    store = opened(tmp_path / "s")
    assert store.made_anew is None
    assert store.next_offset == ENTRIES + 1
    assert len(known(store)) == ENTRIES
    assert store.known([key(3), b"session:unknown", b"position:media.uploads:0"]) == {
        key(3): b"value 3 %0100x" % (3 * 7919 % 10_007),
        b"position:media.uploads:0": b"here",
    }


def test_a_value_of_none_takes_a_key_away(tmp_path: Path) -> None:
    store = opened(tmp_path / "s")
    store.apply(entries(range(2)), 2)
    store.apply([Entry(key(0), None, 0)], 3)
    assert set(store.known([key(0), key(1)])) == {key(1)}


@pytest.mark.parametrize("origin", [Origin("another", "topic"), Origin("cluster", "another")])
def test_a_copy_of_another_cluster_or_topic_is_made_anew(tmp_path: Path, origin: Origin) -> None:
    filled(tmp_path / "s")
    store = opened(tmp_path / "s", origin)
    assert store.made_anew is not None
    assert (store.next_offset, known(store)) == (0, set())


def test_a_deleted_store_begins_at_the_start(tmp_path: Path) -> None:
    filled(tmp_path / "s")
    shutil.rmtree(tmp_path / "s")
    assert opened(tmp_path / "s").next_offset == 0


def damaged_files(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.suffix in {".sst", ".log"} or p.name.startswith("MANIFEST"))


def believed(path: Path) -> None:
    """Assert that the store is whole up to the offset that it names, or says that it is not."""
    store = opened(path)
    try:
        found = {k for n in range(ENTRIES) for k in store.known([key(n)])}
        assert found == {key(n) for n in range(min(store.next_offset, ENTRIES))} or store.next_offset == 0
        if store.next_offset == 0:
            assert found == set()
    except Damaged:
        store.close()
        again = opened(path)
        assert again.made_anew is not None
        assert (again.next_offset, known(again)) == (0, set())
        again.close()
    finally:
        store.close()


def killed(path: Path) -> None:
    """What a store leaves on disk when its process is killed: the last entries are in the write-ahead log."""
    store = opened(path.with_name("running"))
    store.apply(entries(range(ENTRIES // 2)), ENTRIES // 2)
    store.apply(entries(range(ENTRIES // 2, ENTRIES)), ENTRIES + 1)
    shutil.copytree(path.with_name("running"), path)
    store.close()


@pytest.mark.parametrize("fault", ["truncated", "bit-flipped", "removed"])
@pytest.mark.parametrize(("left", "suffix"), [(filled, ".sst"), (killed, ".log")])
def test_a_damaged_file_never_makes_a_known_session_unknown(
    tmp_path: Path, fault: str, left: Callable[[Path], None], suffix: str
) -> None:
    left(tmp_path / "whole")
    names = [p.name for p in damaged_files(tmp_path / "whole") if p.stat().st_size]
    assert any(name.endswith(suffix) for name in names)
    for number, name in enumerate(names):
        for part in (1, 2, 3):
            path = tmp_path / f"{number}-{part}"
            shutil.copytree(tmp_path / "whole", path)
            content = bytearray((path / name).read_bytes())
            place = len(content) * part // 4
            if fault == "removed":
                (path / name).unlink()
            elif fault == "truncated":
                (path / name).write_bytes(content[:place])
            else:
                content[place] ^= 0x10
                (path / name).write_bytes(content)
            believed(path)


def test_entries_are_forgotten_by_month_and_never_before_13_whole_months(tmp_path: Path) -> None:
    store = opened(tmp_path / "s")
    store.apply(entries(range(100), at(2025, 10, 1)), 100)
    store.apply(entries(range(100, 200), at(2026, 11)), 200)
    store.apply([Entry(b"position:media.uploads:0", b"here", at(2020, 1))], 201)
    assert store.sweep(at(2026, 11, 30), 1_000)
    assert len(known(store)) == 200
    store.apply([Entry(b"session:of december", b"", at(2026, 12, 1))], 202)
    while not store.sweep(at(2026, 12, 1), 30):  # in steps, as the worker does it
        pass
    assert known(store) == {key(n) for n in range(100, 200)}
    assert store.known([b"position:media.uploads:0"])


def test_a_sweep_of_a_month_is_done_once(tmp_path: Path) -> None:
    store = opened(tmp_path / "s")
    store.apply([Entry(b"session:new", b"", at(2026, 12))], 1)
    assert store.sweep(at(2026, 11), 10)
    store.apply(entries(range(5), at(2020, 1)), 6)
    assert store.sweep(at(2026, 11), 10)
    assert len(known(store)) == 5
    assert store.sweep(at(2026, 12), 10)
    assert known(store) == set()


def test_a_clock_that_is_ahead_forgets_nothing_that_the_entries_do_not_bear_out(tmp_path: Path) -> None:
    filled(tmp_path / "s")
    store = opened(tmp_path / "s")
    store.apply([Entry(b"position:media.uploads:0", b"here", at(2040, 1))], ENTRIES + 2)  # by that clock
    assert store.sweep(at(2040, 1), 10_000)
    assert len(known(store)) == ENTRIES
    assert not store.is_swept_ahead(at(2026, 11))
    store.apply([Entry(b"session:new", b"", at(2028, 1))], ENTRIES + 3)
    assert store.sweep(at(2028, 1), 10_000), "and sweeping goes on when it is right again"
    assert known(store) == set()


def test_a_store_that_was_swept_ahead_of_time_says_so_also_when_it_is_opened_again(tmp_path: Path) -> None:
    store = opened(tmp_path / "s")
    store.apply([Entry(b"session:new", b"", at(2028, 1))], 1)  # received by a clock that was ahead, too
    assert store.sweep(at(2028, 1), 10)
    assert store.is_swept_ahead(at(2026, 11))
    store.close()
    again = opened(tmp_path / "s")
    assert again.is_swept_ahead(at(2026, 11))
    assert not again.is_swept_ahead(at(2027, 12, 31)), "a clock may be set back by less than a day"


@pytest.mark.parametrize(("ms", "month"), [(-1, 0), (0, 0), (at(1971, 2), 13), (10**18, 0xFFFF)])
def test_every_record_time_has_a_month(ms: int, month: int) -> None:
    assert month_of(ms) == month


def test_two_workers_on_one_disk_use_two_directories_and_a_restarted_one_its_own(tmp_path: Path) -> None:
    first, second = claim_directory(tmp_path), claim_directory(tmp_path)
    assert first.directory != second.directory
    first.lock.close()
    again = claim_directory(tmp_path)
    assert again.directory == first.directory
    again.lock.close()
    second.lock.close()


def test_a_store_that_was_closed_is_not_taken_for_a_damaged_one(tmp_path: Path) -> None:
    filled(tmp_path / "s")
    store = opened(tmp_path / "s")
    store.close()
    with pytest.raises(Closed):
        store.known([key(1)])
    again = opened(tmp_path / "s")
    assert again.made_anew is None
    assert len(known(again)) == ENTRIES
