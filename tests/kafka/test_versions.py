"""Two versions at once, as in a rolling upgrade: a newer one that added optional fields, and this one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from pipeline.settings import Settings
from pipeline.wire.encode import to_media_collection
from tests.commands.serving import ROOT
from tests.kafka.checkout import copied, with_field, with_text
from tests.kafka.home import delete_topics, settings_of
from tests.kafka.running import LONG_SESSION_S, Ingest, Worker, command, copies_of, rows, settled
from tests.lender import LentKafka, LentRegistry
from tests.stories import story

pytestmark = [pytest.mark.kafka, pytest.mark.registry, pytest.mark.slow]


def newer(to: Path) -> Path:
    """Return a checkout whose ingest fills a new field of uploads, and whose worker passes it on."""
    checkout = copied(to)
    with_field(checkout, "media_uploads.v1.avsc", "campaign")
    with_field(checkout, "media_outcomes.v1.avsc", "note")
    receive, derive = "pipeline/stages/receive.py", "pipeline/stages/derive.py"
    with_text(checkout, receive, "        body=body,\n", '        body=body,\n        campaign="spring",\n')
    with_text(
        checkout, derive, "day_changed=day_key,\n", "day_changed=day_key,\n        note=upload.campaign,\n"
    )
    return checkout


def send(settings: Settings, root: Path, name: str) -> None:
    """Send one session through an ingest of this checkout."""
    body = to_media_collection(story("0 start, 0 play, 10 end", name=name))
    with Ingest(settings, root=root) as ingest, ingest.client() as client:
        headers = {"content-type": "application/json"}
        assert client.post("/api/v1/downloaded", content=body, headers=headers).status_code == 201
        ingest.await_forwarded()
        assert ingest.stop() == 0


def test_an_optional_field_is_added_while_both_versions_run(
    kafka: LentKafka, registry: LentRegistry, tmp_path: Path
) -> None:
    later = newer(tmp_path / "newer")
    settings = settings_of(kafka, tmp_path / "data", registry_url=registry.url)
    others = dataclasses.replace(settings, data_dir=tmp_path / "data-of-newer")
    try:
        assert command(settings, "topics", "apply").returncode == 0
        with Worker(settings, tmp_path / "worker.log", worker_session_timeout_s=LONG_SESSION_S) as worker:
            worker.await_assignment()
            send(settings, ROOT, "old-old")
            done = command(others, "topics", "apply", root=later)
            assert done.returncode == 0, done.stderr.decode()
            send(others, later, "new-old")
            assert settled(settings)["accepted"] == 2
            assert worker.stop() == 0
        with Worker(others, tmp_path / "newer.log", later, worker_session_timeout_s=LONG_SESSION_S) as worker:
            worker.await_assignment()
            send(settings, ROOT, "old-new")
            send(others, later, "new-new")
            ledger = settled(others, root=later)
        assert ledger["balances"], ledger
        copies = copies_of(settings)
        redelivered = copies.total() - len(copies)
        assert (ledger["accepted"], ledger["rejected"], ledger["redelivered"]) == (4, 0, redelivered)
        assert settled(settings)["balances"], "this version reads what the newer one wrote"
        assert campaigns(others, later) == {
            "old-old": (None, None),
            "new-old": ("spring", None),
            "old-new": (None, None),
            "new-new": ("spring", "spring"),
        }
        assert not any("campaign" in row for row in rows(settings, "media.uploads"))
    finally:
        delete_topics(settings)


def campaigns(settings: Settings, root: Path) -> dict[str, tuple[str | None, str | None]]:
    """Return the new fields of upload and outcome by the name of the film."""
    notes = {row["upload_id"]: row["note"] for row in rows(settings, "media.outcomes", root)}
    return {
        json.loads(row["body"])[0]["params"]["media.id"]: (row["campaign"], notes[row["upload_id"]])
        for row in rows(settings, "media.uploads", root)
    }


def test_a_version_that_breaks_with_a_released_schema_does_not_start(
    kafka: LentKafka, tmp_path: Path
) -> None:
    broken = copied(tmp_path / "broken")
    with_text(
        broken,
        "schemas/media_days_changed.v1.avsc",
        '"name": "viewing_day"',
        '"name": "day_of_viewing"',
    )
    settings = settings_of(kafka, tmp_path / "data")
    try:
        assert command(settings, "topics", "apply").returncode == 0
        for arguments in (("worker",), ("ingest", "--port", "0")):
            done = command(settings, *arguments, root=broken)
            assert done.returncode == 2
            assert b"schemas/media_days_changed.v1.avsc can't read" in done.stderr
            assert done.stderr.count(b"\n") == 1
    finally:
        delete_topics(settings)
