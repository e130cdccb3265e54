"""The spool: durable before it is answered, in order, bounded, and never lost with its process."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.contract.ports import Unavailable
from pipeline.contract.record import Record
from pipeline.log.spool import FILE_NAME, SCHEMA_NAME, Spool, Totals, left_behind
from tests.commands.serving import ROOT

PAGE_BYTES = 4096


def upload(number: int, size: int = 10) -> Record:
    return Record("media.uploads", 3, b"k%d" % number, b"v" * size, 1_000 + number, (("h", b"\x00"),))


def opened(directory: Path, most_bytes: int = 10_000_000, now_ms: int = 2_000) -> Spool:
    spool = Spool(
        directory, most_bytes=most_bytes, most_age_ms=60_000, now_ms=lambda: now_ms, schema="the schema"
    )
    spool.open()
    return spool


def stored(spool: Spool, *records: Record) -> None:
    asyncio.run(spool.store(records))


def test_records_come_back_whole_and_in_order(tmp_path: Path) -> None:
    spool = opened(tmp_path / "s")
    stored(spool, upload(1), upload(2))
    stored(spool, upload(3))
    assert [waiting.record for waiting in spool.oldest(10)] == [upload(1), upload(2), upload(3)]
    assert [waiting.record for waiting in spool.oldest(2)] == [upload(1), upload(2)]
    assert spool.totals.records == 3
    assert spool.totals.oldest_ms == 1_001
    spool.close()


def test_one_read_brings_no_more_bytes_than_asked_for_but_always_a_record(tmp_path: Path) -> None:
    spool = opened(tmp_path / "s")
    stored(spool, *(upload(number, 1_000) for number in range(9)))
    assert [len(spool.oldest(10, most_bytes=most)) for most in (1, 1_500, 2_500, 100_000)] == [1, 1, 2, 9]
    read = spool.oldest(10, (), 5_000)
    assert 4_000 <= sum(len(waiting.record.value or b"") for waiting in read) <= 5_000
    checkpointed = spool._reading().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert checkpointed[0] == 0, "a read that stopped early holds nothing up"
    spool.close()


def test_what_was_spooled_survives_a_restart_and_what_was_removed_does_not(tmp_path: Path) -> None:
    spool = opened(tmp_path / "s")
    stored(spool, *(upload(number) for number in range(5)))
    spool.remove([waiting.number for waiting in spool.oldest(2)])
    totals = spool.totals
    spool.close()
    again = opened(tmp_path / "s")
    assert [waiting.record for waiting in again.oldest(10)] == [upload(2), upload(3), upload(4)]
    assert again.totals == totals
    again.close()


def test_removing_twice_counts_once(tmp_path: Path) -> None:
    spool = opened(tmp_path / "s")
    stored(spool, upload(1), upload(2))
    number = spool.oldest(1)[0].number
    spool.remove([number])
    spool.remove([number])
    assert spool.totals.records == 1
    spool.close()


def test_a_full_spool_refuses_and_stores_nothing_of_the_request(tmp_path: Path) -> None:
    spool = opened(tmp_path / "s", most_bytes=500)
    stored(spool, upload(1, 100))
    assert spool.is_writable()
    with pytest.raises(Unavailable, match="PIPELINE_SPOOL_LIMIT_BYTES"):
        stored(spool, upload(2, 100), upload(3, 400))
    assert spool.totals.records == 1
    stored(spool, upload(2, 100))
    spool.close()


def test_a_spool_whose_oldest_upload_is_too_old_refuses_more(tmp_path: Path) -> None:
    spool = opened(tmp_path / "s", now_ms=61_002)
    stored(spool, upload(1))
    with pytest.raises(Unavailable, match="PIPELINE_SPOOL_MAX_AGE_S"):
        stored(spool, upload(2))
    assert not spool.is_writable()
    spool.remove([spool.oldest(1)[0].number])
    stored(spool, upload(2))
    spool.close()


def test_what_a_process_has_adopted_counts_in_its_own_spools_limits(tmp_path: Path) -> None:
    spool = opened(tmp_path / "s", most_bytes=1_000, now_ms=61_002)
    full, old = Totals(1, 900, 61_000, 0), Totals(1, 10, 1_001, 0)
    aside = Totals(0, 0, None, 1, 900)
    for beside, setting in ((full, "LIMIT_BYTES"), (aside, "LIMIT_BYTES"), (old, "MAX_AGE_S")):
        spool.beside = lambda beside=beside: [beside]  # type: ignore[misc]  # mypy knows no such default
        with pytest.raises(Unavailable, match=f"PIPELINE_SPOOL_{setting}"):
            stored(spool, upload(60_000, 100))
    assert not spool.is_writable()
    spool.beside = lambda: [full, full]
    assert not spool.is_writable()
    spool.beside = lambda: ()
    assert spool.is_writable()
    stored(spool, upload(60_000, 100))
    spool.close()


def test_a_record_set_aside_blocks_nothing_and_is_kept(tmp_path: Path) -> None:
    spool = opened(tmp_path / "s")
    stored(spool, upload(1), upload(2))
    spool.set_aside(spool.oldest(1)[0].number, "too large")
    assert [waiting.record for waiting in spool.oldest(10)] == [upload(2)]
    assert (spool.totals.records, spool.totals.set_aside) == (1, 1)
    spool.remove([spool.oldest(1)[0].number])
    spool.close()
    assert (tmp_path / "s").exists(), "a spool with something set aside is not thrown away"


def test_what_is_set_aside_counts_in_the_limit(tmp_path: Path) -> None:
    spool = opened(tmp_path / "s", most_bytes=1_000)
    stored(spool, upload(1, 500))
    spool.set_aside(spool.oldest(1)[0].number, "too large")
    with pytest.raises(Unavailable, match="PIPELINE_SPOOL_LIMIT_BYTES"):
        stored(spool, upload(2, 500))
    stored(spool, upload(3, 100))
    before = spool.totals
    assert (before.set_aside, before.set_aside_bytes, before.records) == (1, 566, 1)
    spool.close()
    again = opened(tmp_path / "s", most_bytes=1_000)
    assert again.totals == before
    with pytest.raises(Unavailable, match="PIPELINE_SPOOL_LIMIT_BYTES"):
        stored(again, upload(2, 500))
    again.set_aside(again.oldest(1)[0].number, "too large")
    again.set_aside(999, "there is none")
    assert (again.totals.set_aside, again.totals.records) == (2, 0)
    again.close()


def test_an_empty_spool_leaves_nothing_behind(tmp_path: Path) -> None:
    opened(tmp_path / "s").close()
    assert list(tmp_path.iterdir()) == []


def test_a_spool_belongs_to_one_process_and_is_found_when_that_is_dead(tmp_path: Path) -> None:
    spool = opened(tmp_path / "s")
    stored(spool, upload(1))
    assert list(left_behind(tmp_path)) == []
    with pytest.raises(BlockingIOError):
        opened(tmp_path / "s")
    spool.close()
    assert list(left_behind(tmp_path)) == [tmp_path / "s"]


def damaged(directory: Path, how: str) -> Path:
    """Make a spool of a dead process that holds uploads, and damage it so."""
    spool = opened(directory)
    stored(spool, *(upload(number, 3_000) for number in range(20)))
    spool.close()
    file = directory / (SCHEMA_NAME if "schema" in how else FILE_NAME)
    found = bytearray(file.read_bytes())
    start = 0 if "schema" in how or "head" in how else PAGE_BYTES
    for at in range(start, len(found), 7):
        found[at] ^= 0xFF
    file.write_bytes(found)
    return directory


DAMAGES = ("pages gone bad", "a head gone bad", "a schema gone bad")


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_spool_is_an_os_error_and_leaves_it_unlocked_as_it_is(tmp_path: Path, how: str) -> None:
    directory = damaged(tmp_path / "s", how)
    before = (directory / FILE_NAME).read_bytes()
    for _ in range(2):
        with pytest.raises(OSError, match=r".") as refused:
            opened(directory)
        assert not isinstance(refused.value, BlockingIOError)
    assert list(left_behind(tmp_path)) == [directory]
    assert (directory / FILE_NAME).read_bytes() == before


def test_damage_that_shows_after_a_commit_ends_no_thread(tmp_path: Path) -> None:
    spool = opened(tmp_path / "s")
    stored(spool, upload(1), upload(2))

    def gone_bad(_connection: sqlite3.Connection) -> int:
        raise sqlite3.DatabaseError("malformed")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pipeline.log.spool._oldest_ms", gone_bad)
        spool.remove([spool.oldest(1)[0].number])
    stored(spool, upload(3))
    assert spool.totals.records == 2
    spool.close()


def test_kill_9_right_after_the_answer_loses_nothing(tmp_path: Path) -> None:
    program = (
        "import asyncio, os, sys\n"
        "from pathlib import Path\n"
        "from tests.log.test_spool import opened, upload\n"
        "spool = opened(Path(sys.argv[1]))\n"
        "async def main():\n"
        "    await asyncio.gather(*(spool.store([upload(n)]) for n in range(200)))\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "s"], cwd=ROOT, check=False, timeout=180)
    assert done.returncode == -9
    again = opened(tmp_path / "s")
    assert again.totals.records == 200
    again.close()
