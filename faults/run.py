"""Run cases one after another on one cluster, and judge each by what came out."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaException

from deploy.fetching import ROOT
from deploy.servers import KafkaCluster, Registry
from faults.cases import Case, Load, Scene, await_in_sync
from faults.deployment import Deployment
from faults.fleet import Fleet
from faults.outputs import OutputReader, Outputs, Verdict, await_ended_transactions
from faults.watch import Recovery, Watch
from pipeline.contract.topics import load_topics

RATE_PER_S: Final = 40.0
WARM_S: Final = 1.0
BACKLOG: Final = 1_500
BACKLOG_SHORT: Final = 500
BEGUN_PART: Final = 10
"""A backlog's fault comes when this part of it (one in so many) has come out."""
SPOOLING_S: Final = 6.0
"""Under the brokers' session timeout of 9 s: they are slow, but none is fenced."""
SPOOLED: Final = "pipeline_spool_records"
EVEN_S: Final = 120.0
LOOK_S: Final = 0.05


class Result(NamedTuple):
    """One row of `docs/verdicts.md`."""

    role: str
    fault: str
    load: str
    sent: int
    acknowledged: int
    again: int
    sessions: int
    lost: int
    duplicated: int
    outage_s: float
    recovery_s: float
    took_s: float
    seed: str
    date: str
    commit: str
    faults: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost or duplicated and everything else is as it must be."""
        return not self.lost and not self.duplicated and not self.faults


class Progress(NamedTuple):
    """What a person who waits can see: the place in the run, the phase, and counts of this moment."""

    number: int
    of: int
    case: str
    phase: str
    counts: Callable[[], str]


Show = Callable[[Progress], None]


def run(cases: Sequence[Case], seed: str, show: Show, *, is_short: bool) -> Iterator[Result]:
    """Yield the result of each case; the cluster and everything else is gone when the iterator ends."""
    number = 0
    with tempfile.TemporaryDirectory(prefix="faults-") as directory, KafkaCluster() as cluster:
        # A short run has no time for several deployments.
        for role, group in groupby(cases, lambda case: "all" if is_short else case.role):
            left = list(group)
            attempt = 0
            while left:
                attempt += 1
                with _Stage(cluster, Path(directory), f"{role}{attempt}", seed, is_short=is_short) as stage:
                    while left:
                        number += 1
                        case = left.pop(0)
                        with_ledger = not (is_short and left)
                        result = stage.played(case, number, len(cases), show, with_ledger=with_ledger)
                        yield result
                        if not result.is_good:
                            break  # what is broken now must not spoil the verdict on the next case


class _Stage:
    """A deployment with devices and a watcher, on which cases are played one after another."""

    def __init__(
        self, cluster: KafkaCluster, directory: Path, name: str, seed: str, *, is_short: bool
    ) -> None:
        self._cluster = cluster
        self._directory = directory
        self._name = name
        self._seed = seed
        self._is_short = is_short
        self._open = ExitStack()
        self._out = 0
        self._commit = commit()

    def __enter__(self) -> _Stage:
        with self._open:
            self._set()
            self._open = self._open.pop_all()  # what was opened stays open only when all of it could be
        return self

    def _set(self) -> None:
        registry = self._open.enter_context(Registry()) if self._name.startswith("registry") else None
        self._registry = registry
        self.deployment = self._open.enter_context(
            Deployment(self._cluster, self._directory, self._name, registry.url if registry else "")
        )
        settings = self.deployment.settings
        where = (settings.kafka_bootstrap, settings.kafka_topic_prefix)
        self.fleet = self._open.enter_context(
            closing(Fleet(self.deployment.ingest.url, f"{self._seed}/{self._name}"))
        )
        self.watch = self._open.enter_context(closing(Watch(*where)))
        self._outputs = Outputs()
        self._reader = OutputReader(*where)
        self._warm_up()

    def __exit__(self, *_exc: object) -> None:
        self._open.close()

    def _warm_up(self) -> None:
        """Let sessions flow once: the first case must not measure how a cold pipeline gets warm."""
        self.fleet.begin(RATE_PER_S)
        _until(lambda: self.watch.flows(self.fleet, RATE_PER_S), EVEN_S)
        self.fleet.end()
        _until(lambda: self.watch.is_even(self.fleet), EVEN_S)
        self._reader.read_into(self._outputs)
        self._out = self._outputs.verdict(self.fleet.acknowledged).sessions

    def played(self, case: Case, number: int, of: int, show: Show, *, with_ledger: bool) -> Result:
        """Play one case and return its result; the ledger takes seconds to read."""
        fleet, began = self.fleet, time.monotonic()
        before = _Counts.of(fleet)
        out_before = len(self.watch.seen)

        def counts() -> str:
            now, out = _Counts.of(fleet), len(self.watch.seen) - out_before
            sent, sessions = now.sent - before.sent, now.sessions - before.sessions
            return (
                f"sent {sent}, acknowledged {now.answered - before.answered}, sessions {sessions}, out {out}"
            )

        def say(phase: str) -> None:
            show(Progress(number, of, case.name, phase, counts))

        rng = Random(f"{self._seed}/{case.name}")  # noqa: S311 - reproducible choices, not secrets
        notes: list[str] = []
        faults: list[str] = []
        scene = Scene(
            self._cluster,
            self.deployment,
            fleet,
            self.watch,
            rng,
            say,
            self._is_short,
            notes,
            faults,
            self._registry,
        )
        try:
            outage_s, recovery_s = _PLAYS[case.load](case, scene)
            say("waiting until everything is out")
            if not _until(lambda: self.watch.is_even(fleet), EVEN_S):
                faults.append(f"not everything came out within {EVEN_S:.0f} s")
        except Exception as error:  # noqa: BLE001 - a case that breaks is a fault, and the next ones are played
            outage_s = recovery_s = 0.0
            faults.append(f"{type(error).__name__}: {error}")
        verdict = self._verdict(say, faults, with_ledger=with_ledger)
        after, out_earlier, self._out = _Counts.of(fleet), self._out, verdict.sessions
        return Result(
            case.role,
            case.fault,
            case.load,
            sent=after.sent - before.sent,
            acknowledged=after.answered - before.answered,
            again=after.again - before.again,
            sessions=verdict.sessions - out_earlier,
            lost=len(verdict.lost),
            duplicated=len(verdict.duplicated),
            outage_s=round(outage_s, 1),
            recovery_s=round(recovery_s, 1),
            took_s=round(time.monotonic() - began, 1),
            seed=self._seed,
            date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            commit=self._commit,
            faults=tuple(faults),
            notes=tuple(notes),
        )

    def _verdict(self, say: Callable[[str], None], faults: list[str], *, with_ledger: bool) -> Verdict:
        """Judge everything that this stage's devices ever sent: a zombie may strike a case later."""
        settings = self.deployment.settings
        where = (settings.kafka_bootstrap, settings.kafka_topic_prefix)
        say("waiting for brokers and transactions")
        try:
            await_in_sync(self._cluster)
        except (TimeoutError, KafkaException) as error:
            faults.append(f"the brokers are not in sync: {error}")
        hanging = await_ended_transactions(*where, list(load_topics()))
        faults += [f"a transaction hangs in {topic} {partition}" for topic, partition in hanging]
        say("reading what came out")
        _until(self._has_all_dead_letters, EVEN_S)
        verdict = self._outputs.verdict(self.fleet.acknowledged, self.fleet.refused)
        if self._outputs.revised:
            faults.append(
                f"later revisions, though nothing was replayed: {sorted(self._outputs.revised)[:3]}"
            )
        if with_ledger:
            say("reading the ledger")
            faults += self._off_in_ledger(verdict)
        if self.fleet.given_up:
            faults.append(f"devices gave up: {self.fleet.given_up[:3]}")
        if self.fleet.renamed:
            faults.append(f"a re-upload got another session id: {self.fleet.renamed[:3]}")
        return verdict

    def _has_all_dead_letters(self) -> bool:
        """Read what has come out since; return whether every refused body is among it."""
        self._reader.read_into(self._outputs)
        return self._outputs.refused.keys() >= self.fleet.refused

    def _off_in_ledger(self, verdict: Verdict) -> list[str]:
        """Return what the ledger says that can't be; it counts everything that this stage ever carried."""
        ledger: dict[str, Any] = self.deployment.ledger()
        if not ledger["balances"] or ledger["pending"]:
            off = [check for check in ledger["checks"] if not check["balances"]]
            return [f"the ledger does not balance: pending {ledger['pending']}, {off[:3]}"]
        if ledger["accepted"] != verdict.sessions:
            return [f"the ledger counts {ledger['accepted']} accepted, {verdict.sessions} came out"]
        return []


def commit() -> str:
    """Return which version of the code this is, marked when files of it were changed since."""
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return said.stdout.strip() or "unknown"


class _Counts(NamedTuple):
    sent: int
    answered: int
    again: int
    sessions: int

    @classmethod
    def of(cls, fleet: Fleet) -> _Counts:
        return cls(fleet.sent, fleet.answered, fleet.again, len(fleet.acknowledged))


def _steady(case: Case, scene: Scene) -> tuple[float, float]:
    scene.say("steady load")
    scene.fleet.begin(RATE_PER_S)
    _until(lambda: scene.watch.flows(scene.fleet, RATE_PER_S), 30)
    time.sleep(WARM_S)
    recovery = Recovery(scene.watch, scene.fleet, RATE_PER_S)
    return _acted(case, scene, recovery)


def _idle(case: Case, scene: Scene) -> tuple[float, float]:
    scene.say("idle")
    time.sleep(WARM_S)
    began = time.monotonic()
    outage_s = case.act(scene)
    scene.say("devices come back")
    scene.fleet.begin(RATE_PER_S)
    recovery = Recovery(scene.watch, scene.fleet, RATE_PER_S)
    away_s = time.monotonic() - began
    flowing_s = _recovered(scene, recovery)
    return outage_s, away_s + flowing_s


def _backlog(case: Case, scene: Scene) -> tuple[float, float]:
    """Let uploads wait, in the ingest's spool or in `media.uploads`; act when they begin to be carried."""
    out = len(scene.watch.seen)
    if case.role == "ingest":
        _fill_spool(scene)
    else:
        _fill_uploads(scene)
        waiting = len(scene.fleet.acknowledged) - out
        _until(lambda: len(scene.watch.seen) - out > waiting / BEGUN_PART, 60)
    began = time.monotonic()
    outage_s = case.act(scene)
    scene.say("carrying the backlog")
    _until(lambda: scene.watch.is_even(scene.fleet), EVEN_S)
    return outage_s, max(scene.watch.seen.values()) - began


def _fill_spool(scene: Scene) -> None:
    """Keep Kafka away while devices upload; return when the first of the spool has been forwarded."""
    scene.say("Kafka is away: the spool fills")
    nodes, ingest = scene.cluster.nodes, scene.deployment.ingest
    for node in nodes:
        node.freeze()
    try:
        scene.fleet.begin()
        time.sleep(SPOOLING_S)
        scene.fleet.end()
        waiting = ingest.metric(SPOOLED)
    finally:
        for node in nodes:
            node.freeze(frozen=False)
    if not waiting or not _until(lambda: ingest.metric(SPOOLED) < waiting, 60):
        scene.faults.append("the spool did not fill, or is not forwarded")
    scene.notes.append(
        f"{waiting:.0f} uploads were in the spool, {ingest.metric(SPOOLED):.0f} when it was hit"
    )


def _fill_uploads(scene: Scene) -> None:
    scene.say("no worker runs: uploads wait")
    workers = scene.deployment.workers
    for worker in workers:
        worker.stop()
    scene.fleet.begin(most=BACKLOG_SHORT if scene.is_short else BACKLOG)
    scene.fleet.join()
    for worker in workers:
        worker.start()


def _acted(case: Case, scene: Scene, recovery: Recovery) -> tuple[float, float]:
    try:
        outage_s = case.act(scene)
    except BaseException:
        recovery.stop()
        raise
    return outage_s, _recovered(scene, recovery)


def _recovered(scene: Scene, recovery: Recovery) -> float:
    scene.say("waiting until outputs flow again")
    is_calm = recovery.await_calm()
    recovery.stop()
    if not is_calm:
        scene.faults.append("outputs did not flow steadily again")
    scene.fleet.end()
    return recovery.seconds


def _until(holds: Callable[[], bool], deadline_s: float) -> bool:
    end = time.monotonic() + deadline_s
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(LOOK_S)
    return True


_PLAYS: Final[dict[Load, Callable[[Case, Scene], tuple[float, float]]]] = {
    Load.STEADY: _steady,
    Load.IDLE: _idle,
    Load.BACKLOG: _backlog,
}
