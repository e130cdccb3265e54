"""An ingest starts, and serves, beside a damaged spool of a dead one, on librdkafka's mock cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.commands.ingest import RAN_BEFORE, SPOOLS
from pipeline.contract.topics import load_topics
from pipeline.settings import load
from pipeline.topology import UPLOADS
from tests.ingest.test_door import GOOD
from tests.kafka.mock import MockCluster
from tests.kafka.running import Ingest
from tests.log.test_spool import DAMAGES, damaged

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_spool_keeps_no_ingest_from_starting(tmp_path: Path, how: str) -> None:
    damaged(tmp_path / SPOOLS / "damaged", how)
    with MockCluster(UPLOADS, load_topics()[UPLOADS].partitions) as cluster:
        (tmp_path / RAN_BEFORE).write_text(f"{cluster.bootstrap} ")
        settings = load({}, kafka_bootstrap=cluster.bootstrap, data_dir=tmp_path)
        with Ingest(settings) as ingest:
            with ingest.client() as client:
                answer = client.post(
                    "/api/v1/downloaded", content=GOOD, headers={"content-type": "application/json"}
                )
            assert answer.status_code == 201
            ingest.await_forwarded()
            assert ingest.stop() == 0
    assert (tmp_path / SPOOLS / "damaged").exists()
