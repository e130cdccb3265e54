"""`pipeline topics`: make the broker and the registry agree with the repository, or show where they don't."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.table import Table

from pipeline.commands.home import http_registry, make_data_dir, require_kafka
from pipeline.contract.codec import schema_text, subject_of
from pipeline.contract.topics import load_schema, load_topics
from pipeline.kafka import admin
from pipeline.kafka.registry import HttpRegistry
from pipeline.settings import Settings


def topics(settings: Settings, action: str) -> int:
    """Apply or show the differences; return 0, or 1 when `diff` found any."""
    require_kafka(settings)
    make_data_dir(settings)
    wanted = load_topics()
    registry = http_registry(settings) if settings.registry_url else None
    if action == "diff":
        found = [*admin.diff(settings, wanted), *_unregistered(settings, registry, wanted)]
        Console().print(_table(found) if found else "The broker agrees with topics.toml.")
        return 1 if found else 0
    changed = admin.apply(settings, wanted)
    Console().print(_table(changed) if changed else "The broker agrees with topics.toml.")
    if registry is not None:
        for name in wanted:
            subject = settings.kafka_topic_prefix + subject_of(name)
            registry.register(subject, schema_text(load_schema(name)))
            registry.require_compatible(subject)
        Console().print(f"{len(wanted)} schemas are registered at {settings.registry_url}.")
    return 0


def _unregistered(
    settings: Settings, registry: HttpRegistry | None, topics: Iterable[str]
) -> Iterator[admin.Difference]:
    for name in topics if registry is not None else ():
        subject = settings.kafka_topic_prefix + subject_of(name)
        if registry is not None and not registry.is_registered(subject, schema_text(load_schema(name))):
            yield admin.Difference(name, "schema", load_topics()[name].schema_file, "not registered")


def _table(differences: Sequence[admin.Difference]) -> Table:
    table = Table(title="Differences", title_justify="left")
    for column in ("topic", "what", "wanted", "found"):
        table.add_column(column, overflow="fold")
    for d in differences:
        table.add_row(d.topic, d.what, d.wanted, "missing" if d.found is None else d.found)
    return table
