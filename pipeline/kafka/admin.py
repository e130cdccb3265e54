"""Make the broker agree with `topics.toml`, or say where it does not."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ClusterMetadata,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from pipeline.contract.topics import Topic
from pipeline.kafka.clients import REACH_DEADLINE_S, Heard, Unreachable, described, made, unreachable
from pipeline.settings import SettingError, Settings

FOR_EVER: Final = "-1"
ANY_TIME_AHEAD: Final = str(2**63 - 1)
"""An ingest's clock may be ahead: Kafka's own limit, an hour, would keep what devices were answered away."""
CHANGE_DEADLINE_S: Final = 30.0
"""How long the brokers may take to make or change all topics."""
SETTLE_DEADLINE_S: Final = 30.0
"""How long a change may take to be seen: the controller answers before every broker knows it."""
SETTLE_LOOKS: Final = 3
"""So many looks in a row must agree; each is a new client, which may ask another broker."""
SETTLE_PAUSE_S: Final = 0.1
POSITIONS: Final = "-positions"
"""What the group that holds a worker group's positions for lag tools has behind its name."""
REPLICAS: Final = "replication factor"
ROOM_DEADLINE_S: Final = 3.0
"""How long a start waits to be told how large records may be."""
MISSING_GRACE_S: Final = 3.0
"""How long a missing topic may still come: `topics apply` may have made it a moment ago."""


UPLOADS: Final = "media.uploads"
_NO_COORDINATOR_YET: Final = frozenset(
    {
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    }
)
"""What a broker that has just started says of groups."""


class RetentionTooShort(SettingError):
    """Kafka may delete uploads before a worker has read them."""


class TopicMissing(SettingError):
    """A topic that `topics.toml` has and the broker has not."""


class Difference(NamedTuple):
    """One thing in which the broker is not as `topics.toml` wants it; `found` None is a missing topic."""

    topic: str
    what: str
    wanted: str
    found: str | None


def wanted_config(topic: Topic, settings: Settings) -> dict[str, str]:
    """Return the configuration of a topic, as Kafka names it."""
    return {
        "cleanup.policy": ",".join(sorted(topic.cleanup)),
        "retention.ms": FOR_EVER if topic.retention_ms is None else str(topic.retention_ms),
        "min.insync.replicas": str(settings.kafka_min_insync_replicas),
        "max.message.bytes": str(topic.max_record_bytes(settings.ingest_body_limit_bytes)),
        "message.timestamp.type": "CreateTime",
        "message.timestamp.after.max.ms": ANY_TIME_AHEAD,
    }


def diff(settings: Settings, topics: Mapping[str, Topic]) -> tuple[Difference, ...]:
    """Return every difference, or raise `SettingError` when the broker can't be reached."""
    admin, metadata = _reached(settings)
    found: list[Difference] = []
    for topic in topics.values():
        shape = _shape_difference(metadata, topic, settings)
        if shape is not None:
            found.append(shape)
        if shape is None or shape.found is not None:
            found += _replica_difference(metadata, topic, settings)
            try:
                found += _config_differences(admin, topic, settings)
            except TopicMissing:  # deleted a moment ago: not every broker knows it yet
                found.append(Difference(topic.name, "topic", f"{topic.partitions} partitions", None))
    return tuple(found)


def apply(settings: Settings, topics: Mapping[str, Topic]) -> tuple[Difference, ...]:
    """Make the broker agree and return what was changed, or raise `SettingError` for what can't be."""
    _require_possible(settings)
    differences = diff(settings, topics)
    fixed = [d for d in differences if d.what == "partitions"]
    if fixed:
        raise SettingError(
            f"topic {fixed[0].topic} has {fixed[0].found} partitions, PIPELINE_PARTITIONS is "
            f"{fixed[0].wanted}. The dedupe index lives by partition, so the number can't change: run "
            "`pipeline topics migrate --to-prefix PREFIX`, which makes new topics and re-keys the index, or "
            "set it back"
        )
    unmoved = [d for d in differences if d.what == REPLICAS]
    if unmoved:
        names = ", ".join(d.topic for d in unmoved)
        raise SettingError(
            f"PIPELINE_KAFKA_REPLICATION_FACTOR is {unmoved[0].wanted}, but there are topics with "
            f"{unmoved[0].found} replicas ({names}), and `pipeline topics apply` moves none: do it with "
            "Kafka's own kafka-reassign-partitions.sh and run this again, or set it back. Nothing was changed"
        )
    admin = _admin(settings)
    missing = [d.topic for d in differences if d.found is None]
    new = [
        NewTopic(
            settings.kafka_topic_prefix + name,
            num_partitions=topics[name].partitions,
            replication_factor=settings.kafka_replication_factor,
            config=wanted_config(topics[name], settings),
        )
        for name in missing
    ]
    changed = {d.topic: topics[d.topic] for d in differences if d.found is not None}
    try:
        for future in admin.create_topics(new).values() if new else ():
            future.result(CHANGE_DEADLINE_S)
        for future in (
            admin.incremental_alter_configs(
                [_resource(topic, settings) for topic in changed.values()]
            ).values()
            if changed
            else ()
        ):
            future.result(CHANGE_DEADLINE_S)
    except KafkaException as error:
        raise _refused(settings, error.args[0]) from None
    except TimeoutError:
        raise unreachable(settings, f"no answer about the topics in {CHANGE_DEADLINE_S:.0f} s") from None
    if differences:
        _wait_until_settled(settings, topics)
    return differences


class Ids(NamedTuple):
    """What tells a topic from another of the same name."""

    cluster_id: str
    topic_id: str


def ids_of(settings: Settings, topics: Sequence[str]) -> tuple[Ids, ...]:
    """Return the ids of these topics, or raise `SettingError` when they or the cluster can't be reached."""
    admin, metadata = _reached(settings)
    names = [settings.kafka_topic_prefix + topic for topic in topics]
    try:
        asked = admin.describe_topics(TopicCollection(names), request_timeout=REACH_DEADLINE_S)
        ids = [str(asked[name].result(REACH_DEADLINE_S).topic_id) for name in names]
        return tuple(Ids(str(metadata.cluster_id), topic_id) for topic_id in ids)
    except (KafkaException, TimeoutError) as error:
        raise unreachable(settings, error) from None


def require_topics(settings: Settings, topics: Mapping[str, Topic]) -> None:
    """Raise `SettingError` naming the first missing topic, wrong partition number or too small records."""
    end = time.monotonic() + MISSING_GRACE_S
    while first := next(_shape_differences(settings, topics), None):
        if first.found is not None:
            raise SettingError(
                f"topic {first.topic} has {first.found} partitions, PIPELINE_PARTITIONS is {first.wanted}: "
                "it must be what the topics were made with"
            )
        if time.monotonic() > end:
            raise SettingError(f"topic {first.topic} is missing: run `pipeline topics apply`")
        time.sleep(SETTLE_PAUSE_S)
    _require_room(settings, topics)


def _require_room(settings: Settings, topics: Mapping[str, Topic]) -> None:
    """Raise `SettingError` for a topic of uploads that does not take a body as large as the door does.

    What is made of an upload and is too large is its dead letter. Where the brokers do not tell, this checks
    nothing: it must not stop who may produce but not ask.
    """
    named = {
        _resource_of(topic.name, settings): topic for topic in topics.values() if topic.bytes == "upload"
    }
    admin = _admin(settings)  # the answers never come to a client that is gone
    asked = admin.describe_configs([*named], request_timeout=ROOM_DEADLINE_S)
    for resource, topic in named.items():
        try:
            held = int(asked[resource].result(ROOM_DEADLINE_S)["max.message.bytes"].value)
        except (KafkaException, TimeoutError, KeyError, TypeError, ValueError):
            continue
        wanted = topic.max_record_bytes(settings.ingest_body_limit_bytes)
        if held < wanted:
            raise SettingError(
                f"PIPELINE_INGEST_BODY_LIMIT_BYTES is {settings.ingest_body_limit_bytes}: that needs records "
                f"of {wanted} bytes, but topic {topic.name} takes no more than {held}. Run "
                "`pipeline topics apply`, which raises max.message.bytes, or lower the setting"
            )


def require_retention(settings: Settings) -> None:
    """Raise `RetentionTooShort` unless media.uploads outlives the longest outage of the workers.

    Retention follows the time of receipt, and a record may have waited in the spool before.
    """
    held = config_of(settings, UPLOADS)
    needed_s = settings.worker_longest_outage_s + settings.spool_max_age_s
    kept_ms = int(held["retention.ms"])
    if 0 <= kept_ms < needed_s * 1000:
        raise RetentionTooShort(
            f"topic {UPLOADS} keeps records for {kept_ms // 1000} s, but PIPELINE_WORKER_LONGEST_OUTAGE_S + "
            f"PIPELINE_SPOOL_MAX_AGE_S are {needed_s} s: raise retention.ms (`pipeline topics apply` sets "
            "what topics.toml says), or lower these settings"
        )
    if held["retention.bytes"] != FOR_EVER:
        raise RetentionTooShort(
            f"topic {UPLOADS} has retention.bytes={held['retention.bytes']}: Kafka may delete uploads before "
            "they are read, however young; set it to -1"
        )


def config_of(settings: Settings, topic: str) -> dict[str, str]:
    """Return every option of a topic, or raise `SettingError` when the broker can't be reached."""
    return _config_of(_admin(settings), topic, settings)


def members(settings: Settings) -> tuple[str, ...]:
    """Return the workers of the group as `client@host`, or raise `SettingError`."""
    heard, group = Heard(), settings.worker_group
    admin = _admin(settings, heard)  # the answer never comes to a client that is gone
    end = time.monotonic() + REACH_DEADLINE_S
    while True:
        asked = admin.describe_consumer_groups([group], request_timeout=REACH_DEADLINE_S)[group]
        try:
            described = asked.result(REACH_DEADLINE_S)
        except (KafkaException, TimeoutError) as error:
            code = error.args[0].code() if isinstance(error, KafkaException) else None
            if code == KafkaError.GROUP_ID_NOT_FOUND:
                return ()
            if code not in _NO_COORDINATOR_YET or time.monotonic() > end:
                admin.poll(0)
                raise unreachable(settings, error, heard) from None
            time.sleep(SETTLE_PAUSE_S)
        else:
            return tuple(f"{member.client_id}@{member.host}" for member in described.members)


def _shape_differences(settings: Settings, topics: Mapping[str, Topic]) -> Iterator[Difference]:
    metadata = _reached(settings)[1]
    for topic in topics.values():
        shape = _shape_difference(metadata, topic, settings)
        if shape is not None:
            yield shape


def _shape_difference(metadata: ClusterMetadata, topic: Topic, settings: Settings) -> Difference | None:
    """Return what is missing, or another number of partitions: what no service can do with."""
    held = metadata.topics.get(settings.kafka_topic_prefix + topic.name)
    if held is None:
        return Difference(topic.name, "topic", f"{topic.partitions} partitions", None)
    if len(held.partitions) != topic.partitions:
        return Difference(topic.name, "partitions", str(topic.partitions), str(len(held.partitions)))
    return None


def _replica_difference(metadata: ClusterMetadata, topic: Topic, settings: Settings) -> Iterator[Difference]:
    """Yield the difference where partitions of the topic have other numbers of replicas."""
    places = metadata.topics[settings.kafka_topic_prefix + topic.name].partitions.values()
    wanted = settings.kafka_replication_factor
    others = {len(place.replicas) for place in places} - {wanted}
    if others:
        yield Difference(topic.name, REPLICAS, str(wanted), str(min(others)))


def require_no_workers(settings: Settings) -> None:
    """Raise `SettingError` naming the workers while the group has members."""
    running = members(settings)
    if running:
        raise SettingError(
            f"PIPELINE_WORKER_GROUP: {len(running)} workers of the group {settings.worker_group} are alive "
            f"({', '.join(running)}): stop all workers first, wait for the session timeout after a kill, "
            "and run it again"
        )


def require_no_other_group(settings: Settings) -> None:
    """Raise `SettingError` while workers of another group carry the same uploads: nothing would fence them.

    Such a group is known by the positions that it tells lag tools. Where the brokers do not tell, this checks
    nothing.
    """
    admin = _admin(settings)
    topic = settings.kafka_topic_prefix + UPLOADS
    places = [TopicPartition(topic, partition) for partition in range(settings.partitions)]
    try:
        listed = admin.list_consumer_groups(request_timeout=REACH_DEADLINE_S).result(REACH_DEADLINE_S).valid
        others = {one.group_id for one in listed if one.group_id.endswith(POSITIONS)}
        for name in sorted(others - {settings.worker_group + POSITIONS}):
            asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(name, places)])
            held = asked[name].result(REACH_DEADLINE_S).topic_partitions
            other = name.removesuffix(POSITIONS)
            if any(place.offset >= 0 for place in held):
                running = members(dataclasses.replace(settings, worker_group=other))
                if running:
                    raise SettingError(
                        f"PIPELINE_WORKER_GROUP is {settings.worker_group}, but {len(running)} workers of "
                        f"the group {other} carry {topic} ({', '.join(running)}): both would count all. "
                        f"Stop the workers of group {other} first"
                    )
    except (KafkaException, TimeoutError, Unreachable):
        return


def _wait_until_settled(settings: Settings, topics: Mapping[str, Topic]) -> None:
    end = time.monotonic() + SETTLE_DEADLINE_S
    agreeing = 0
    while agreeing < SETTLE_LOOKS:
        left = diff(settings, topics)
        agreeing = 0 if left else agreeing + 1
        if left and time.monotonic() > end:
            raise SettingError(
                f"Kafka took the change of topic {left[0].topic} but doesn't show it after "
                f"{SETTLE_DEADLINE_S:.0f} s: look at the brokers, then run `pipeline topics diff`"
            )
        time.sleep(SETTLE_PAUSE_S)


def require_client(settings: Settings) -> None:
    """Raise `SettingError` when no client can be made with these settings, whatever the brokers do."""
    _admin(settings)


def _require_possible(settings: Settings) -> None:
    if settings.kafka_min_insync_replicas > settings.kafka_replication_factor:
        raise SettingError(
            f"PIPELINE_KAFKA_MIN_INSYNC_REPLICAS is {settings.kafka_min_insync_replicas}, more than "
            f"PIPELINE_KAFKA_REPLICATION_FACTOR, {settings.kafka_replication_factor}: nothing would be taken"
        )


def _refused(settings: Settings, error: KafkaError) -> SettingError:
    names = {
        KafkaError.INVALID_REPLICATION_FACTOR: (
            f"PIPELINE_KAFKA_REPLICATION_FACTOR is {settings.kafka_replication_factor}, "
            "more than there are brokers: "
        ),
        KafkaError.TOPIC_AUTHORIZATION_FAILED: "PIPELINE_KAFKA_SASL_USERNAME may not do this: ",
        KafkaError.CLUSTER_AUTHORIZATION_FAILED: "PIPELINE_KAFKA_SASL_USERNAME may not do this: ",
        KafkaError.TOPIC_EXCEPTION: f"PIPELINE_KAFKA_TOPIC_PREFIX {settings.kafka_topic_prefix!r}: ",
    }
    return SettingError(f"{names.get(error.code(), '')}Kafka refused the topics: {error.str()}")


def _admin(settings: Settings, heard: Heard | None = None) -> AdminClient:
    return made(AdminClient, settings, error_cb=heard or Heard())


def _reached(settings: Settings) -> tuple[AdminClient, ClusterMetadata]:
    """Return an admin client and what it was told of the cluster, or raise `SettingError` with the cause."""
    heard = Heard()
    admin = _admin(settings, heard)
    return admin, described(admin, settings, heard)


def _config_differences(admin: AdminClient, topic: Topic, settings: Settings) -> list[Difference]:
    entries = _config_of(admin, topic.name, settings)
    found = []
    for name, wanted in wanted_config(topic, settings).items():
        held = entries.get(name, "unknown to this Kafka")
        if sorted(held.split(",")) != sorted(wanted.split(",")):
            found.append(Difference(topic.name, name, wanted, held))
    return found


def _config_of(admin: AdminClient, topic: str, settings: Settings) -> dict[str, str]:
    resource = _resource_of(topic, settings)
    try:
        entries = admin.describe_configs([resource])[resource].result(REACH_DEADLINE_S)
    except (KafkaException, TimeoutError) as error:
        if isinstance(error, KafkaException) and error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise TopicMissing(f"topic {topic} is missing: run `pipeline topics apply`") from None
        raise unreachable(settings, error) from None
    return {name: str(entry.value) for name, entry in entries.items()}


def _resource_of(topic: str, settings: Settings) -> ConfigResource:
    return ConfigResource(ResourceType.TOPIC, settings.kafka_topic_prefix + topic)


def _resource(topic: Topic, settings: Settings) -> ConfigResource:
    entries = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        for name, value in wanted_config(topic, settings).items()
    ]
    return ConfigResource(
        ResourceType.TOPIC, settings.kafka_topic_prefix + topic.name, incremental_configs=entries
    )
