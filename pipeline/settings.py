"""Every setting, in one table: its field, environment variable, default, bounds and meaning.

A setting `worker_batch_records` is read from `PIPELINE_WORKER_BATCH_RECORDS`; a command's option
wins over the environment. This is the only module that reads the environment. `docs/settings.md`
is checked against the table by a test.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

PREFIX: Final = "PIPELINE_"
NEAR: Final = 0.9
"""Names that are alike to this degree differ in a letter or two."""
PARTITIONS: Final = 24
"""So many partitions has a topic by default."""


class SettingError(Exception):
    """A setting that can't be used; the message names it and says what is wanted."""


def _setting(
    default: Any,
    doc: str,
    *,
    at_least: int | None = None,
    at_most: int | None = None,
    one_of: tuple[str, ...] = (),
    secret: bool = False,
) -> Any:
    metadata = {"doc": doc, "at_least": at_least, "at_most": at_most, "one_of": one_of}
    return field(default=default, metadata=metadata, repr=not secret)


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one process; frozen, with units in the names."""

    data_dir: Path = _setting(
        Path(".data"), "Directory of the embedded log, the spool and everything else that is kept."
    )
    datastreams_file: str = _setting(
        "", "TOML file of the datastreams; empty: one open datastream that takes everything."
    )
    ingest_host: str = _setting("127.0.0.1", "Address that the HTTP ingest listens on.")
    ingest_port: int = _setting(
        8080, "Port that the HTTP ingest listens on; 0 picks a free one.", at_least=0, at_most=65_535
    )
    ingest_body_limit_bytes: int = _setting(
        4 * 1024 * 1024,
        "Largest request body, as sent and after decompression; every record limit derives from it.",
        at_least=1024,
        at_most=64 * 1024 * 1024,
    )
    ingest_memory_bytes: int = _setting(
        256 * 1024 * 1024,
        "Most memory that all bodies of one process take together; beyond it answers are 503.",
        at_least=16 * 1024 * 1024,
    )
    ingest_connections: int = _setting(
        10_000,
        "Most connections to one process; one more is answered 503 and closed. Open files limit them too.",
        at_least=8,
        at_most=1_000_000,
    )
    ingest_path_prefix: str = _setting(
        "", "A path prefix under which the Media Collection paths are served too (iOS allows one)."
    )
    ingest_store_deadline_ms: int = _setting(
        4_000, "How long an answer may wait for the log before it is 503.", at_least=100, at_most=4_500
    )
    ingest_ack_deadline_ms: int = _setting(
        2_000,
        "How long Kafka may take to acknowledge an upload before it goes to the spool.",
        at_least=50,
        at_most=4_000,
    )
    ingest_client_ip: str = _setting(
        "none", "What is kept of client addresses: none, truncated (/24, /48) or full."
    )
    ingest_refused_bytes_per_hour: int = _setting(
        1024**3,
        "Most bytes of refused bodies that are kept an hour and datastream; beyond it answers are 503.",
        at_least=1024,
    )
    ingest_faults_per_minute: int = _setting(
        100, "With so many unexpected exceptions in a minute answers are 503.", at_least=1, at_most=100_000
    )
    pseudonym_key: str = _setting("", "Key of the pseudonyms of datastreams that ask for them.", secret=True)
    spool_limit_bytes: int = _setting(
        4 * 1024**3,
        "Most bytes in the ingest's spool and those that it adopted, set aside or not; beyond it answers are "
        "503.",
        at_least=1024 * 1024,
    )
    spool_max_age_s: int = _setting(
        7 * 86_400,
        "With an older upload in the spool, or in an adopted one, answers are 503; must be under the "
        "retention of media.uploads.",
        at_least=60,
    )
    ingest_processes: int = _setting(
        1,
        "Processes that share the port of `pipeline ingest`; rates, quotas and spool limits hold for each.",
        at_least=1,
        at_most=64,
    )
    ingest_listener_fd: int = _setting(
        -1, "The socket that such a process inherits; set by the program itself.", at_least=-1, at_most=65_535
    )
    metrics_dir: str = _setting("", "Where such processes share their metrics; set by the program itself.")
    ingest_drain_s: int = _setting(
        10,
        "How long a stopping ingest waits, for requests that it has begun and for its spool to drain.",
        at_least=0,
        at_most=600,
    )
    worker_batch_records: int = _setting(
        2_000,
        "Most uploads in one transaction of the worker, and about so many are in hand.",
        at_least=1,
        at_most=10_000,
    )
    worker_batch_bytes: int = _setting(
        16 * 1024 * 1024,
        "Most bytes of uploads in one transaction (a single larger upload still goes alone); four times as "
        "much is in hand.",
        at_least=1024,
        at_most=256 * 1024 * 1024,
    )
    worker_output_bytes: int = _setting(
        32 * 1024 * 1024,
        "Most bytes of records in one transaction of the worker; an upload that alone gives more is the dead "
        "letter `record_too_large`.",
        at_least=1024 * 1024,
        at_most=1024**3,
    )
    worker_group: str = _setting(
        "pipeline-worker",
        "Consumer group of the workers; it is the prefix of their transactional ids too. Deployments that "
        "share a cluster need one each: workers of one group fence each other.",
    )
    worker_host: str = _setting("127.0.0.1", "Address of the worker's own health and metrics endpoint.")
    worker_port: int = _setting(
        8090, "Port of the worker's own health and metrics endpoint; 0: none.", at_least=0, at_most=65_535
    )
    worker_longest_outage_s: int = _setting(
        7 * 86_400,
        "How long workers may be away: with PIPELINE_SPOOL_MAX_AGE_S the least retention of media.uploads.",
        at_least=0,
        at_most=400 * 86_400,
    )
    worker_stall_s: int = _setting(
        120,
        "A worker with a partition that has lag and stands still for so long ends itself.",
        at_least=5,
        at_most=3_600,
    )
    worker_dead_letters_percent: int = _setting(
        10,
        "With more dead letters of its own doing (not the door's) among the last uploads the worker stops; "
        "100 is no limit.",
        at_least=0,
        at_most=100,
    )
    worker_dead_letters_least: int = _setting(
        20, "So many of them in a partition are needed before the limit counts.", at_least=1, at_most=10_000
    )
    worker_session_timeout_s: int = _setting(
        15,
        "After how long without a heartbeat the group gives a worker's partitions away; a broker takes what "
        "its `group.min.session.timeout.ms` (6 s) and `group.max.session.timeout.ms` allow.",
        at_least=1,
        at_most=300,
    )
    partitions: int = _setting(
        PARTITIONS,
        "Partitions of every topic, and so the most workers; fixed when topics are made (`pipeline topics "
        "migrate` makes others). With more of them transactions are smaller and cost more.",
        at_least=1,
        at_most=1_000,
    )
    kafka_bootstrap: str = _setting(
        "",
        "Kafka brokers as host:port, comma-separated; empty: the embedded log. `pipeline run` and `pipeline "
        "demo` are the embedded log, whatever this says.",
    )
    kafka_security_protocol: str = _setting(
        "PLAINTEXT",
        "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.",
        one_of=("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
    )
    kafka_ca_file: str = _setting("", "CA certificates of the brokers (PEM); empty: those of the system.")
    kafka_cert_file: str = _setting(
        "", "Our certificate (PEM), for brokers that demand one; needs the key file too."
    )
    kafka_key_file: str = _setting("", "The unencrypted key of that certificate (PEM).")
    kafka_sasl_mechanism: str = _setting(
        "", "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.", one_of=("", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
    )
    kafka_sasl_username: str = _setting("", "User name for SASL.")
    kafka_sasl_password: str = _setting("", "Password for SASL.", secret=True)
    kafka_replication_factor: int = _setting(
        1, "Replicas of each partition that `topics apply` makes.", at_least=1, at_most=9
    )
    kafka_min_insync_replicas: int = _setting(
        1, "Replicas that must have a record before it is acknowledged.", at_least=1, at_most=9
    )
    kafka_topic_prefix: str = _setting(
        "",
        "Put before every topic name and registry subject, for clusters that several deployments share; each "
        "needs a `PIPELINE_WORKER_GROUP` of its own, too.",
    )
    registry_url: str = _setting(
        "", "Schema registry with the Confluent API; empty: the registry file of the data directory."
    )
    registry_ca_file: str = _setting(
        "", "CA certificates of the registry (PEM); empty: those of the Python package certifi."
    )
    registry_username: str = _setting("", "User name for the registry's basic authentication.")
    registry_password: str = _setting("", "Password for the registry's basic authentication.", secret=True)
    log_maintain_interval_s: int = _setting(
        30, "How often the embedded log applies retention and compaction.", at_least=1, at_most=86_400
    )
    log_level: str = _setting("info", "Lowest level that is logged: debug, info, warning or error.")
    log_format: str = _setting(
        "auto", "Form of log lines: json, console, or auto: console on a terminal, else json."
    )
    otel_endpoint: str = _setting(
        "",
        "OTLP/HTTP address that traces are sent to, as http://collector:4318; empty: no tracing. "
        "Needs the extra `otel`; sampling and the like follow the standard OTEL_* variables.",
    )


def names() -> dict[str, str]:
    """Return every environment variable with its setting's meaning."""
    return {PREFIX + f.name.upper(): f.metadata["doc"] for f in dataclasses.fields(Settings)}


def defaults() -> dict[str, str]:
    """Return every environment variable with its setting's default, as text."""
    return {PREFIX + f.name.upper(): str(f.default) for f in dataclasses.fields(Settings)}


def bounds() -> dict[str, str]:
    """Return every environment variable with what its setting must be, empty where that is free."""
    return {
        PREFIX + f.name.upper(): _bounds(f.metadata["at_least"], f.metadata["at_most"])
        for f in dataclasses.fields(Settings)
    }


def misspelt() -> dict[str, str]:
    """Return each variable of this process that is no setting but nearly one, with the one that was meant.

    Others with our prefix are somebody else's: Kubernetes, for one, makes some for a service of our name.
    """
    known = names()
    strange = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
    near = {name: difflib.get_close_matches(name, known, n=1, cutoff=NEAR) for name in strange}
    return {name: found[0] for name, found in near.items() if found}


def child_environ(settings: Settings, **other: Any) -> dict[str, str]:
    """Return the environment of a process of ours that has these settings, but for the other values."""
    values = dataclasses.asdict(settings) | other
    return {**os.environ, **{PREFIX + name.upper(): str(value) for name, value in values.items()}}


def load(environ: Mapping[str, str] | None = None, **options: Any) -> Settings:
    """Return the settings of this process, or raise `SettingError` naming the first bad one.

    `options` are a command's own values; `None` means that the option was not given.
    """
    source = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    for row in dataclasses.fields(Settings):
        variable = PREFIX + row.name.upper()
        given = options.get(row.name)
        if given is None and variable in source:
            given = source[variable]
        if given is not None:
            values[row.name] = _parsed(variable, row, given)
    return Settings(**values)


def _parsed(variable: str, row: dataclasses.Field[Any], given: Any) -> Any:
    if isinstance(row.default, Path):
        if not str(given):
            raise SettingError(f"{variable} must not be empty")
        return Path(given)
    if isinstance(row.default, bool):
        return _parsed_bool(variable, given)
    if not isinstance(row.default, int):
        return _parsed_text(variable, row.metadata["one_of"], str(given))
    try:
        number = int(given)
    except ValueError:
        raise SettingError(f"{variable} must be a whole number, not {given!r}") from None
    low, high = row.metadata["at_least"], row.metadata["at_most"]
    if (low is not None and number < low) or (high is not None and number > high):
        raise SettingError(f"{variable} must be {_bounds(low, high)}, not {number}")
    return number


def _bounds(low: int | None, high: int | None) -> str:
    """Return the bounds in words, empty where there are none."""
    if low is not None and high is not None:
        return f"between {low} and {high}"
    if low is not None:
        return f"at least {low}"
    return "" if high is None else f"at most {high}"


def _parsed_text(variable: str, one_of: tuple[str, ...], given: str) -> str:
    if not one_of:
        return given
    if given.upper() not in one_of:
        raise SettingError(f"{variable} must be {', '.join(filter(None, one_of))}, not {given!r}")
    return given.upper()


def _parsed_bool(variable: str, given: Any) -> bool:
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    word = str(given).lower()
    if word not in words:
        raise SettingError(f"{variable} must be true or false, not {given!r}")
    return words[word]
