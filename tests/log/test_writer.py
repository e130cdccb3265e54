"""The writer on a disk that fails: every future ends, and the writer is well again by itself."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from pipeline.contract.ports import Unavailable
from pipeline.log.writer import Writer


class Disk(sqlite3.Connection):
    """A real connection whose statements of these first words fail."""

    failing: frozenset[str] = frozenset()

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if sql.split(maxsplit=1)[0] in self.failing:
            raise sqlite3.OperationalError(f"disk I/O error at {sql}")
        return super().execute(sql, *parameters)


class Bench:
    """A writer on such a disk, and what it told its owner."""

    def __init__(self, file: Path) -> None:
        self.disk = sqlite3.connect(file, isolation_level=None, check_same_thread=False, factory=Disk)
        self.disk.execute("PRAGMA journal_mode = WAL")
        self.disk.execute("CREATE TABLE numbers (number INTEGER)")
        self.told: list[str] = []
        self.raised: list[Exception] = []
        """What telling the owner raises next."""
        self.writer = Writer(self.disk, lambda: self._tell("committed"), lambda: self._tell("undone"))

    def _tell(self, what: str) -> None:
        if self.raised:
            raise self.raised.pop()
        self.told.append(what)

    def put(self, number: int) -> Future[Any]:
        return self.writer.submit(lambda c: c.execute("INSERT INTO numbers VALUES (?)", (number,)).rowcount)

    def fails(self, number: int) -> None:
        with pytest.raises(Unavailable):
            self.put(number).result(timeout=10)

    def stored(self) -> list[int]:
        """Close the writer and return what a new connection finds."""
        (file,) = [row[2] for row in self.disk.execute("PRAGMA database_list")]
        self.writer.close()
        again = sqlite3.connect(file)
        numbers = [row[0] for row in again.execute("SELECT number FROM numbers")]
        again.close()
        return numbers


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr("pipeline.log.writer.TRY_AGAIN_S", 0.02)
    bench = Bench(tmp_path / "file.sqlite")
    yield bench
    bench.disk.failing = frozenset()
    bench.writer.close()


def becomes(condition: Callable[[], bool]) -> bool:
    """Return whether this is so within some seconds."""
    until = time.monotonic() + 60
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("failing", ["BEGIN", "INSERT", "COMMIT"])
def test_an_idle_writer_is_well_again_when_the_disk_is(bench: Bench, failing: str) -> None:
    bench.disk.failing = frozenset({failing, "PRAGMA"})
    bench.fails(1)
    time.sleep(0.1)
    assert not bench.writer.is_well, "it tried in vain"
    bench.disk.failing = frozenset()
    assert becomes(lambda: bench.writer.is_well)
    assert bench.writer.transactions == 0
    assert "committed" not in bench.told, "a try is nothing that an owner stored"
    assert bench.put(2).result(timeout=10) == 1
    assert bench.stored() == [2]


def test_a_try_really_writes_to_the_disk(bench: Bench, tmp_path: Path) -> None:
    log = tmp_path / "file.sqlite-wal"
    bench.disk.failing = frozenset({"COMMIT"})
    bench.fails(1)
    before = log.stat().st_size
    bench.disk.failing = frozenset()
    assert becomes(lambda: bench.writer.is_well)
    assert log.stat().st_size > before


def test_a_rollback_that_fails_too_leaves_no_future_open_and_is_done_before_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.log.writer.TRY_AGAIN_S", 60.0)  # the next upload, not a try, shows it
    bench.disk.failing = frozenset({"COMMIT", "ROLLBACK"})
    bench.fails(1)
    bench.fails(2)
    assert bench.disk.in_transaction
    assert not bench.writer.is_well
    bench.disk.failing = frozenset()
    assert bench.put(3).result(timeout=10) == 1
    assert bench.told == ["undone", "committed"]
    assert bench.stored() == [3]


def test_an_idle_writer_is_well_again_after_a_rollback_that_failed(bench: Bench) -> None:
    bench.disk.failing = frozenset({"COMMIT", "ROLLBACK"})
    bench.fails(1)
    bench.disk.failing = frozenset()
    assert becomes(lambda: bench.writer.is_well)
    assert bench.stored() == []


def test_an_owner_that_fails_to_undo_is_asked_again(bench: Bench) -> None:
    bench.raised = [ZeroDivisionError("a bug")]
    bench.disk.failing = frozenset({"COMMIT", "PRAGMA"})
    bench.fails(1)
    bench.disk.failing = frozenset({"PRAGMA"})
    assert bench.put(2).result(timeout=10) == 1
    assert bench.told[-2:] == ["undone", "committed"]


def test_what_is_durable_is_acknowledged_even_if_its_owner_fails_and_is_told_again(bench: Bench) -> None:
    bench.raised = [ZeroDivisionError("a bug")]
    assert bench.put(1).result(timeout=10) == 1
    assert becomes(lambda: bench.told[:1] == ["committed"])
    assert becomes(lambda: bench.writer.is_well)
    assert bench.put(2).result(timeout=10) == 1
    assert bench.stored() == [1, 2]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ends_all_the_same_keeps_nobody_waiting(bench: Bench) -> None:
    def ends(_connection: sqlite3.Connection) -> None:
        time.sleep(0.1)  # until the other one is queued
        raise SystemExit

    first, queued = bench.writer.submit(ends), bench.put(1)
    for future in (first, queued):
        with pytest.raises(Unavailable):
            future.result(timeout=10)
    bench.fails(2)
    assert not bench.writer.is_well


def test_closing_finishes_what_was_queued_also_on_a_disk_that_had_failed(bench: Bench) -> None:
    bench.disk.failing = frozenset({"COMMIT"})
    bench.fails(0)
    bench.disk.failing = frozenset()
    queued = [bench.put(number) for number in range(50)]
    assert bench.stored() == list(range(50))
    assert all(future.done() for future in queued)
