"""`pipeline index`: mend the dedupe index on Kafka."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pipeline.commands.home import kafka_codec, require_kafka
from pipeline.contract.topics import load_topics
from pipeline.kafka import admin, mend
from pipeline.settings import Settings


def index(settings: Settings, action: str) -> int:
    """Adopt the present topic of uploads, or rebuild a lost index; return the exit code."""
    require_kafka(settings)
    topics = load_topics(settings.partitions)
    admin.require_topics(settings, topics)
    codec = kafka_codec(settings)
    if action == "adopt":
        starts = mend.adopt(settings, codec, topics)
        Console().print(
            f"{len(starts)} partitions go on at the first uploads that are there; what is known stays known."
        )
        return 0
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.completed:,.0f} entries"),
        TimeElapsedColumn(),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as progress:
        task = progress.add_task("Rebuilding the index", total=None)
        now_ms = time.time_ns() // 1_000_000
        entries = mend.rebuild(settings, codec, topics, now_ms, lambda more: progress.advance(task, more))
    Console().print(
        f"{entries:,} entries were made again; uploads that are still there are read again, and known."
    )
    return 0
