"""The docs say what the code says: lists, links, headings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.generate import PAGES
from pipeline import metrics, settings
from pipeline.ingest.app import LARGE_BYTES
from pipeline.session.datastream import Datastream, Rules
from pipeline.session.flags import FLAGS
from pipeline.stages.datastreams import OPTIONS, RULE_OPTIONS, parse_datastreams
from pipeline.stages.prepare import REASONS
from pipeline.wire.problems import MOST_ITEMS, MOST_PROBLEMS, PROBLEM_BYTES, RULES, TEXT_CHARACTERS
from pipeline.wire.responses import EDGE_ERRORS

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_a_drawn_page_is_what_the_code_gives(page: str) -> None:
    assert (ROOT / "docs" / page).read_text() == PAGES[page]()


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("settings.md", list(settings.names())),
        ("datastreams.md", [f"`{name}`" for name in (*OPTIONS, *RULE_OPTIONS)]),
        ("metrics.md", [metric.name for metric in metrics.METRICS]),
        ("flags.md", list(FLAGS)),
        ("errors.md", [*RULES, *EDGE_ERRORS, *REASONS]),
        (
            "cli.md",
            ["pipeline run", "pipeline demo", "pipeline explain", "pipeline records", "pipeline ledger"],
        ),
    ],
)
def test_every_name_of_a_table_is_documented(page: str, names: list[str]) -> None:
    text = (ROOT / "docs" / page).read_text()
    assert [name for name in names if name not in text] == []


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_the_flags_that_the_code_sets_are_the_documented_ones() -> None:
    sources = "".join(
        p.read_text()
        for p in (ROOT / "pipeline").rglob("*.py")
        if p.parent.name in {"session", "wire"} and p.name != "flags.py"
    )
    unused = [name for name in FLAGS if f'"{name}"' not in sources]
    assert unused == []


def test_the_bounds_of_the_front_door_are_the_documented_ones() -> None:
    text = (ROOT / "docs" / "ingest.md").read_text()
    bounds = {
        f"{MOST_ITEMS:,}, else 400",
        f"{MOST_PROBLEMS} problems, {PROBLEM_BYTES // 1024} KiB of text, {TEXT_CHARACTERS} characters",
        f"over {LARGE_BYTES // 1024} KiB",
    }
    assert {bound for bound in bounds if bound not in text} == set()


def test_every_option_of_a_datastream_is_in_its_table() -> None:
    assert {*OPTIONS} | {"id", "rules"} == {*Datastream._fields}
    assert {*RULE_OPTIONS} == {*Rules._fields}


def test_the_example_of_datastreams_is_one() -> None:
    text = (ROOT / "examples" / "datastreams.toml").read_text()
    films, partners = parse_datastreams(text, b"key").datastreams
    assert (films.id, films.rules.segment_step_min, partners.api_key) == ("films", 5, "change-me")
