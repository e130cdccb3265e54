"""The page and the exit code say what the results say."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faults import __main__ as program
from faults import report
from faults.cases import CASES, ROLES, Load
from faults.run import Result

GOOD = Result(
    role="worker",
    fault="kill -9",
    load=Load.STEADY,
    sent=130,
    acknowledged=120,
    again=20,
    sessions=100,
    lost=0,
    duplicated=0,
    outage_s=2.5,
    recovery_s=7.5,
    took_s=20.0,
    seed="1",
    date="2026-11-24 20:00 UTC",
    commit="1234567",
    faults=(),
    notes=(),
)


@pytest.mark.parametrize(
    ("change", "code", "line"),
    [
        ({}, 0, "sessions 100, lost 0, duplicated 0"),
        ({"lost": 1, "sessions": 99}, 1, "sessions 99, lost 1, duplicated 0"),
        ({"duplicated": 1}, 1, "sessions 100, lost 0, duplicated 1"),
        ({"faults": ("the ledger does not balance",)}, 1, "sessions 100, lost 0, duplicated 0"),
    ],
)
def test_the_last_line_and_the_exit_code_of_a_run(
    change: dict[str, Any],
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(cases: list[Any], *_more: object, **_options: object) -> Iterator[Result]:
        yield from [GOOD._replace(**change)] + [GOOD._replace(sessions=0)] * (len(cases) - 1)

    monkeypatch.setattr(program, "run", run)
    monkeypatch.setattr(program, "why_not", lambda: None)
    assert program.main(["--short"]) == code
    assert capsys.readouterr().out.splitlines()[-1] == line


def test_a_run_that_was_stopped_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_arguments: object, **_options: object) -> Iterator[Result]:
        yield GOOD
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "run", run)
    monkeypatch.setattr(program, "why_not", lambda: None)
    assert program.main(["--short"]) == 1


def test_a_machine_without_kafka_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "why_not", lambda: "no Java")
    assert program.main(["--short"]) == 2
    assert "no Java" in capsys.readouterr().err


def test_the_page_shows_each_case_and_names_what_was_not_run() -> None:
    page = report.drawn([GOOD, GOOD._replace(fault="SIGTERM", lost=3)])
    assert "**sessions 200, lost 3, duplicated 0** in 2 cases" in page
    assert "| worker | kill -9 | steady load | 130 | 120 | 20 | 100 | 0 | 0 | 2.5 | 7.5 | good |" in page
    assert "| 0 | 3 | 2.5 | 7.5 | BAD: see the numbers |" in page
    assert "- broker: freeze, idle\n" in page
    assert "- worker: kill -9, steady load\n" not in page


def test_the_plot_is_an_image_with_a_bar_for_each_case() -> None:
    drawing = ET.fromstring(report.plot([GOOD, GOOD._replace(recovery_s=0.0)]))
    space = "{http://www.w3.org/2000/svg}"
    bars = [bar for bar in drawing.iter(f"{space}rect") if bar.get("height") == "12"]
    assert [float(bar.get("width", "")) for bar in bars] == [560.0, 0.0]


def test_parts_of_a_run_with_one_seed_are_put_together_in_the_order_of_the_cases(tmp_path: Path) -> None:
    kept = tmp_path / "kept" / "faults.json"
    broker = GOOD._replace(role="broker")
    assert report.save([broker], kept) == [broker]
    assert report.save([GOOD], kept) == [GOOD, broker]
    assert report.save([GOOD._replace(lost=1)], kept) == [GOOD._replace(lost=1), broker]
    other = GOOD._replace(seed="2")
    assert report.save([other], kept) == [other]


def test_the_short_run_has_each_fault_on_each_role_and_each_load() -> None:
    short = [case for case in CASES if case.in_short]
    roles, faults = ROLES[:3], {case.fault for case in CASES if case.role == "worker"}
    assert {(c.role, c.fault) for c in short} >= {(role, fault) for role in roles for fault in faults}
    assert {case.load for case in short} == set(Load)


def test_the_last_line_sums_up_all_cases() -> None:
    found = report.summed([GOOD, GOOD._replace(sessions=5, lost=2), GOOD._replace(sessions=0, duplicated=3)])
    assert found.line() == f"sessions {GOOD.sessions + 5}, lost 2, duplicated 3"


def test_the_full_run_is_the_whole_matrix() -> None:
    grid = {(case.role, case.fault, case.load) for case in CASES if case.role in ROLES[:3]}
    assert len(grid) == 3 * 3 * 3
    assert len(set(CASES)) == len(CASES)
