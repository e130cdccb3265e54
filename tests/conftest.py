"""Fixtures that several rooms share: the real servers, started once per run for all its processes."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from deploy.fetching import why_not
from deploy.servers import REGISTRY_JAVA, Kafka, Registry
from tests.lender import Lender, LentKafka, LentRegistry, borrow

# The same examples in every run, on however slow a machine; `--hypothesis-profile=wandering` tries others.
settings.register_profile(
    "steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("wandering", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

REQUIRED = os.environ.get("PIPELINE_REQUIRE_KAFKA") == "1"
LENDER = pytest.StashKey[Lender]()
SERVERS = {
    "kafka": lambda running: running.enter_context(Kafka()).bootstrap,
    "registry": lambda running: running.enter_context(Registry()).url,
}


def pytest_configure(config: pytest.Config) -> None:
    """Lend servers to all processes of this run, when it is not itself one of several."""
    if REQUIRED and not hasattr(config, "workerinput"):
        config.stash[LENDER] = Lender(SERVERS)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process that pytest-xdist starts who lends."""
    if LENDER in node.config.stash:
        node.workerinput["lender"] = node.config.stash[LENDER].address


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop what was lent."""
    if LENDER in config.stash:
        config.stash[LENDER].close()


def _lender(config: pytest.Config) -> str:
    return str(
        config.workerinput["lender"] if hasattr(config, "workerinput") else config.stash[LENDER].address
    )


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
def kafka_can_run() -> None:
    """Skip where Apache Kafka can't run, or fail where it must."""
    _need(17)


@pytest.fixture(scope="session")
def registry_can_run() -> None:
    """Skip where Apicurio Registry can't run, or fail where it must."""
    _need(REGISTRY_JAVA)


@pytest.fixture(scope="session")
def kafka(kafka_can_run: None, request: pytest.FixtureRequest) -> LentKafka:
    """Return the Apache Kafka of this run."""
    return LentKafka(borrow(_lender(request.config), "kafka"))


@pytest.fixture(scope="session")
def registry(registry_can_run: None, request: pytest.FixtureRequest) -> LentRegistry:
    """Return the Apicurio Registry of this run."""
    return LentRegistry(borrow(_lender(request.config), "registry"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say once for each reason how many tests were skipped for it."""
    reasons = Counter(str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", ()))
    for reason, number in reasons.most_common():
        terminalreporter.write_line(f"{number} skipped: {reason.removeprefix('Skipped: ')}")
