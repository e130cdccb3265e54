"""kill -9 of the embedded default at random moments under load: nothing lost, nothing counted twice."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.commands.serving import rows, served, settled
from tests.load import Senders

ROUNDS = 4


@pytest.mark.slow
def test_killed_at_random_moments_under_load_it_loses_nothing_and_counts_nothing_twice(
    tmp_path: Path,
) -> None:
    chance = random.Random(20260131)
    senders = Senders()
    try:
        for _ in range(ROUNDS):
            with served(tmp_path) as service:
                senders.to(service)
                time.sleep(chance.uniform(0.1, 1.2))
                service.kill()
                senders.to(None)
        with served(tmp_path) as service:
            senders.to(service)
            senders.await_acknowledged(21)
            senders.stop()
            ledger = settled(tmp_path)
            assert service.stop() == 0
    finally:
        senders.stop()
    assert ledger["pending"] == 0
    assert ledger["balances"], [check for check in ledger["checks"] if not check["balances"]]
    sessions = [
        row["value"]["session_id"]
        for row in rows("records", "media.sessions", "--json", "--data-dir", str(tmp_path))
    ]
    assert len(senders.acknowledged) > 20, "the load was too small to prove anything"
    assert senders.acknowledged <= set(sessions)
    assert len(sessions) == len(set(sessions))
    starts = [
        row["value"]["session_id"]
        for row in rows("records", "media.analytics.calls", "--json", "--data-dir", str(tmp_path))
        if row["value"]["call"] == "mediaStart"
    ]
    assert sorted(starts) == sorted(sessions)
