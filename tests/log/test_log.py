"""The embedded log: durable, dense, bounded, with one owner."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.contract.codec import Codec
from pipeline.contract.ports import Unavailable
from pipeline.contract.positions import position_maker
from pipeline.contract.record import Record
from pipeline.contract.topics import Topic, load_topics
from pipeline.log.log import Log
from pipeline.log.reader import open_reader
from tests.fakes import FakeSchemaIds

DAY_MS = 86_400_000
TOPICS = {
    "media.uploads": Topic("media.uploads", 2, frozenset({"delete"}), DAY_MS),
    "media.sessions": Topic("media.sessions", 2, frozenset({"compact"})),
    "media.outcomes": Topic("media.outcomes", 2, frozenset({"delete"}), DAY_MS),
    "media.index": Topic("media.index", 2, frozenset({"compact", "delete"}), 10 * DAY_MS),
}


def make(path: Path, topics: dict[str, Topic] | None = None, **more: Any) -> Log:
    return Log(path, topics or TOPICS, position_maker(Codec(FakeSchemaIds())), **more)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    opened = make(tmp_path)
    opened.open()
    yield opened
    opened.close()


def record(key: str, value: bytes | None = b"v", *, topic: str = "media.outcomes", at_ms: int = 0) -> Record:
    return Record(topic, 0, key.encode(), value, at_ms)


def put(log: Log, *records: Record) -> None:
    log.append(records).result(timeout=10)


def offsets(log: Log, topic: str = "media.outcomes") -> list[int]:
    return [stored.offset for stored in log.read(topic, 0, 0, 1000)]


def test_a_second_process_is_kept_out_while_the_log_is_open(tmp_path: Path, log: Log) -> None:
    with pytest.raises(OSError, match="another process"):
        make(tmp_path).open()


def test_another_number_of_partitions_is_refused_by_name(tmp_path: Path) -> None:
    first = make(tmp_path)
    first.open()
    first.close()
    changed = {**TOPICS, "media.sessions": TOPICS["media.sessions"]._replace(partitions=3)}
    with pytest.raises(OSError, match=r"media\.sessions was made with 2 .*PIPELINE_PARTITIONS is 3"):
        make(tmp_path, changed).open()


def test_a_file_that_is_no_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.sqlite").write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(OSError, match=r"log\.sqlite"):
        make(tmp_path).open()


def test_old_records_are_removed_and_their_offsets_never_used_again(tmp_path: Path, log: Log) -> None:
    put(log, record("a", at_ms=0), record("b", at_ms=DAY_MS))
    assert log.maintain(2 * DAY_MS - 1) == 1
    assert offsets(log) == [1]
    log.maintain(10 * DAY_MS)
    assert offsets(log) == []
    log.close()
    again = make(tmp_path)
    again.open()
    put(again, record("c", at_ms=10 * DAY_MS))
    assert offsets(again) == [2]
    again.close()


class Passing:
    """A log that is maintained every hour of a time that the test lets pass, whatever its clock says."""

    def __init__(self, path: Path) -> None:
        self._seconds = 0.0
        self.log = make(path, monotonic=lambda: self._seconds)
        self.log.open()

    def hours(self, number: int, now_ms: int) -> None:
        for hour in range(number):
            self._seconds += 3_600
            self.log.maintain(now_ms + hour * 3_600_000)


def known(log: Log) -> set[str]:
    keys = [f"session:{day}" for day in range(100)]
    return {key.decode() for key in log.known(0, [key.encode() for key in keys])}


def test_the_index_forgets_when_it_is_time(tmp_path: Path) -> None:
    passing = Passing(tmp_path)
    put(passing.log, *(record(f"session:{day}", topic="media.index", at_ms=day * DAY_MS) for day in range(3)))
    passing.hours(24, 9 * DAY_MS)
    assert known(passing.log) == {"session:0", "session:1", "session:2"}
    passing.hours(24, 10 * DAY_MS)
    passing.hours(1, 11 * DAY_MS)
    assert known(passing.log) == {"session:1", "session:2"}
    passing.hours(25, 11 * DAY_MS)
    assert known(passing.log) == {"session:2"}
    passing.log.close()


def test_a_clock_that_is_wrong_for_a_day_does_not_empty_the_index(tmp_path: Path) -> None:
    passing = Passing(tmp_path)
    days = range(10)
    put(passing.log, *(record(f"session:{d}", topic="media.index", at_ms=d * DAY_MS) for d in days))
    passing.hours(1, 10 * DAY_MS)
    wrong = 1_000 * DAY_MS
    passing.hours(23, wrong)
    put(passing.log, record("session:99", topic="media.index", at_ms=wrong))
    passing.log.close()
    again = Passing(tmp_path)
    again.hours(1, wrong)
    assert known(again.log) == {f"session:{day}" for day in (*range(2, 10), 99)}
    again.hours(24, 11 * DAY_MS)
    assert known(again.log) == {f"session:{day}" for day in (*range(2, 10), 99)}
    again.log.close()


def test_uploads_that_the_worker_has_not_read_are_never_removed(log: Log) -> None:
    put(log, *(record(str(n), topic="media.uploads") for n in range(3)))
    log.take_over(0)
    log.commit(0, [], 2)
    log.maintain(100 * DAY_MS)
    assert offsets(log, "media.uploads") == [2]


def test_a_compacted_topic_keeps_the_latest_of_each_key(log: Log) -> None:
    put(log, record("a", b"1", topic="media.sessions"), record("b", b"1", topic="media.sessions"))
    put(log, record("a", b"2", topic="media.sessions"), record("a", b"3", topic="media.sessions"))
    kept = [(s.offset, s.key, s.value) for s in log.read("media.sessions", 0, 0, 10)]
    assert kept == [(1, b"b", b"1"), (3, b"a", b"3")]


def test_a_tombstone_is_removed_after_a_day(log: Log) -> None:
    put(log, record("a", b"1", topic="media.sessions"), record("a", None, topic="media.sessions"))
    log.maintain(DAY_MS - 1)
    assert offsets(log, "media.sessions") == [1]
    log.maintain(DAY_MS + 1)
    assert offsets(log, "media.sessions") == []


def test_looking_for_tombstones_does_not_look_through_the_records(log: Log) -> None:
    put(log, *(record(str(n), topic="media.sessions") for n in range(2_000)))
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    writing = log._writer
    assert writing is not None
    writing.submit(lambda c: c.set_progress_handler(step, 100)).result()
    log.maintain(DAY_MS)
    writing.submit(lambda c: c.set_progress_handler(None, 0)).result()
    assert steps < 10, "hundreds of SQLite's steps for nothing to remove"


def test_the_file_does_not_grow_for_ever(tmp_path: Path, log: Log) -> None:
    def round_of(day: int) -> int:
        for _ in range(5):
            put(log, *(record(str(n), b"x" * 10_000, at_ms=day * DAY_MS) for n in range(100)))
        log.maintain((day + 1) * DAY_MS + 1)
        return (tmp_path / "log.sqlite").stat().st_size

    sizes = [round_of(day) for day in range(0, 12, 2)]
    assert sizes[-1] <= sizes[1] * 1.5


def test_many_waiting_stores_share_few_transactions(log: Log) -> None:
    assert log._writer is not None
    before, all_wait = log.transactions, threading.Event()
    log._writer.submit(lambda _connection: all_wait.wait())

    async def store_all() -> None:
        storing = [asyncio.create_task(log.store([record(str(n))])) for n in range(200)]
        await asyncio.sleep(0)
        all_wait.set()
        await asyncio.gather(*storing)

    asyncio.run(store_all())
    assert len(offsets(log)) == 200
    assert log.transactions - before < 50


def test_a_full_disk_is_unavailable_and_heals(log: Log) -> None:
    writing = log._writer
    assert writing is not None
    pages = writing._connection.execute("PRAGMA page_count").fetchone()[0]
    writing.submit(lambda c: c.execute(f"PRAGMA max_page_count = {pages + 5}").fetchall()).result()
    with pytest.raises(Unavailable):
        put(log, record("big", b"x" * 1_000_000))
    assert not log.is_writable()
    assert offsets(log) == []
    writing.submit(lambda c: c.execute("PRAGMA max_page_count = 1000000").fetchall()).result()
    put(log, record("small"))
    assert log.is_writable()
    assert offsets(log) == [0]


def test_a_closed_log_refuses_to_store(log: Log) -> None:
    log.close()
    with pytest.raises(Unavailable):
        put(log, record("late"))


def test_one_read_is_bounded_by_bytes_and_the_next_ones_bring_the_rest(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.log.tables.READ_BYTES", 2_500)
    sizes = [1_000, 1_000, 1_000, 9_000, 10, 10, 3_000]
    put(log, *(record(str(n), b"x" * size) for n, size in enumerate(sizes)))
    reads: list[list[int]] = []
    at = 0
    while read := log.read("media.outcomes", 0, at, 1_000):
        reads.append([len(stored.value or b"") for stored in read])
        at = read[-1].offset + 1
    assert reads == [[1_000, 1_000], [1_000], [9_000], [10, 10], [3_000]]
    assert all(sum(read) <= 2_500 or len(read) == 1 for read in reads)
    reader = open_reader(tmp_path)
    assert [s.offset for s in reader.read("media.outcomes", {0: 0})] == list(range(len(sizes)))
    reader.close()


def test_a_reader_sees_one_moment_until_it_is_refreshed(tmp_path: Path, log: Log) -> None:
    put(log, record("a"))
    reader = open_reader(tmp_path)
    assert reader.end_offset("media.outcomes", 0) == 1
    put(log, record("b"))
    assert reader.end_offset("media.outcomes", 0) == 1
    assert len(list(reader.read("media.outcomes", {0: 0}))) == 1
    reader.refresh()
    assert reader.end_offset("media.outcomes", 0) == 2
    reader.close()


def test_there_is_nothing_to_read_where_there_is_no_log(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_reader(tmp_path / "nowhere")


def test_waiting_ends_when_a_record_comes(log: Log) -> None:
    assert not log.wait_for_records("media.uploads", {0: 0, 1: 0}, 0.01)
    put(log, record("a", topic="media.uploads"))
    assert log.wait_for_records("media.uploads", {0: 0, 1: 0}, 5)


CHILD = """
import sys
from pathlib import Path
from tests.log.test_log import make, record
log = make(Path(sys.argv[1])); log.open()
n = int(sys.argv[2])
while True:
    log.append([record(str(n)), record(str(n), topic="media.uploads")]).result()
    print(n, flush=True)
    n += 1
"""


def test_what_was_acknowledged_survives_a_kill_and_nothing_is_half_written(tmp_path: Path) -> None:
    acknowledged: list[int] = []
    for round_number in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path), str(round_number * 100_000)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parents[2],
        )
        assert child.stdout is not None
        acknowledged.append(int(child.stdout.readline()))
        time.sleep(0.15 + 0.1 * round_number)
        os.kill(child.pid, signal.SIGKILL)
        acknowledged += [int(line) for line in child.stdout.read().splitlines() if line.strip()]
        child.wait()
        child.stdout.close()
    with_file = sqlite3.connect(tmp_path / "log.sqlite")
    assert with_file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with_file.close()
    log = make(tmp_path)
    log.open()
    outcomes = [int(s.key) for s in log.read("media.outcomes", 0, 0, 10**6)]
    uploads = [int(s.key) for s in log.read("media.uploads", 0, 0, 10**6)]
    assert set(acknowledged) <= set(outcomes)
    assert outcomes == uploads
    assert offsets(log) == list(range(len(offsets(log))))
    log.close()


def test_the_real_topics_can_be_opened(tmp_path: Path) -> None:
    log = Log(tmp_path, load_topics(), position_maker(Codec(FakeSchemaIds())))
    log.open()
    assert log.end_offset("media.uploads", 23) == 0
    log.close()
