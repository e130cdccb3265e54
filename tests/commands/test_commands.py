"""The commands as a person uses them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from pipeline.commands.demo import TRIES, delivered
from pipeline.contract.topics import load_topics
from pipeline.device.examples import load_examples
from pipeline.log.tables import OFFSET_BITS
from tests.commands.serving import PIPELINE, ROOT, ledger, refused, rows, run, run_here, served, settled
from tests.stories import story

EXAMPLES = ROOT / "examples"


class Ran(NamedTuple):
    """A demo that has run."""

    data_dir: Path
    code: int
    shown: str
    errors: str


def run_demo(data_dir: Path, **environ: str) -> Ran:
    done = run("demo", "--data-dir", str(data_dir), "--port", "0", environ=environ)
    return Ran(data_dir, done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Return a demo that has run on an empty directory."""
    return run_demo(tmp_path_factory.mktemp("demo"), COLUMNS="160")


@pytest.fixture(scope="module")
def demo(first: Ran) -> Path:
    """Return the data directory of a demo that has run."""
    assert first.code == 0, first.shown + first.errors
    return first.data_dir


@pytest.fixture(scope="module")
def again(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Return a demo that has run again on the data of one, in 80 columns, with a Kafka set that is away."""
    data_dir = tmp_path_factory.mktemp("again") / "data"
    shutil.copytree(demo, data_dir)
    return run_demo(data_dir, COLUMNS="80", PIPELINE_KAFKA_BOOTSTRAP="127.0.0.1:1")


def test_the_demo_shows_what_came_in_and_out_and_balances(first: Ran) -> None:
    assert first.code == 0
    for title in ("What came in", "What came out: 5 sessions", "Ledger", "checks balance"):
        assert title in first.shown
    assert "1529997923" in first.shown


def test_the_demo_is_readable_in_80_columns(again: Ran) -> None:
    for whole in ("1529997923", "2018-06-26", "07:25:23", "content time", "lateness", "redelivered"):
        assert whole in again.shown
    assert max(map(len, again.shown.splitlines())) <= 80


def test_the_demo_reads_the_embedded_log_whatever_kafka_is_set(again: Ran) -> None:
    assert again.code == 0, again.errors
    assert "kafka_is_not_used" not in again.errors


def test_run_says_that_the_kafka_that_is_set_is_not_used(tmp_path: Path) -> None:
    with served(tmp_path, PIPELINE_KAFKA_BOOTSTRAP="127.0.0.1:1") as service:
        warnings = [line for line in service.said if "kafka_is_not_used" in line]
    assert len(warnings) == 1
    assert "pipeline ingest" in warnings[0]


def test_a_variable_that_is_nearly_a_setting_is_told_and_others_are_not(tmp_path: Path) -> None:
    of_kubernetes = {"PIPELINE_SERVICE_PORT": "8080", "PIPELINE_INGEST_PORT_8080_TCP": "tcp://10.0.0.1:8080"}
    environ = {"PIPELINE_KAFKA_BOOTSRAP": "127.0.0.1:1", **of_kubernetes}
    said = run_here("ledger", "--data-dir", str(tmp_path), environ=environ).stderr.decode()
    assert "PIPELINE_KAFKA_BOOTSRAP is no setting and is ignored; PIPELINE_KAFKA_BOOTSTRAP is one" in said
    assert said.count("is no setting") == 1


def test_the_demo_fails_when_the_ledger_does_not_balance(demo: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    shutil.copytree(demo, data_dir)
    connection = sqlite3.connect(data_dir / "log.sqlite")
    connection.execute("DELETE FROM records WHERE id = ?", (ids_of(connection, "media.events")[0],))
    connection.commit()
    connection.close()
    ran = run_demo(data_dir)
    assert ran.code == 1
    assert "Does not balance" in ran.shown


def test_the_demo_run_again_on_its_data_counts_nothing_twice(again: Ran) -> None:
    found = ledger(again.data_dir)
    assert (found["received"], found["accepted"], found["duplicate"], found["rejected"]) == (12, 5, 5, 2)


def test_records_are_printed_with_key_partition_offset_and_value(demo: Path) -> None:
    sessions = rows("records", "media.sessions", "--json", "--data-dir", str(demo))
    assert len(sessions) == 5
    for row in sessions:
        assert row["key"] == row["value"]["session_id"]
        assert {"partition", "offset"} <= set(row)
    outcomes = rows("records", "media.outcomes", "--json", "--data-dir", str(demo))
    assert sorted(row["value"]["outcome"] for row in outcomes) == ["accepted"] * 5 + ["rejected"]


def test_the_samples_expected_numbers_come_out(demo: Path) -> None:
    sessions = rows("records", "media.sessions", "--json", "--data-dir", str(demo))
    by_start = {row["value"]["time_ledger"]["started_at_ms"]: row["value"] for row in sessions}
    film = by_start[1529997923478]
    assert film["metrics"]["content_time_spent_s"] == 32
    assert film["metrics"]["is_completed"] is True


def test_the_ledger_balances_and_says_by_what(demo: Path) -> None:
    found = ledger(demo)
    assert found["balances"] is True
    assert (found["received"], found["accepted"], found["rejected"], found["pending"]) == (6, 5, 1, 0)
    assert found["reasons"] == {"invalid": 1}
    assert sum(hour.get("received", 0) for hour in found["hours"]) == 6


TOPICS = list(load_topics())
MAY_COME_AGAIN = {
    "media.uploads": "an upload met again is a redelivery, and pending until the worker has seen it",
    "media.days.changed": "a day may be announced as often as it changes",
    "media.index": "it says what is known, by key; a rebuild writes every entry again",
}


@pytest.mark.parametrize("topic", TOPICS)
def test_removing_any_one_record_turns_the_ledger_red(demo: Path, tmp_path: Path, topic: str) -> None:
    data_dir = tmp_path / "data"
    shutil.copytree(demo, data_dir)
    connection = sqlite3.connect(data_dir / "log.sqlite")
    for row_id in ids_of(connection, topic):
        row = connection.execute("SELECT * FROM records WHERE id = ?", (row_id,)).fetchone()
        connection.execute("DELETE FROM records WHERE id = ?", (row_id,))
        connection.commit()
        assert not _balances(data_dir), f"{topic}: record {row_id} is missed by nobody"
        connection.execute("INSERT INTO records VALUES (?, ?, ?, ?, ?)", row)
        connection.commit()
    assert _balances(data_dir)
    connection.close()


@pytest.mark.parametrize("topic", TOPICS)
def test_adding_any_one_record_turns_the_ledger_red(demo: Path, tmp_path: Path, topic: str) -> None:
    data_dir = tmp_path / "data"
    shutil.copytree(demo, data_dir)
    connection = sqlite3.connect(data_dir / "log.sqlite")
    for row_id in ids_of(connection, topic):
        number, offset = row_id >> OFFSET_BITS, end_offset_of(connection, row_id)
        _, *rest = connection.execute("SELECT * FROM records WHERE id = ?", (row_id,)).fetchone()
        if rest[0].startswith(b"position:"):  # a position said again says nothing new
            continue
        copied = number << OFFSET_BITS | offset
        connection.execute("INSERT INTO records VALUES (?, ?, ?, ?, ?)", (copied, *rest))
        connection.execute("UPDATE partitions SET next_offset = ? WHERE id = ?", (offset + 1, number))
        connection.commit()
        if topic in MAY_COME_AGAIN:
            assert _balances(data_dir), f"{topic}: record {row_id} may come again"
        else:
            assert not _balances(data_dir), f"{topic}: a second record {row_id} is seen by nobody"
        connection.execute("DELETE FROM records WHERE id = ?", (copied,))
        connection.execute("UPDATE partitions SET next_offset = ? WHERE id = ?", (offset, number))
        connection.commit()
    assert _balances(data_dir)
    connection.close()


def ids_of(connection: sqlite3.Connection, topic: str) -> list[int]:
    """Return the row ids of a topic's records, at least one."""
    found = connection.execute(
        "SELECT r.id FROM records r JOIN partitions p ON p.id = r.id >> ? WHERE p.topic = ?",
        (OFFSET_BITS, topic),
    ).fetchall()
    assert found
    return [row[0] for row in found]


def end_offset_of(connection: sqlite3.Connection, row_id: int) -> int:
    """Return the next offset of the partition that this record is in."""
    found: int = connection.execute(
        "SELECT next_offset FROM partitions WHERE id = ?", (row_id >> OFFSET_BITS,)
    ).fetchone()[0]
    return found


def _balances(data_dir: Path) -> bool:
    from pipeline.commands.home import opened_home
    from pipeline.commands.ledger import read_ledger
    from pipeline.settings import load

    with opened_home(load({}, data_dir=data_dir)) as home:
        return read_ledger(home, time.time_ns() // 1_000_000).balances


def test_what_the_worker_has_not_carried_is_pending_and_balances(demo: Path, tmp_path: Path) -> None:
    import asyncio

    from pipeline.contract.codec import Codec
    from pipeline.contract.positions import position_maker
    from pipeline.contract.topics import load_topics
    from pipeline.log.log import Log
    from pipeline.log.registry_file import FileRegistry
    from pipeline.stages import receive
    from pipeline.stages.datastreams import OPEN_DIRECTORY
    from pipeline.topology import Topology
    from pipeline.wire.encode import to_media_collection

    data_dir = tmp_path / "data"
    shutil.copytree(demo, data_dir)
    codec = Codec(FileRegistry(data_dir / "registry.json"))
    topology = Topology(codec, load_topics(), OPEN_DIRECTORY)
    request = receive.Request(
        path=receive.DOWNLOADED,
        body=to_media_collection(story("0 start, 9 end")),
        received_at_ms=time.time_ns() // 1_000_000,
        request_id="r",
    )
    log = Log(data_dir, load_topics(), position_maker(codec))
    log.open()
    asyncio.run(log.store(topology.upload_records(topology.receive(request, lambda: "waiting"))))
    log.close()
    found = ledger(data_dir)
    assert (found["received"], found["pending"], found["balances"]) == (7, 1, True)


@pytest.mark.parametrize("form", [["--json"], []])
def test_following_a_topic_prints_what_comes_later(tmp_path: Path, form: list[str]) -> None:
    with served(tmp_path) as service:
        follower = subprocess.Popen(
            [PIPELINE, "records", "media.outcomes", *form, "--follow", "--data-dir", str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            # As a person's shell has it: what is written waits in a buffer until it is handed on.
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        )
        guard = threading.Timer(180, follower.kill)
        guard.start()
        with service.client() as client:
            client.post("/api/v1/downloaded", content=b"[]", headers={"content-type": "application/json"})
        assert follower.stdout is not None
        row = follower.stdout.readline()
        follower.send_signal(signal.SIGINT)
        code = follower.wait(timeout=180)
        guard.cancel()
        follower.stdout.close()
    assert code == 0
    assert '"outcome":"rejected"' in row


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_and_ctrl_c_finish_what_was_acknowledged(tmp_path: Path, number: signal.Signals) -> None:
    with served(tmp_path) as service:
        with service.client() as client:
            answer = client.post(
                "/api/v1/downloaded",
                content=(EXAMPLES / "film-completed.json").read_bytes(),
                headers={"content-type": "application/json"},
            )
        assert answer.status_code == 201
        assert service.stop(number) == 0
    with served(tmp_path):
        found = settled(tmp_path)
    assert (found["accepted"], found["balances"]) == (1, True)


def one_line(done: subprocess.CompletedProcess[bytes], setting: str) -> None:
    errors = done.stderr.decode().strip().splitlines()
    assert done.returncode == 2, done.stderr
    assert len(errors) == 1, errors
    assert setting in errors[0]


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        one_line(run("run", "--data-dir", str(tmp_path), "--port", port), "PIPELINE_INGEST_PORT")


def test_a_data_directory_that_cannot_be_used_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    one_line(run("run", "--data-dir", str(tmp_path / "file" / "data"), "--port", "0"), "PIPELINE_DATA_DIR")
    one_line(run_here("ledger", "--data-dir", str(tmp_path / "nothing")), "PIPELINE_DATA_DIR")
    with served(tmp_path / "data"):
        one_line(run("run", "--data-dir", str(tmp_path / "data"), "--port", "0"), "PIPELINE_DATA_DIR")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PIPELINE_INGEST_PORT", "eighty"),
        ("PIPELINE_SPOOL_LIMIT_BYTES", ""),
        ("PIPELINE_INGEST_BODY_LIMIT_BYTES", "1"),
        ("PIPELINE_LOG_LEVEL", "loud"),
        ("PIPELINE_DATASTREAMS_FILE", "/nowhere.toml"),
        ("PIPELINE_INGEST_HOST", "999.1.1.1"),
        ("PIPELINE_INGEST_LISTENER_FD", "99"),
        ("PIPELINE_INGEST_CLIENT_IP", "some"),
    ],
)
def test_a_bad_setting_is_one_clear_line(tmp_path: Path, name: str, value: str) -> None:
    environ = {"PIPELINE_INGEST_PORT": "0", name: value}
    assert name in refused("run", "--data-dir", str(tmp_path), environ=environ)


def test_a_number_without_an_upper_bound_is_told_the_lower_one(tmp_path: Path) -> None:
    environ = {"PIPELINE_INGEST_PORT": "0", "PIPELINE_SPOOL_LIMIT_BYTES": "1"}
    said = refused("run", "--data-dir", str(tmp_path), environ=environ)
    assert "PIPELINE_SPOOL_LIMIT_BYTES must be at least 1048576, not 1" in said
    environ = {"PIPELINE_INGEST_PORT": "70000"}
    assert "between 0 and 65535" in refused("run", "--data-dir", str(tmp_path), environ=environ)


def test_a_bad_setting_ends_the_process_with_one_line_and_no_traceback(tmp_path: Path) -> None:
    done = run("run", "--data-dir", str(tmp_path), environ={"PIPELINE_INGEST_PORT": "eighty"})
    one_line(done, "PIPELINE_INGEST_PORT")


def test_an_empty_data_directory_is_one_clear_line() -> None:
    assert "PIPELINE_DATA_DIR" in refused("run", environ={"PIPELINE_DATA_DIR": ""})


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "--port", "eighty"], "--port"),
        (["run", "--port", "70000"], "PIPELINE_INGEST_PORT"),
        (["run", "--nonsense"], "--nonsense"),
        (["run", "more"], "more"),
        (["nonsense"], "nonsense"),
        (["explain"], "FILE"),
        (["explain", "nowhere.json"], "nowhere.json"),
        (["explain", "-", "--path", "/nowhere"], "--path"),
        (["records"], "TOPIC"),
        (["topics", "drop"], "drop"),
    ],
)
def test_a_bad_option_is_one_clear_line(arguments: list[str], named: str) -> None:
    assert named in refused(*arguments)


def test_without_arguments_the_commands_are_listed() -> None:
    done = run()
    assert done.returncode == 0
    assert b"ledger" in done.stdout


@pytest.mark.parametrize("arguments", [["ledger"], ["records", "media.sessions"], ["run", "--port", "0"]])
def test_a_registry_file_that_is_no_json_is_one_clear_line(
    demo: Path, tmp_path: Path, arguments: list[str]
) -> None:
    shutil.copytree(demo, tmp_path / "data")
    (tmp_path / "data" / "registry.json").write_text("{half")
    one_line(run_here(*arguments, "--data-dir", str(tmp_path / "data")), "PIPELINE_DATA_DIR")


def test_an_unknown_topic_is_one_clear_line(demo: Path) -> None:
    one_line(run_here("records", "media.nothing", "--data-dir", str(demo)), "media.nothing")


def test_a_sample_that_finds_the_door_busy_is_sent_again() -> None:
    example = load_examples()[0]
    answers = iter((503, None, 201))

    class Busy:
        def post(
            self, url: str, *, content: bytes, headers: dict[str, str], timeout: float
        ) -> httpx.Response:
            status = next(answers)
            if status is None:
                raise httpx.ReadTimeout("no answer")
            return httpx.Response(status)

    assert delivered(Busy(), example).answers == (201,)
    answers = iter((400, 201))
    assert delivered(Busy(), example).answers == (400,)
    answers = iter((503,) * TRIES)
    assert delivered(Busy(), example).answers == (503,)
