"""The samples and stories give the same records on the embedded log and on Apache Kafka, carried by Faust."""

from __future__ import annotations

import json
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import pytest

from pipeline.contract.topics import load_schema, load_topics
from pipeline.device.examples import load_examples
from pipeline.settings import PARTITIONS as DEFAULT_PARTITIONS
from pipeline.topology import UPLOADS
from pipeline.wire.encode import to_media_collection
from tests.commands import serving
from tests.homes.test_stories_on_homes import STORIES
from tests.kafka.home import made_topics, settings_of
from tests.kafka.running import (
    LONG_SESSION_S,
    Ingest,
    Worker,
    command,
    printed_ledger,
    printed_records,
    records,
    rows,
    settled,
)
from tests.lender import LentKafka, LentRegistry
from tests.shared import SHARED
from tests.stories import story

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

REGISTRY_TIMEOUT_S: Final = 120
OF_THE_RUN: Final = {
    "upload_id",
    "first_upload_id",
    "request_id",
    "user_agent",
    "received_at_ms",
    "processed_at_ms",
    "recorded_at_ms",
    "rejected_at_ms",
    "changed_at_ms",
    "lateness_ms",
    "skew_ms",
    "source_offset",
    "source_partition",
    "source_key",
    "next_offset",
}
"""Positions, ids of the run and times of receipt: what may differ between two runs."""


def bodies() -> list[tuple[str, bytes]]:
    """Return everything that is sent: the samples, the stories, the worked sessions."""
    found = [(example.path, example.body) for example in load_examples()]
    found += [("/api/v1/downloaded", to_media_collection(story(text))) for text in STORIES.values()]
    timelines = sorted((SHARED / "vectors/timelines").glob("*.request.json"))
    return found + [("/api/v1/downloaded", path.read_bytes()) for path in timelines]


def normal(values: list[dict[str, Any]]) -> list[str]:
    """Return the values without what belongs to the run, in an order that does not depend on it."""
    return sorted(json.dumps(_without(value), sort_keys=True) for value in values)


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without(member) for name, member in value.items() if name not in OF_THE_RUN}
    return [_without(item) for item in value] if isinstance(value, list) else value


def test_both_homes_give_the_same_records(kafka: LentKafka, registry: LentRegistry, tmp_path: Path) -> None:
    settings = settings_of(
        kafka, tmp_path / "kafka", registry_url=registry.url, partitions=DEFAULT_PARTITIONS
    )
    sent = bodies()
    with serving.served(tmp_path / "embedded") as service:
        with service.client() as client:
            embedded_answers = [_post(client, path, body) for path, body in sent]
        assert serving.settled(tmp_path / "embedded")["balances"]
    done = command(settings, "topics", "apply")
    assert done.returncode == 0, done.stderr.decode()
    with (
        made_topics(settings),
        Ingest(settings) as ingest,
        Worker(settings, tmp_path / "worker.log", worker_session_timeout_s=LONG_SESSION_S) as worker,
    ):
        worker.await_assignment()
        with ingest.client() as client:
            for (path, body), answer in zip(sent, embedded_answers, strict=True):
                assert _post(client, path, body) == answer
                ingest.await_forwarded()  # one that the spool took must not be overtaken by the next
        ledger = settled(settings)
        assert ledger["balances"], (ledger, (tmp_path / "worker.log").read_text()[-2000:])
        for topic in load_topics():
            if topic == "media.index":  # positions differ by how records fell into batches
                continue
            embedded = [
                row["value"]
                for row in serving.rows("records", topic, "--json", "--data-dir", str(tmp_path / "embedded"))
            ]
            on_kafka = rows(settings, topic)
            if topic == "media.days.changed":  # compacted: which of a day's records stay is chance
                assert _days(on_kafka) == _days(embedded)
                continue
            if topic == UPLOADS:  # one whose acknowledgement came late is there twice
                on_kafka = list({value["upload_id"]: value for value in on_kafka}.values())
            assert normal(on_kafka) == normal(embedded), topic
        assert printed_ledger(settings) == ledger
        by_place = itemgetter("partition", "offset")  # partitions are read as they arrive
        printed, here = printed_records(settings, "media.sessions"), records(settings, "media.sessions")
        assert sorted(printed, key=by_place) == sorted(here, key=by_place)
        _read_with_the_stock_deserializer(settings_url=registry.url, settings=settings)


def _days(values: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(value["datastream_id"], value["viewing_day"]) for value in values}


def _post(client: Any, path: str, body: bytes) -> int:
    answer = client.post(
        path, content=body, headers={"content-type": "application/json", "user-agent": "test"}
    )
    return int(answer.status_code)


def _read_with_the_stock_deserializer(settings_url: str, settings: Any) -> None:
    from confluent_kafka.schema_registry import SchemaRegistryClient
    from confluent_kafka.schema_registry.avro import AvroDeserializer
    from confluent_kafka.serialization import MessageField, SerializationContext

    from pipeline.kafka.reader import KafkaReader

    reader = KafkaReader(settings)
    with SchemaRegistryClient({"url": settings_url, "timeout": REGISTRY_TIMEOUT_S}) as client:
        # Its default asks for a route that Apicurio does not have (docs/kafka.md, "Reading").
        deserialize = AvroDeserializer(client, conf={"subject.name.strategy.type": "TOPIC"})
        for topic in load_topics():
            context = SerializationContext(settings.kafka_topic_prefix + topic, MessageField.VALUE)
            stored = list(reader.read(topic, dict.fromkeys(range(reader.partitions(topic)), 0)))
            assert stored, topic
            fields = {field["name"] for field in load_schema(topic)["fields"]}
            for record in stored:
                assert deserialize(record.value, context).keys() == fields, topic
                if topic == "media.sessions":
                    assert deserialize(record.value, context)["session_id"] == record.key.decode()
    reader.close()
