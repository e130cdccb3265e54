"""The homes that the stories run on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.contract.codec import Codec
from pipeline.contract.positions import position_maker
from pipeline.contract.topics import load_topics
from pipeline.log.log import Log
from tests.fakes import FakeLog, FakeSchemaIds
from tests.homes.uploading import Pipeline, make_pipeline


@pytest.fixture(params=["fake", "embedded"])
def pipeline(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pipeline]:
    """Yield the whole pipeline on each home."""
    codec = Codec(FakeSchemaIds())
    if request.param == "fake":
        yield make_pipeline(FakeLog(position_maker(codec)), codec)
        return
    log = Log(tmp_path, load_topics(), position_maker(codec))
    log.open()
    yield make_pipeline(log, codec)
    log.close()
