"""The embedded home's ledger while the worker goes on."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from pipeline.contract.codec import Codec
from pipeline.contract.positions import position_maker
from pipeline.contract.topics import load_topics
from pipeline.log.log import Log
from pipeline.log.reader import open_reader
from tests.fakes import FakeSchemaIds
from tests.homes.meanwhile import check_each_ledger_balances
from tests.homes.uploading import make_pipeline


def test_the_ledger_balances_whatever_is_carried_while_it_is_read(tmp_path: Path) -> None:
    codec = Codec(FakeSchemaIds())
    log = Log(tmp_path, load_topics(), position_maker(codec))
    log.open()
    with closing(log), closing(open_reader(tmp_path)) as reader:
        check_each_ledger_balances(make_pipeline(log, codec), reader, carried=40)
