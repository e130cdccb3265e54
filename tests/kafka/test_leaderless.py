"""One partition without leader costs no upload, on librdkafka's mock cluster."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipeline.commands.ingest import RAN_BEFORE
from pipeline.contract.topics import load_topics
from pipeline.settings import load
from pipeline.topology import UPLOADS
from tests.kafka.mock import NO_LEADER, MockCluster
from tests.kafka.running import Ingest, records
from tests.load import Senders

BROKER = 1
LEAST = 200

pytestmark = pytest.mark.slow


def test_one_partition_without_leader_costs_no_upload(tmp_path: Path) -> None:
    partitions = load_topics()[UPLOADS].partitions
    with MockCluster(UPLOADS, partitions) as cluster:
        # Before the ingest starts: the mock cluster itself dies of a request for a partition without leader.
        cluster.set_leader(3, NO_LEADER)
        settings = load({}, kafka_bootstrap=cluster.bootstrap, data_dir=tmp_path)
        # The mock cluster describes no topics; an ingest that ran before starts all the same.
        (tmp_path / RAN_BEFORE).write_text(f"{cluster.bootstrap} ")
        with Ingest(settings) as ingest:
            senders = Senders()
            try:
                senders.to(ingest)
                ingest.await_spooled()  # what met the partition without leader
                senders.await_acknowledged(LEAST)
                cluster.set_leader(3, BROKER)
                time.sleep(1)
            finally:
                senders.stop()
            ingest.await_forwarded()
            assert {exchange.status for exchange in senders.undisturbed()} == {201}
            assert senders.deleted == 0
            assert senders.overdue() == [], "answers that did not come in time"
            stored = [(row["partition"], row["value"]["session_id"]) for row in records(settings, UPLOADS)]
            assert senders.acknowledged <= {session_id for _, session_id in stored}, "lost"
            assert 3 in {partition for partition, _ in stored}
