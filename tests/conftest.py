"""Fixtures that several rooms share: the real servers, started once per run."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from deploy.servers import REGISTRY_JAVA, Kafka, Registry, why_not

# The same examples in every run, on however slow a machine; `--hypothesis-profile=wandering` tries others.
settings.register_profile(
    "steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("wandering", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

REQUIRED = os.environ.get("PIPELINE_REQUIRE_KAFKA") == "1"


def _need(java: int) -> None:
    reason = why_not(java)
    if reason and REQUIRED:
        pytest.fail(f"PIPELINE_REQUIRE_KAFKA=1, but {reason}")
    if reason:
        pytest.skip(reason)
    if not REQUIRED:
        pytest.skip("tests on the real servers run with PIPELINE_REQUIRE_KAFKA=1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no process of several is left alone with it at the end."""
    items.sort(
        key=lambda item: (item.get_closest_marker("slow") is None, item.get_closest_marker("kafka") is None)
    )


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    """Yield a running Apache Kafka."""
    _need(17)
    with Kafka() as server:
        yield server


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    """Yield a running Apicurio Registry."""
    _need(REGISTRY_JAVA)
    with Registry() as server:
        yield server


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say once for each reason how many tests were skipped for it."""
    reasons = Counter(str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", ()))
    for reason, number in reasons.most_common():
        terminalreporter.write_line(f"{number} skipped: {reason.removeprefix('Skipped: ')}")
