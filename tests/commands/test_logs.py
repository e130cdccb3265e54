"""Log lines: JSON or console, with places, and never what a device sent."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator

import pytest
import structlog

from pipeline import topology
from pipeline.contract.codec import Codec
from pipeline.contract.positions import position_maker
from pipeline.metrics import Meters
from pipeline.settings import SettingError, load
from pipeline.structured_logs import is_json, set_up_logs
from pipeline.topology import UPLOADS
from pipeline.wire.encode import to_media_collection
from tests.fakes import FakeLog, FakeSchemaIds
from tests.homes.uploading import make_pipeline
from tests.stories import story

BODY = to_media_collection(story("0 start, 0 play, 10 end"))
SECRET = "mcid-of-a-person"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    """Yield what is logged; afterwards logging is as it was."""
    handlers, level = logging.root.handlers[:], logging.root.level
    stream = io.StringIO()
    set_up_logs(load({}), stream)
    yield stream
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    logging.root.handlers, logging.root.level = handlers, level


def lines(out: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_lines_are_json_away_from_a_terminal_and_for_people_on_one() -> None:
    auto = load({})
    assert is_json(auto, io.StringIO())
    assert not is_json(auto, Terminal())
    assert is_json(load({}, log_format="json"), Terminal())
    assert not is_json(load({}, log_format="console"), io.StringIO())
    with pytest.raises(SettingError, match="PIPELINE_LOG_FORMAT must be auto, json or console"):
        is_json(load({}, log_format="xml"), Terminal())
    with pytest.raises(SettingError, match="PIPELINE_LOG_LEVEL"):
        set_up_logs(load({}, log_level="loud"), io.StringIO())


def test_what_libraries_warn_of_has_the_same_form(out: io.StringIO) -> None:
    logging.getLogger("aiokafka").warning("broker %s is away", 1)
    logging.getLogger("aiokafka").info("not shown")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("old way", DeprecationWarning, stacklevel=1)
    line, warned = lines(out)
    assert (line["event"], line["level"], line["logger"]) == ("broker 1 is away", "warning", "aiokafka")
    assert (warned["logger"], "old way" in str(warned["event"])) == ("py.warnings", True)


def test_a_fault_of_ours_is_logged_with_its_place_and_without_what_was_sent(
    out: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_arguments: object) -> None:
        raise ValueError(f"bad visitor {SECRET}")

    monkeypatch.setattr(topology, "derive", fails)
    codec = Codec(FakeSchemaIds())
    home = FakeLog(position_maker(codec))
    pipeline = make_pipeline(home, codec)
    pipeline.send(BODY)
    pipeline.carry()
    (stored,) = [r for p in range(24) for r in home.read(UPLOADS, p, 0, 9)]
    (line,) = lines(out)
    assert line["event"] == "internal_error"
    assert (line["level"], line["logger"], line["error"]) == ("error", "pipeline.worker", "ValueError")
    assert (line["topic"], line["partition"], line["offset"]) == (UPLOADS, stored.partition, stored.offset)
    assert len(str(line["session_id"])) == 64
    assert SECRET not in out.getvalue()
    (letter,) = pipeline.values("media.uploads.dlq")
    assert SECRET in letter["fault"], "the dead letter keeps what the log leaves out"


def test_a_refused_upload_is_logged_with_its_reason_and_without_its_body(out: io.StringIO) -> None:
    codec = Codec(FakeSchemaIds())
    pipeline = make_pipeline(FakeLog(position_maker(codec)), codec)
    pipeline.send(b'{"playerTime": "%s"}' % SECRET.encode())
    pipeline.carry()
    (line,) = lines(out)
    assert (line["event"], line["level"], line["reason"]) == ("dead_letter", "info", "invalid")
    assert line["offset"] == 0
    assert SECRET not in out.getvalue()


def test_worker_metrics_tell_records_lateness_and_dead_letters() -> None:
    codec = Codec(FakeSchemaIds())
    meters = Meters()
    pipeline = make_pipeline(FakeLog(position_maker(codec)), codec, meters=meters)
    for body in (BODY, BODY, b"{}"):
        pipeline.send(body)
    pipeline.carry()
    text = meters.text().decode()
    for line in (
        "pipeline_records_read_total 3.0",
        'pipeline_records_written_total{topic="media.sessions"} 1.0',
        'pipeline_records_written_total{topic="media.outcomes"} 3.0',
        'pipeline_outcomes_total{outcome="duplicate"} 1.0',
        'pipeline_dead_letters_total{reason="invalid"} 1.0',
        "pipeline_lateness_seconds_count 1.0",
        'pipeline_lateness_seconds_bucket{le="3600.0"} 0.0',
    ):
        assert line in text, line
    assert "pipeline_transaction_seconds_count" in text
