"""Requests made of the service's own description; `test_openapi.py` runs this file by itself."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.python import asgi
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from pipeline.ingest.openapi import openapi
from tests.ingest.test_door import Asked

# These take the bodies of other operations: a few of their own are enough.
ALIKE = ("/api/v1/sessions", "/ee/{hint}/va/v1/downloaded")
CONFIG = schemathesis.Config.from_dict(
    {"operations": [{"include-path": path, "phases": {"coverage": {"enabled": False}}} for path in ALIKE]}
)

described = schemathesis.openapi.from_dict(openapi(), config=CONFIG).exclude(path_regex="/health/ready")
described.app = Asked().app
CLIENT = asgi.get_client(described.app)
"""One for all requests: a client of its own for each takes as long as the request."""
CLIENT.trust_env = False


@described.parametrize()
@settings(
    max_examples=10,  # beside nearly 3,000 that cover the schemas, and bodies of our own elsewhere
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_generated_requests_get_described_answers_and_never_a_5xx(case: Any) -> None:
    answer = case.call(session=CLIENT)
    case.validate_response(
        answer, checks=[not_a_server_error, status_code_conformance, content_type_conformance]
    )
