"""Every command of `pipeline`, in one table of functions; what each does is in `pipeline.commands`.

`docs/cli.md` is checked against it by a test. A bad setting is one line on stderr and exit code 2.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.exceptions import TyperException

from pipeline.contract.ports import PositionUnusable, Unavailable
from pipeline.settings import SettingError, Settings, load, misspelt
from pipeline.structured_logs import set_up_logs

app = typer.Typer(
    name="pipeline",
    help="Downloaded media sessions: uploads in, start and close records with every metric out.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Directory of the embedded log.")]
Host = Annotated[str | None, typer.Option("--host", help="Address to listen on.")]
Port = Annotated[int | None, typer.Option("--port", help="Port to listen on; 0 picks a free one.")]
BAD_SETTING: Final = 2

AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of tables.")]


def main() -> None:
    """Run the command line; exit 2 with one line when an option or a setting is wrong."""
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], standalone_mode=False))
    except TyperException as error:
        sys.stderr.write(f"pipeline: {one_line(error.format_message())} (`--help` shows what there is)\n")
        sys.exit(BAD_SETTING)
    except (SettingError, Unavailable, PositionUnusable) as error:
        sys.stderr.write(f"pipeline: {one_line(str(error))}\n")
        sys.exit(BAD_SETTING)


def one_line(message: str) -> str:
    """Return a message that a library may have broken into lines as one."""
    return " ".join(message.split())


@app.command()
def run(data_dir: DataDir = None, host: Host = None, port: Port = None) -> None:
    """Serve the embedded default: HTTP ingest, log and worker in one process."""
    from pipeline.commands.run import Embedded

    settings = _settings(data_dir=data_dir, ingest_host=host, ingest_port=port)
    raise typer.Exit(Embedded(settings).serve())


@app.command()
def demo(
    data_dir: DataDir = None,
    host: Host = None,
    port: Port = None,
    serve: Annotated[bool, typer.Option("--serve", help="Go on serving until Ctrl-C.")] = False,
) -> None:
    """Serve, send the sample uploads over HTTP, and show what came in and out."""
    from pipeline.commands.demo import demo as run_demo

    raise typer.Exit(run_demo(_settings(data_dir=data_dir, ingest_host=host, ingest_port=port), serve=serve))


@app.command()
def explain(
    file: Annotated[str, typer.Argument(help="A request body, or - for standard input.")],
    path: Annotated[str, typer.Option("--path", help="The API path that it would be sent to.")] = (
        "/api/v1/downloaded"
    ),
    datastream: Annotated[str, typer.Option("--datastream", help="The datastream it belongs to.")] = "",
    as_json: AsJson = False,
    lines: Annotated[bool, typer.Option("--lines", help="One body per line, one JSON object each.")] = False,
) -> None:
    """Show what the pipeline makes of a request body, without any log or broker."""
    from pipeline.commands.explain import explain as run_explain

    raise typer.Exit(run_explain(_settings(), file, path, datastream, as_json=as_json, lines=lines))


@app.command()
def records(
    topic: Annotated[str, typer.Argument(help="A topic, for example media.sessions.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for more records.")] = False,
) -> None:
    """Print the records of a topic, decoded from Avro."""
    from pipeline.commands.records import records as run_records

    raise typer.Exit(run_records(_settings(data_dir=data_dir), topic, as_json=as_json, follow=follow))


@app.command()
def ledger(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Print totals by outcome and whether they balance; exit 1 when they don't."""
    from pipeline.commands.ledger import ledger as run_ledger

    raise typer.Exit(run_ledger(_settings(data_dir=data_dir), as_json=as_json))


@app.command()
def ingest(data_dir: DataDir = None, host: Host = None, port: Port = None) -> None:
    """Serve the HTTP ingest on Kafka (needs PIPELINE_KAFKA_BOOTSTRAP)."""
    from pipeline.commands.ending import leave
    from pipeline.commands.ingest import ingest as run_ingest

    leave(run_ingest(_settings(data_dir=data_dir, ingest_host=host, ingest_port=port)))


@app.command()
def worker(data_dir: DataDir = None) -> None:
    """Carry uploads on Kafka through the stages, with Faust (needs PIPELINE_KAFKA_BOOTSTRAP)."""
    from pipeline.commands.ending import leave
    from pipeline.commands.worker import worker as run_worker

    leave(run_worker(_settings(data_dir=data_dir)))


class TopicsAction(StrEnum):
    """What `pipeline topics` does."""

    APPLY = "apply"
    DIFF = "diff"
    MIGRATE = "migrate"


@app.command()
def topics(
    action: Annotated[TopicsAction, typer.Argument(help="apply, diff or migrate.")],
    data_dir: DataDir = None,
    to_prefix: Annotated[
        str | None, typer.Option("--to-prefix", help="For migrate: the prefix of the new topics.")
    ] = None,
) -> None:
    """Make Kafka's topics and the registry agree with the repository, show the differences, or migrate.

    `migrate` makes topics with PIPELINE_PARTITIONS partitions under another prefix and re-keys the dedupe
    index into them; see docs/kafka.md.
    """
    from pipeline.commands.topics import topics as run_topics

    raise typer.Exit(run_topics(_settings(data_dir=data_dir), action.value, to_prefix))


class IndexAction(StrEnum):
    """What `pipeline index` does."""

    ADOPT = "adopt"
    REBUILD = "rebuild"


@app.command()
def index(
    action: Annotated[
        IndexAction,
        typer.Argument(
            help="adopt: go on with a topic of uploads that was made anew; "
            "rebuild: make a lost index again from sessions and outcomes."
        ),
    ],
    data_dir: DataDir = None,
) -> None:
    """Mend the dedupe index on Kafka when a worker says that it does not fit; stop all workers first."""
    from pipeline.commands.index import index as run_index

    raise typer.Exit(run_index(_settings(data_dir=data_dir), action.value))


def _settings(**options: Any) -> Settings:
    settings = load(**options)
    set_up_logs(settings)
    for name, meant in misspelt().items():
        sys.stderr.write(f"pipeline: {name} is no setting and is ignored; {meant} is one\n")
    return settings
