"""The service's own description is valid, complete, and what the service does."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from openapi_spec_validator import validate
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from pipeline.ingest.openapi import openapi
from pipeline.stages import receive
from pipeline.wire.schemas import EVENT_TYPES
from tests.ingest.test_door import GOOD, Asked

DOOR = Asked()
described = schemathesis.openapi.from_dict(openapi()).exclude(path_regex="/health/ready")
described.app = DOOR.app


def test_the_document_is_valid_openapi() -> None:
    validate(openapi())


def test_it_is_served_with_a_page_that_shows_every_path() -> None:
    assert DOOR.request("GET", "/openapi.json").json() == openapi()
    page = DOOR.request("GET", "/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert [path for path in openapi()["paths"] if path not in page.text] == []
    assert "http" not in page.text.replace("application/http", ""), "nothing comes from elsewhere"


def test_every_event_type_is_described() -> None:
    assert set(EVENT_TYPES) <= set(openapi()["components"]["schemas"])


@pytest.mark.parametrize("path", [receive.DOWNLOADED, receive.SESSIONS, receive.EDGE])
def test_every_status_that_an_upload_may_get_is_described(path: str) -> None:
    assert {"400", "401", "408", "413", "415", "503"} <= set(openapi()["paths"][path]["post"]["responses"])


@described.parametrize()
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_generated_requests_get_described_answers_and_never_a_5xx(case: Any) -> None:
    answer = case.call()
    case.validate_response(
        answer, checks=[not_a_server_error, status_code_conformance, content_type_conformance]
    )


def test_the_good_sample_is_still_accepted() -> None:
    assert DOOR.post(GOOD).status_code == 201
