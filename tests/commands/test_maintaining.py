"""What is done to the embedded log now and then ends no service that could go on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipeline.commands.run import Embedded
from pipeline.contract.ports import Unavailable
from pipeline.log.log import Log
from pipeline.settings import load


def test_a_full_disk_at_a_turn_of_maintenance_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(load({}, data_dir=tmp_path), log_maintain_interval_s=0)
    service, turns = Embedded(settings), []

    def maintain(_log: Log, now_ms: int) -> int:
        turns.append(now_ms)
        if len(turns) == 3:
            service._stop.set()
        raise Unavailable("not stored: database or disk is full")

    monkeypatch.setattr(Log, "maintain", maintain)
    service._guarded(lambda: service._maintain(object.__new__(Log)))
    assert len(turns) == 3
    assert service._failure is None
