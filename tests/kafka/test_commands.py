"""What a person is told when Kafka is not as the commands need it: one line, exit code 2, what to do."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    ResourceType,
)

from deploy.process import free_port
from pipeline.cli import app
from pipeline.commands.home import kafka_codec
from pipeline.contract.record import Record
from pipeline.contract.records import IndexEntry, Outcome
from pipeline.contract.topics import load_topics
from pipeline.kafka import admin, clients
from pipeline.kafka.clients import Unreachable, client_config
from pipeline.kafka.registry import HttpRegistry
from pipeline.kafka.uploads import UploadProducer
from pipeline.settings import SettingError, Settings, load
from tests.commands.serving import refused as refused_here
from tests.kafka.home import PARTITIONS, made_topics, settings_of
from tests.kafka.running import command, environ, rows
from tests.lender import LentKafka, LentRegistry

COMMANDS = (
    ("ingest", "--port", "0"),
    ("worker",),
    ("ledger",),
    ("records", "media.sessions"),
    ("topics", "apply"),
    ("topics", "diff"),
)
MENDING = (("index", "adopt"), ("index", "rebuild"), ("topics", "migrate", "--to-prefix", "v2."))


@pytest.fixture(autouse=True)
def patient(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a running broker time: one that is slow counts as away, and checks that need it are skipped."""
    if request.node.get_closest_marker("kafka"):
        for module in (admin, clients):
            monkeypatch.setattr(module, "REACH_DEADLINE_S", 60.0)
        monkeypatch.setattr(admin, "ROOM_DEADLINE_S", 60.0)


@pytest.fixture
def settings(kafka: LentKafka, tmp_path: Path) -> Iterator[Settings]:
    """Yield settings with their topics made."""
    found = settings_of(kafka, tmp_path)
    with made_topics(found):
        yield found


def refused(settings: Settings, *arguments: str) -> str:
    """Return the one line that the command ended with."""
    done = command(settings, *arguments)
    said = done.stderr.decode()
    assert done.returncode == 2, said
    assert said.count("\n") == 1, said
    return said


def test_an_unreachable_broker_is_one_line_that_names_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load({}, kafka_bootstrap=f"127.0.0.1:{free_port()}", data_dir=tmp_path)
    for name, value in environ(settings).items():
        monkeypatch.setenv(name, value)
    commands = COMMANDS + MENDING
    with ThreadPoolExecutor(len(commands)) as pool:  # each waits for some seconds whether a broker comes
        lines = list(pool.map(failure, commands))
    structlog.reset_defaults()
    elsewhere = [
        dataclasses.replace(settings, kafka_bootstrap=each) for each in ("nowhere.invalid:1", "::::")
    ]
    for said in [*lines, *[refused(each, "ledger") for each in elsewhere]]:
        assert "PIPELINE_KAFKA_BOOTSTRAP: can't reach" in said
        assert ": . Is the broker" not in said, "a line without a cause"


def failure(arguments: Sequence[str]) -> str:
    """Return what a command says before it is made one line and exit code 2."""
    try:  # not `pytest.raises`: see `tests.called`
        app(list(arguments), standalone_mode=False)
    except SettingError as error:
        return str(error)
    raise AssertionError(f"{arguments} reached a broker that is none")


@pytest.mark.parametrize("name", ["ingest", "worker", "topics"])
def test_without_kafka_the_commands_say_which_setting_is_missing(tmp_path: Path, name: str) -> None:
    arguments = (name, "apply") if name == "topics" else (name,)
    assert "PIPELINE_KAFKA_BOOTSTRAP is not set" in refused(load({}, data_dir=tmp_path), *arguments)


@pytest.mark.kafka
@pytest.mark.parametrize("arguments", COMMANDS[:4])
def test_a_missing_topic_names_the_command_that_makes_it(
    kafka: LentKafka, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    assert "pipeline topics apply" in refused(settings_of(kafka, tmp_path), *arguments)


@pytest.mark.kafka
def test_an_absent_registry_is_one_line_that_names_the_setting(kafka: LentKafka, tmp_path: Path) -> None:
    settings = settings_of(kafka, tmp_path, registry_url=f"http://127.0.0.1:{free_port()}")
    with made_topics(settings):
        for arguments in COMMANDS[:2] + COMMANDS[4:]:
            assert "PIPELINE_REGISTRY_URL: can't reach" in refused(settings, *arguments)


@pytest.mark.kafka
def test_records_and_ledger_of_schemas_that_an_absent_registry_has_are_one_line_too(
    kafka: LentKafka, tmp_path: Path
) -> None:
    settings = settings_of(kafka, tmp_path / "here")
    elsewhere = dataclasses.replace(
        settings, registry_url=f"http://127.0.0.1:{free_port()}", data_dir=tmp_path / "elsewhere"
    )
    with made_topics(settings, load_topics(1)):
        codec = kafka_codec(settings)
        entry = IndexEntry(kind="position", recorded_at_ms=0)
        outcome = Outcome(
            upload_id="u",
            request_id="r",
            datastream_id="default",
            form="media_collection",
            outcome="duplicate",
            received_at_ms=1,
            processed_at_ms=1,
            body_bytes=1,
            event_count=0,
            analytics_calls=0,
            reporting_rows=0,
            source_topic="media.uploads",
            source_partition=0,
            source_offset=0,
        )
        producer = Producer({"bootstrap.servers": kafka.bootstrap})
        for topic, record in (("media.index", entry), ("media.outcomes", outcome)):
            producer.produce(settings.kafka_topic_prefix + topic, codec.encode(topic, record), b"k", 0)
        assert producer.flush(120) == 0
        assert rows(settings, "media.outcomes") != []
        for arguments in (("records", "media.outcomes"), ("ledger",)):
            assert "PIPELINE_REGISTRY_URL: can't reach" in refused(elsewhere, *arguments)


@pytest.mark.kafka
def test_topics_are_made_as_they_are_declared_and_as_the_body_limit_wants_them(
    kafka: LentKafka, tmp_path: Path
) -> None:
    body_bytes, room = 1_000_000, 64 * 1024
    settings = settings_of(kafka, tmp_path, ingest_body_limit_bytes=body_bytes, partitions=24)
    with made_topics(settings):
        client = AdminClient({"bootstrap.servers": kafka.bootstrap})
        held = client.list_topics(timeout=120).topics
        for name, topic in load_topics().items():
            full_name = settings.kafka_topic_prefix + name
            assert len(held[full_name].partitions) == topic.partitions == 24
            resource = ConfigResource(ResourceType.TOPIC, full_name)
            options = client.describe_configs([resource])[resource].result(120)
            assert set(options["cleanup.policy"].value.split(",")) == topic.cleanup, name
            wanted = body_bytes * (1 if name in {"media.uploads", "media.uploads.dlq"} else 2) + room
            assert options["max.message.bytes"].value == str(wanted), name
            # Said for the topic itself: a broker's own default must not decide what an acknowledgement means.
            in_sync = options["min.insync.replicas"]
            assert (in_sync.value, in_sync.source) == ("1", ConfigSource.DYNAMIC_TOPIC_CONFIG.value), name
        larger = dataclasses.replace(settings, ingest_body_limit_bytes=2 * body_bytes)
        assert {found.what for found in admin.diff(larger, load_topics())} == {"max.message.bytes"}
        admin.apply(larger, load_topics())
        assert admin.diff(larger, load_topics()) == ()


@pytest.mark.kafka
def test_topics_apply_makes_the_broker_agree_and_diff_shows_when_it_does_not(
    kafka: LentKafka, tmp_path: Path
) -> None:
    settings = settings_of(kafka, tmp_path)
    assert command(settings, "topics", "diff").returncode == 1
    try:
        assert command(settings, "topics", "apply").returncode == 0
        assert command(settings, "topics", "diff").returncode == 0
        shorter = {
            name: topic._replace(retention_ms=1_000_000) if name == "media.uploads" else topic
            for name, topic in load_topics(settings.partitions).items()
        }
        (found,) = admin.diff(settings, shorter)
        assert (found.topic, found.what, found.wanted) == ("media.uploads", "retention.ms", "1000000")
        admin.apply(settings, shorter)
        assert admin.diff(settings, shorter) == ()
        assert rows(settings, "media.sessions") == []
    finally:
        with made_topics(settings):
            pass


@pytest.mark.kafka
def test_what_somebody_changed_on_the_broker_is_shown_and_mended(kafka: LentKafka, tmp_path: Path) -> None:
    settings = settings_of(kafka, tmp_path)
    with made_topics(settings):
        broker = AdminClient({"bootstrap.servers": kafka.bootstrap})
        changed, gone = (
            f"{settings.kafka_topic_prefix}media.events",
            f"{settings.kafka_topic_prefix}media.index",
        )
        entry = ConfigEntry("retention.ms", "1000", incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, changed, incremental_configs=[entry])
        broker.incremental_alter_configs([resource])[resource].result(120)
        broker.delete_topics([gone])[gone].result(120)
        await_difference(settings, "media.index")
        shown = command(settings, "topics", "diff")
        assert shown.returncode == 1
        for words in ("media.events", "retention.ms", "1000", "media.index", "missing"):
            assert words in shown.stdout.decode()
        assert command(settings, "topics", "apply").returncode == 0
        assert command(settings, "topics", "diff").returncode == 0


def await_difference(settings: Settings, topic: str) -> None:
    """Wait until the brokers show that a topic is gone."""
    end = time.monotonic() + 180
    while topic not in {found.topic for found in admin.diff(settings, load_topics(settings.partitions))}:
        assert time.monotonic() < end, f"{topic} is still there"
        time.sleep(0.1)


@pytest.mark.kafka
def test_more_replicas_than_brokers_names_the_setting(kafka: LentKafka, tmp_path: Path) -> None:
    settings = settings_of(kafka, tmp_path, kafka_replication_factor=3)
    assert "PIPELINE_KAFKA_REPLICATION_FACTOR is 3" in refused(settings, "topics", "apply")


def test_more_replicas_in_sync_than_there_are_is_refused(tmp_path: Path) -> None:
    settings = load({}, kafka_bootstrap="127.0.0.1:1", data_dir=tmp_path, kafka_min_insync_replicas=2)
    assert "PIPELINE_KAFKA_MIN_INSYNC_REPLICAS is 2" in refused(settings, "topics", "apply")


@pytest.mark.kafka
@pytest.mark.registry
def test_an_incompatible_schema_is_one_line_and_an_unregistered_one_a_difference(
    kafka: LentKafka, registry: LentRegistry, tmp_path: Path
) -> None:
    settings = settings_of(kafka, tmp_path, registry_url=registry.url)
    with made_topics(settings):
        before = command(settings, "topics", "diff")
        assert (before.returncode, before.stdout.count(b"not registered")) == (1, len(load_topics()))
        assert command(settings, "topics", "apply").returncode == 0
        assert command(settings, "topics", "diff").returncode == 0
        elsewhere = dataclasses.replace(settings, kafka_topic_prefix=f"{settings.kafka_topic_prefix}other.")
        subject = f"{elsewhere.kafka_topic_prefix}media.sessions-value"
        other = HttpRegistry(registry.url, tmp_path / "other.json")
        field = {"name": "session_id", "type": "long"}
        other.register(subject, json.dumps({"type": "record", "name": "MediaSession", "fields": [field]}))
        other.require_compatible(subject)
        with made_topics(elsewhere):
            said = refused(elsewhere, "topics", "apply")
        assert f"PIPELINE_REGISTRY_URL: {subject} is not compatible" in said


@pytest.mark.kafka
def test_another_number_of_partitions_is_refused(settings: Settings) -> None:
    with pytest.raises(SettingError, match="pipeline topics migrate --to-prefix"):
        admin.apply(settings, load_topics(48))
    other = dataclasses.replace(settings, partitions=48)
    for name in (("worker",), ("ingest", "--port", "0"), ("topics", "apply")):
        assert f"has {PARTITIONS} partitions, PIPELINE_PARTITIONS is 48" in refused(other, *name)


@pytest.mark.kafka
def test_another_number_of_replicas_is_a_difference_that_apply_does_not_mend(settings: Settings) -> None:
    more = dataclasses.replace(settings, kafka_replication_factor=3)
    differences = {(d.topic, d.what, d.wanted, d.found) for d in admin.diff(more, load_topics(PARTITIONS))}
    assert differences == {(name, "replication factor", "3", "1") for name in load_topics()}
    assert command(more, "topics", "diff").returncode == 1
    assert "kafka-reassign-partitions.sh" in refused(more, "topics", "apply")
    admin.require_topics(more, load_topics(PARTITIONS))


@pytest.mark.kafka
def test_topics_that_take_too_small_records_are_refused_with_what_to_do(settings: Settings) -> None:
    larger = dataclasses.replace(settings, ingest_body_limit_bytes=8 * 1024 * 1024)
    for name in (("worker",), ("ingest", "--port", "0")):
        said = refused(larger, *name)
        assert "PIPELINE_INGEST_BODY_LIMIT_BYTES is 8388608" in said
        assert "pipeline topics apply" in said
    admin.apply(larger, load_topics(PARTITIONS))
    admin.require_topics(larger, load_topics(PARTITIONS))
    admin.require_topics(settings, load_topics(PARTITIONS))


@pytest.mark.parametrize(
    "failure", [KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)), TimeoutError()]
)
def test_brokers_that_do_not_tell_how_large_records_may_be_stop_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    class Silent:
        """An admin client that may not ask."""

        def describe_configs(self, resources: list[ConfigResource], **_more: object) -> dict[Any, Any]:
            answers: dict[Any, Future[Any]] = {resource: Future() for resource in resources}
            for answer in answers.values():
                answer.set_exception(failure)
            return answers

    monkeypatch.setattr(admin, "_admin", lambda _settings: Silent())
    monkeypatch.setattr(admin, "_shape_differences", lambda _settings, _topics: iter(()))
    settings = load({}, kafka_bootstrap="127.0.0.1:1", data_dir=tmp_path)
    admin.require_topics(settings, load_topics(PARTITIONS))


@pytest.mark.parametrize("code", [KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS])
def test_brokers_that_have_just_started_are_asked_again_who_is_in_a_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    left = [KafkaException(KafkaError(code))] * 2

    class Starting:
        """An admin client of brokers that know of no group yet, twice."""

        def describe_consumer_groups(self, groups: list[str], **_more: object) -> dict[str, Future[Any]]:
            answer: Future[Any] = Future()
            if left:
                answer.set_exception(left.pop())
            else:
                answer.set_result(SimpleNamespace(members=[SimpleNamespace(client_id="w", host="/h")]))
            return dict.fromkeys(groups, answer)

        def poll(self, _timeout: float) -> None:
            """There is nothing to hear."""

    monkeypatch.setattr(admin, "_admin", lambda _settings, _heard: Starting())
    settings = load({}, kafka_bootstrap="127.0.0.1:1", data_dir=tmp_path)
    monkeypatch.setattr(admin, "REACH_DEADLINE_S", 60.0)
    assert admin.members(settings) == ("w@/h",)
    left.append(KafkaException(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED)))
    with pytest.raises(SettingError, match="authorization"):
        admin.members(settings)
    left.append(KafkaException(KafkaError(code)))
    monkeypatch.setattr(admin, "REACH_DEADLINE_S", 0.0)
    with pytest.raises(Unreachable):
        admin.members(settings)


@pytest.mark.kafka
def test_uploads_of_a_clock_that_is_ahead_are_taken(settings: Settings) -> None:
    producer = UploadProducer(dataclasses.replace(settings, ingest_ack_deadline_ms=120_000), time.monotonic)
    ahead_ms = time.time_ns() // 1_000_000 + 30 * 86_400_000
    asyncio.run(producer.store([Record("media.uploads", 0, b"key", b"value", ahead_ms)]))
    producer.close()


@pytest.mark.kafka
def test_retention_that_does_not_cover_the_longest_outage_is_refused_with_what_to_do(
    settings: Settings,
) -> None:
    admin.require_retention(settings)
    long = dataclasses.replace(settings, worker_longest_outage_s=24 * 86_400)
    for name in (("worker",), ("ingest", "--port", "0")):
        said = refused(long, *name)
        assert "PIPELINE_WORKER_LONGEST_OUTAGE_S" in said
        assert "pipeline topics apply" in said
    change_topic(settings, "retention.ms", "-1")
    admin.require_retention(long)
    change_topic(settings, "retention.bytes", "1000000")
    with pytest.raises(admin.RetentionTooShort, match=r"retention\.bytes=1000000"):
        admin.require_retention(settings)


def change_topic(settings: Settings, name: str, value: str) -> None:
    """Set one option of media.uploads, as an operator would by hand."""
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    topic = settings.kafka_topic_prefix + "media.uploads"
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    client = AdminClient({"bootstrap.servers": settings.kafka_bootstrap})
    client.incremental_alter_configs([resource])[resource].result(180)
    end = time.monotonic() + 180
    while admin.config_of(settings, "media.uploads")[name] != value:
        assert time.monotonic() < end
        time.sleep(0.1)


def test_tls_and_sasl_reach_every_client_through_one_place(tmp_path: Path) -> None:
    settings = load(
        {},
        kafka_bootstrap="broker:9093",
        kafka_security_protocol="SASL_SSL",
        kafka_ca_file="/ca.pem",
        kafka_sasl_mechanism="SCRAM-SHA-512",
        kafka_sasl_username="me",
        kafka_sasl_password="secret",
    )
    config = client_config(settings)
    assert config["security.protocol"] == "SASL_SSL"
    assert config["ssl.ca.location"] == "/ca.pem"
    assert config["sasl.mechanism"] == "SCRAM-SHA-512"
    assert (config["sasl.username"], config["sasl.password"]) == ("me", "secret")
    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"kafka_security_protocol": "TLS"}, "PIPELINE_KAFKA_SECURITY_PROTOCOL"),
        ({"kafka_sasl_mechanism": "GSSAPI"}, "PIPELINE_KAFKA_SASL_MECHANISM"),
        ({"kafka_sasl_mechanism": "PLAIN"}, "PIPELINE_KAFKA_SECURITY_PROTOCOL"),
        ({"kafka_security_protocol": "SASL_SSL"}, "PIPELINE_KAFKA_SASL_MECHANISM"),
        ({"kafka_ca_file": "README.md"}, "PIPELINE_KAFKA_SECURITY_PROTOCOL"),
        ({"kafka_security_protocol": "SSL", "kafka_ca_file": "/nowhere"}, "PIPELINE_KAFKA_CA_FILE"),
        ({"kafka_security_protocol": "SSL", "kafka_ca_file": "README.md"}, "ssl.ca.location"),
        ({"kafka_security_protocol": "SSL", "kafka_cert_file": "README.md"}, "PIPELINE_KAFKA_KEY_FILE"),
    ],
)
def test_settings_that_cannot_work_are_one_line(tmp_path: Path, given: dict[str, Any], named: str) -> None:
    others = {f"PIPELINE_{key.upper()}": str(value) for key, value in given.items()}
    base = {"PIPELINE_KAFKA_BOOTSTRAP": "127.0.0.1:1", "PIPELINE_DATA_DIR": str(tmp_path)}
    assert named in refused_here("ingest", environ=base | others)
