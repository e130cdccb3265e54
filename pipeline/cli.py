"""Every command of `pipeline`, in one table of functions; what each does is in `pipeline.commands`.

`docs/cli.md` is checked against it by a test. A bad setting is one line on stderr and exit code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from pipeline.contract.ports import PositionUnusable, Unavailable
from pipeline.settings import SettingError, Settings, load, misspelt
from pipeline.structured_logs import set_up_logs

BAD_SETTING: Final = 2
INTERRUPTED: Final = 130


class _Argument(click.Argument):
    """An argument whose help is shown; click's has none."""

    def __init__(self, names: Sequence[str], help: str, **members: Any) -> None:  # noqa: A002 - as an option's
        super().__init__(names, **members)
        self.help = help

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        return self.make_metavar(ctx), self.help


class _Command(click.Command):
    """A command that the list of all shows with its whole first paragraph; click cuts it."""

    def get_short_help_str(self, limit: int = 45) -> str:  # noqa: ARG002 - see above
        return (self.help or "").partition("\n\n")[0]


class _Group(click.Group):
    """Commands in the order of this file."""

    command_class = _Command

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - as click has it
        return list(self.commands)


@click.group(cls=_Group)
def app() -> None:
    """Downloaded media sessions: uploads in, start and close records with every metric out."""


_DATA_DIR: Final = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Directory of what is kept: the embedded log; on Kafka spools, the index's copy, ids of schemas.",
)
_HOST: Final = click.option("--host", help="Address to listen on.")
_PORT: Final = click.option("--port", type=int, help="Port to listen on; 0 picks a free one.")
_AS_JSON: Final = click.option("--json", "as_json", is_flag=True, help="JSON instead of tables.")


def main() -> None:
    """Run the command line; exit 2 with one line when an option or a setting is wrong."""
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], standalone_mode=False))
    except click.ClickException as error:
        sys.stderr.write(f"pipeline: {one_line(error.format_message())} (`--help` shows what there is)\n")
        sys.exit(BAD_SETTING)
    except click.Abort:  # Ctrl-C where no command waits for it
        sys.exit(INTERRUPTED)
    except (SettingError, Unavailable, PositionUnusable) as error:
        sys.stderr.write(f"pipeline: {one_line(str(error))}\n")
        sys.exit(BAD_SETTING)


def one_line(message: str) -> str:
    """Return a message that a library may have broken into lines as one."""
    return " ".join(message.split())


@app.command()
@_DATA_DIR
@_HOST
@_PORT
def run(data_dir: Path | None, host: str | None, port: int | None) -> int:
    """Serve the embedded default: HTTP ingest, log and worker in one process."""
    from pipeline.commands.run import Embedded

    return Embedded(_settings(data_dir=data_dir, ingest_host=host, ingest_port=port)).serve()


@app.command()
@_DATA_DIR
@_HOST
@_PORT
@click.option("--serve", is_flag=True, help="Go on serving until Ctrl-C.")
def demo(data_dir: Path | None, host: str | None, port: int | None, *, serve: bool) -> int:
    """Serve, send the sample uploads over HTTP, and show what came in and out."""
    from pipeline.commands.demo import demo as run_demo

    return run_demo(_settings(data_dir=data_dir, ingest_host=host, ingest_port=port), serve=serve)


@app.command()
@click.argument("file", cls=_Argument, help="A request body, or - for standard input.")
@click.option(
    "--path", default="/api/v1/downloaded", show_default=True, help="The API path that it would be sent to."
)
@click.option("--datastream", default="", help="The datastream it belongs to.")
@_AS_JSON
@click.option("--lines", is_flag=True, help="One body per line, one JSON object each.")
def explain(file: str, path: str, datastream: str, *, as_json: bool, lines: bool) -> int:
    """Show what the pipeline makes of a request body, without any log or broker."""
    from pipeline.commands.explain import explain as run_explain

    return run_explain(_settings(), file, path, datastream, as_json=as_json, lines=lines)


@app.command()
@click.argument("topic", cls=_Argument, help="A topic, for example media.sessions.")
@_DATA_DIR
@_AS_JSON
@click.option("--follow", is_flag=True, help="Wait for more records.")
def records(topic: str, data_dir: Path | None, *, as_json: bool, follow: bool) -> int:
    """Print the records of a topic, decoded from Avro."""
    from pipeline.commands.records import records as run_records

    return run_records(_settings(data_dir=data_dir), topic, as_json=as_json, follow=follow)


@app.command()
@_DATA_DIR
@_AS_JSON
def ledger(data_dir: Path | None, *, as_json: bool) -> int:
    """Print totals by outcome and whether they balance; exit 1 when they don't."""
    from pipeline.commands.ledger import ledger as run_ledger

    return run_ledger(_settings(data_dir=data_dir), as_json=as_json)


@app.command()
@_DATA_DIR
@_HOST
@_PORT
def ingest(data_dir: Path | None, host: str | None, port: int | None) -> None:
    """Serve the HTTP ingest on Kafka (needs PIPELINE_KAFKA_BOOTSTRAP)."""
    from pipeline.commands.ending import leave
    from pipeline.commands.ingest import ingest as run_ingest

    leave(run_ingest(_settings(data_dir=data_dir, ingest_host=host, ingest_port=port)))


@app.command()
@_DATA_DIR
def worker(data_dir: Path | None) -> None:
    """Carry uploads on Kafka through the stages, with Faust (needs PIPELINE_KAFKA_BOOTSTRAP)."""
    from pipeline.commands.ending import leave
    from pipeline.commands.worker import worker as run_worker

    leave(run_worker(_settings(data_dir=data_dir)))


@app.command()
@click.argument(
    "action",
    cls=_Argument,
    type=click.Choice(["apply", "diff", "migrate"]),
    help="apply, diff or migrate.",
)
@_DATA_DIR
@click.option("--to-prefix", help="For migrate: the prefix of the new topics.")
def topics(action: str, data_dir: Path | None, to_prefix: str | None) -> int:
    """Make Kafka's topics and the registry agree with the repository, show the differences, or migrate.

    `migrate` makes topics with PIPELINE_PARTITIONS partitions under another prefix and re-keys the dedupe
    index into them; see docs/kafka.md.
    """
    from pipeline.commands.topics import topics as run_topics

    return run_topics(_settings(data_dir=data_dir), action, to_prefix)


@app.command()
@click.argument(
    "action",
    cls=_Argument,
    type=click.Choice(["adopt", "rebuild"]),
    help="adopt: go on with a topic of uploads that was made anew; "
    "rebuild: make a lost index again from sessions and outcomes.",
)
@_DATA_DIR
def index(action: str, data_dir: Path | None) -> int:
    """Mend the dedupe index on Kafka when a worker says that it does not fit; stop all workers first."""
    from pipeline.commands.index import index as run_index

    return run_index(_settings(data_dir=data_dir), action)


def _settings(**options: Any) -> Settings:
    settings = load(**options)
    set_up_logs(settings)
    for name, meant in misspelt().items():
        sys.stderr.write(f"pipeline: {name} is no setting and is ignored; {meant} is one\n")
    return settings
