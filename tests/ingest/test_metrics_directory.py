"""Several parents may share a data directory, and none removes the metrics of another that lives."""

from __future__ import annotations

from pathlib import Path

from pipeline.ingest.processes import LOCK_NAME, metrics_directory


def test_each_has_a_directory_of_its_own_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with metrics_directory(tmp_path / "metrics") as one:
        (one / "counter_7.db").write_bytes(b"1")
        with metrics_directory(tmp_path / "metrics") as other:
            assert one != other
            (other / "counter_7.db").write_bytes(b"2")
        assert not other.exists()
        assert (one / "counter_7.db").read_bytes() == b"1"
    assert [left.name for left in (tmp_path / "metrics").iterdir()] == [LOCK_NAME]


def test_what_dead_ones_and_earlier_versions_left_is_removed(tmp_path: Path) -> None:
    dead = tmp_path / "dead"
    dead.mkdir()
    for file in (dead / LOCK_NAME, dead / "gauge_livesum_7.db", tmp_path / "counter_7.db"):
        file.write_bytes(b"")
    with metrics_directory(tmp_path) as own:
        assert {left.name for left in tmp_path.iterdir()} == {LOCK_NAME, own.name}
