"""`pipeline topics`: make the broker and the registry agree with the repository, show where they don't,
or migrate to other numbers of partitions."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

from pipeline.commands.home import http_registry, kafka_codec, make_data_dir, require_kafka
from pipeline.contract.codec import schema_text, subject_of
from pipeline.contract.topics import Topic, load_schema, load_topics
from pipeline.kafka import admin
from pipeline.kafka.migration import Migrated, NotVerified
from pipeline.kafka.migration import migrate as migrate_index
from pipeline.settings import SettingError, Settings

if TYPE_CHECKING:
    from pipeline.kafka.registry import HttpRegistry

_PREFIX: Final = re.compile(r"[a-zA-Z0-9._-]{0,100}")


def topics(settings: Settings, action: str, to_prefix: str | None = None) -> int:
    """Apply, show the differences or migrate; return 0, or 1 when `diff` found any."""
    require_kafka(settings)
    make_data_dir(settings)
    wanted = load_topics(settings.partitions)
    if action == "migrate":
        return migrate(settings, to_prefix, wanted, Console())
    if to_prefix is not None:
        raise SettingError(f"--to-prefix belongs to `pipeline topics migrate`, not to {action}")
    registry = http_registry(settings) if settings.registry_url else None
    if action == "diff":
        found = [*admin.diff(settings, wanted), *_unregistered(settings, registry, wanted)]
        Console().print(_table(found) if found else "The broker agrees with topics.toml.")
        return 1 if found else 0
    _apply(settings, wanted, Console())
    return 0


def migrate(settings: Settings, to_prefix: str | None, wanted: Mapping[str, Topic], console: Console) -> int:
    """Make new topics under another prefix and re-key the index into them.

    Return 0 when the new index is verified, 1 when it is not; raise `SettingError` when it may not begin.
    """
    target = dataclasses.replace(settings, kafka_topic_prefix=_checked(settings, to_prefix))
    admin.require_no_workers(settings)
    _apply(target, wanted, console)
    try:
        with console.status("migrating") as status:
            done = migrate_index(settings, target, kafka_codec(target), status.update)
    except NotVerified as error:
        console.print(f"[bold red]Not verified[/]: {error}. The old topics are untouched; keep using them.")
        return 1
    admin.require_no_workers(settings)
    console.print(_migrated_table(settings, target, done))
    console.print(
        f"Next: set PIPELINE_KAFKA_TOPIC_PREFIX={target.kafka_topic_prefix} for ingests, workers, commands "
        "and consumers, and start them. Delete the old topics once their consumers have read them to the end."
    )
    return 0


def _checked(settings: Settings, to_prefix: str | None) -> str:
    if to_prefix is None:
        raise SettingError("`pipeline topics migrate` needs --to-prefix, the prefix of the new topics")
    if not _PREFIX.fullmatch(to_prefix):
        raise SettingError(f"--to-prefix {to_prefix!r}: letters, digits, '.', '_' and '-', at most 100")
    if to_prefix == settings.kafka_topic_prefix:
        raise SettingError(
            f"--to-prefix {to_prefix!r} is PIPELINE_KAFKA_TOPIC_PREFIX already: the new topics need another"
        )
    return to_prefix


def _apply(settings: Settings, wanted: Mapping[str, Topic], console: Console) -> None:
    changed = admin.apply(settings, wanted)
    console.print(_table(changed) if changed else "The broker agrees with topics.toml.")
    if settings.registry_url:
        registry = http_registry(settings)
        for name in wanted:
            subject = settings.kafka_topic_prefix + subject_of(name)
            registry.register(subject, schema_text(load_schema(name)))
            registry.require_compatible(subject)
        console.print(f"{len(wanted)} schemas are registered at {settings.registry_url}.")


def _unregistered(
    settings: Settings, registry: HttpRegistry | None, topics: Mapping[str, Topic]
) -> Iterator[admin.Difference]:
    if registry is None:
        return
    for name, topic in topics.items():
        subject = settings.kafka_topic_prefix + subject_of(name)
        if not registry.is_registered(subject, schema_text(load_schema(name))):
            yield admin.Difference(name, "schema", topic.schema_file, "not registered")


def _table(differences: Sequence[admin.Difference]) -> Table:
    table = Table(title="Differences", title_justify="left")
    for column in ("topic", "what", "wanted", "found"):
        table.add_column(column, overflow="fold")
    for d in differences:
        table.add_row(d.topic, d.what, d.wanted, "missing" if d.found is None else d.found)
    return table


def _migrated_table(settings: Settings, target: Settings, done: Migrated) -> Table:
    table = Table(title="The index is migrated, and verified", title_justify="left")
    for column in ("", "from", "to"):
        table.add_column(column)
    table.add_row("prefix", repr(settings.kafka_topic_prefix), repr(target.kafka_topic_prefix))
    table.add_row("partitions", str(done.partitions_before), str(done.partitions))
    for kind in ("session", "upload"):
        number = str(done.kinds.get(kind, 0))
        table.add_row(f"entries of kind {kind}", number, number)
    table.add_row("records written now", "", str(done.written))
    return table
