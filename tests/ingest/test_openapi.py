"""The service's own description is valid, complete, and what the service does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from pipeline.ingest.openapi import openapi
from pipeline.stages import receive
from pipeline.wire.schemas import EVENT_TYPES
from tests.commands.serving import ROOT
from tests.ingest.test_door import GOOD, Asked

pytestmark = pytest.mark.slow

DOOR = Asked()
GENERATED: Final = Path(__file__).with_name("generated_requests.py")
METHODS: Final = {"get", "post", "put", "delete"}


def test_the_document_is_valid_openapi() -> None:
    from openapi_spec_validator import validate  # slow to import, and each test process imports this file

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


@pytest.mark.timeout(1_200)
def test_generated_requests_get_described_answers_and_never_a_5xx() -> None:
    # They are made when the tests are collected, which each of several test processes does for itself.
    plugins = ("-p", "no:xdist", "-p", "schemathesis", "--timeout=0")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, str(GENERATED)],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},  # requests looks through all variables for proxies, each time
        capture_output=True,
        text=True,
        timeout=1_000,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5_000:]
    operations = [method for path in openapi()["paths"].values() for method in path if method in METHODS]
    assert f"{len(operations) - 1} passed" in done.stdout, "all but /health/ready"


def test_the_good_sample_is_still_accepted() -> None:
    assert DOOR.post(GOOD).status_code == 201
