"""Every case of the matrix: what happens to whom, under which load.

A fault acts while the load goes on, and returns for how long it took its process away: until it was
continued, or until the process that replaced it answered.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from random import Random
from typing import Final, NamedTuple

from confluent_kafka import ElectionType, TopicPartition
from confluent_kafka.admin import AdminClient

from deploy.servers import Kafka, KafkaCluster, Registry
from faults.deployment import SESSION_TIMEOUT_S, Deployment, Service
from faults.fleet import Fleet
from faults.outputs import Place, open_transactions
from faults.watch import Watch

DEVICE_PATIENCE_S: Final = 5.0
BROKER_SESSION_S: Final = 9.0
FROZEN_S: Final[dict[str, float]] = {
    "worker": SESSION_TIMEOUT_S + 2.0,  # beyond the group's session timeout
    "ingest": DEVICE_PATIENCE_S + 1.5,  # beyond what SDKs wait for an answer
    "broker": BROKER_SESSION_S + 2.0,  # the controller fences it and others lead
}
LONG_S: Final = 45.0
BROKER_AWAY_S: Final = 3.0
IN_SYNC_S: Final = 90.0
TRANSACTION_TIMEOUT_S: Final = 60.0
INDEX: Final = "media.index"
"""Every transaction writes its position here: one that is open shows on this topic."""
LOOK_S: Final = 0.05
FLOW_S: Final = 30.0
ZOMBIE_S: Final = 30.0
"""A worker that was fenced while it was frozen ends itself within so long after it woke."""


class Load(StrEnum):
    """What the devices do while a fault happens."""

    IDLE = "idle"
    STEADY = "steady load"
    BACKLOG = "backlog"


class Scene(NamedTuple):
    """Everything that a fault can act on; `say` names the phase for the person who watches.

    `notes` go into the verdicts; whatever is in `faults` makes the case a bad one.
    """

    cluster: KafkaCluster
    deployment: Deployment
    fleet: Fleet
    watch: Watch
    rng: Random
    say: Callable[[str], None]
    is_short: bool
    notes: list[str]
    faults: list[str]
    registry: Registry | None = None


Act = Callable[[Scene], float]


class Case(NamedTuple):
    """One row of the verdicts."""

    role: str
    fault: str
    load: Load
    act: Act
    in_short: bool = False

    @property
    def name(self) -> str:
        """What the row is called."""
        return f"{self.role}: {self.fault}, {self.load}"


def kill(service: Service, scene: Scene) -> float:
    """kill -9; the supervisor starts it again after a second."""
    return _ended(service, signal.SIGKILL, scene, expected=-signal.SIGKILL)


def terminate(service: Service, scene: Scene) -> float:
    """SIGTERM, as a deployment or a scaling does; the exit code must be 0."""
    return _ended(service, signal.SIGTERM, scene, expected=0)


def freeze(service: Service, scene: Scene, seconds: float) -> float:
    """SIGSTOP for so long, then SIGCONT: a process that does not know that it was away."""
    began = time.monotonic()
    with frozen(service):
        scene.say(f"frozen for {seconds:.0f} s")
        time.sleep(seconds)
    return time.monotonic() - began


@contextmanager
def frozen(service: Service) -> Iterator[None]:
    """Keep its process stopped while the block runs."""
    number = service.process_id
    service.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        if service.process_id == number:
            service.signal(signal.SIGCONT)


def _ended(service: Service, number: int, scene: Scene, expected: int) -> float:
    began, before, process_id = time.monotonic(), len(service.codes), service.process_id
    service.signal(number)
    scene.say("process ended, waiting for the next one")
    service.await_live(other_than=process_id)
    code = service.codes[before]
    if code != expected:
        scene.faults.append(f"exit code {code}, not {expected}")
    return time.monotonic() - began


def on_worker(fault: str) -> Act:
    """Return the fault on one of the two workers."""

    def act(scene: Scene) -> float:
        worker = scene.rng.choice(scene.deployment.workers)
        return _on_service(fault, worker, scene, FROZEN_S["worker"])

    return act


def on_ingest(fault: str) -> Act:
    """Return the fault on the ingest."""
    return lambda scene: _on_service(fault, scene.deployment.ingest, scene, FROZEN_S["ingest"])


def _on_service(fault: str, service: Service, scene: Scene, frozen_s: float) -> float:
    if fault == "kill -9":
        return kill(service, scene)
    if fault == "SIGTERM":
        return terminate(service, scene)
    return freeze(service, scene, frozen_s)


def on_broker(fault: str) -> Act:
    """Return the fault on one of the three brokers (each is a controller too)."""

    def act(scene: Scene) -> float:
        if fault == "freeze":
            return broker_frozen(FROZEN_S["broker"])(scene)
        node = scene.rng.choice(scene.cluster.nodes)
        return _broker_away(node, scene, kill=fault == "kill -9")

    return act


def broker_frozen(seconds: float, *, kill_workers: bool = False) -> Act:
    """Return the fault on a broker that is silent for so long, and then believes that it still leads.

    With `kill_workers` a worker is killed when the other brokers lead already, and the other one when the
    frozen broker has just been continued: partitions are taken over while nobody agrees who leads.
    """

    def act(scene: Scene) -> float:
        node = scene.rng.choice(scene.cluster.nodes)
        first, second = scene.rng.sample(scene.deployment.workers, 2)
        began = time.monotonic()
        scene.say(f"frozen for {seconds:.0f} s")
        node.freeze()
        try:
            killed_s = scene.rng.uniform(seconds - 2, seconds) if kill_workers else seconds
            time.sleep(killed_s)
            if kill_workers:
                first.signal(signal.SIGKILL)
            time.sleep(seconds - killed_s)
        finally:
            node.freeze(frozen=False)
        lasted = time.monotonic() - began
        if kill_workers:
            time.sleep(scene.rng.uniform(0, 0.5))
            second.signal(signal.SIGKILL)
            first.await_live()
            second.await_live()
        return lasted

    return act


def _broker_away(node: Kafka, scene: Scene, *, kill: bool) -> float:
    began = time.monotonic()
    if kill:
        node.kill()
        scene.say(f"broker away for {BROKER_AWAY_S:.0f} s")
        time.sleep(BROKER_AWAY_S)
    else:
        scene.say("broker stops in order")
        node.stop()
    scene.say("broker starts")
    node.start_again()
    return time.monotonic() - began


def killed_inside_transactions(scene: Scene) -> float:
    """Kill workers at random short moments while they carry, again and again."""
    began = time.monotonic()
    kills, inside = (4, 0) if scene.is_short else (20, 0)
    for number in range(kills):
        scene.say(f"kill {number + 1} of {kills}, {inside} inside a transaction")
        _await_flow(scene)
        time.sleep(scene.rng.uniform(0, 0.4))
        worker = scene.rng.choice(scene.deployment.workers)
        process_id = worker.process_id
        worker.signal(signal.SIGSTOP)  # only to look: the kill hits the very same moment
        inside += bool(stuck_transactions(scene))
        worker.signal(signal.SIGKILL)
        worker.await_live(other_than=process_id)
    scene.notes.append(f"{inside} of {kills} kills hit an open transaction")
    if not inside:
        scene.faults.append("no kill hit an open transaction")
    return time.monotonic() - began


def frozen_inside_a_transaction(seconds: float, *, alone: bool = False) -> Act:
    """Return the fault: a worker becomes a zombie with a transaction open, and wakes when it is fenced."""

    def act(scene: Scene) -> float:
        workers = scene.deployment.workers
        if alone:  # nobody takes the partitions over: the coordinator's own timeout ends the transaction
            workers[1].stop()
        try:
            return _frozen_inside(workers[0] if alone else scene.rng.choice(workers), scene, seconds)
        finally:
            workers[1].start()
            workers[1].await_live()

    return act


def _frozen_inside(worker: Service, scene: Scene, seconds: float) -> float:
    for attempt in range(1, 101):
        scene.say(f"looking for a moment inside a transaction, attempt {attempt}")
        _await_flow(scene)
        time.sleep(scene.rng.uniform(0, 0.1))
        began, before = time.monotonic(), len(worker.codes)
        with frozen(worker):
            if not stuck_transactions(scene):
                continue
            scene.say(f"a zombie with a transaction open, for {seconds:.0f} s")
            time.sleep(seconds)
        lasted = time.monotonic() - began
        woken = time.monotonic()
        while not (codes := worker.codes[before:]) and time.monotonic() < woken + ZOMBIE_S:
            time.sleep(0.2)
        scene.notes.append(f"caught at attempt {attempt}; the zombie ended with {codes or 'nothing'}")
        if not codes:
            scene.faults.append(f"a fenced zombie was still there {ZOMBIE_S:.0f} s after it woke")
        return lasted
    scene.faults.append("no moment inside a transaction was found")
    return 0.0


def stuck_transactions(scene: Scene) -> tuple[Place, ...]:
    """Return the index partitions whose transaction stays open while its worker is stopped."""
    settings = scene.deployment.settings
    found = set(open_transactions(settings.kafka_bootstrap, settings.kafka_topic_prefix, [INDEX]))
    for _ in range(2):  # those of a worker that lives end meanwhile
        if found:
            time.sleep(0.15)
            found &= set(open_transactions(settings.kafka_bootstrap, settings.kafka_topic_prefix, [INDEX]))
    return tuple(sorted(found))


def rebalance_storm(scene: Scene) -> float:
    """A third worker joins and leaves, mostly in the middle of a rebalance."""
    began = time.monotonic()
    rounds = 3 if scene.is_short else 10
    third: Service | None = None
    for number in range(rounds):
        scene.say(f"join and leave {number + 1} of {rounds}")
        if third is None:
            third = scene.deployment.new_worker(2)
        else:
            third.start()
        third.await_live()
        time.sleep(scene.rng.uniform(0, 3))
        if scene.rng.random() < 1 / 3:
            third.kill()
        else:
            third.stop()
        time.sleep(scene.rng.uniform(0, 1.5))
    if third is not None:
        scene.notes.append(f"the third worker ended with {third.codes}")
    return time.monotonic() - began


def partitions_move_there_and_back(scene: Scene) -> float:
    """A → B → A: what A has counted, B knows, and A again; re-uploads come at each step."""
    began = time.monotonic()
    first, second = scene.deployment.workers
    for step, (goes, comes) in enumerate(((second, None), (first, second), (second, first)), 1):
        scene.say(f"step {step}: partitions move, then re-uploads")
        if comes is not None:
            comes.start()
            comes.await_live()
        goes.stop()
        _await_flow(scene)
        scene.fleet.send_again(100)
        while not scene.fleet.is_queue_empty:
            time.sleep(LOOK_S)
    second.start()
    second.await_live()
    return time.monotonic() - began


def leaders_change(scene: Scene) -> float:
    """A rolling restart of all brokers; each gets its leaderships back at once."""
    began = time.monotonic()
    for number, node in enumerate(scene.cluster.nodes, 1):
        scene.say(f"broker {number} of {len(scene.cluster.nodes)}: leaders move away and back")
        _broker_away(node, scene, kill=False)
        await_in_sync(scene.cluster)
        elect_preferred(scene.cluster)
        time.sleep(2)
    return time.monotonic() - began


def registry_away(scene: Scene) -> float:
    """The registry does not answer, and a worker and the ingest must start meanwhile."""
    if scene.registry is None:
        raise ValueError("this case needs a registry")
    began = time.monotonic()
    scene.registry.freeze()
    try:
        scene.say("the registry is frozen; a worker is killed")
        kill(scene.deployment.workers[0], scene)
        scene.say("the registry is frozen; the ingest is killed")
        kill(scene.deployment.ingest, scene)
        time.sleep(2)
    finally:
        scene.registry.freeze(frozen=False)
    return time.monotonic() - began


def elect_preferred(cluster: KafkaCluster) -> None:
    """Give every partition the leader that it was made with."""
    client = _admin(cluster)
    places = [
        TopicPartition(name, number)
        for name, topic in client.list_topics(timeout=10).topics.items()
        for number in topic.partitions
    ]
    client.elect_leaders(ElectionType.PREFERRED, places).result(30)


def await_in_sync(cluster: KafkaCluster) -> None:
    """Wait until every replica of every partition is in sync: two faults at once are another case."""
    client = _admin(cluster)
    end = time.monotonic() + IN_SYNC_S
    while True:
        try:
            topics = client.list_topics(timeout=5).topics.values()
            behind = [
                p for topic in topics for p in topic.partitions.values() if len(p.isrs) < len(p.replicas)
            ]
        except Exception:
            behind = [None]
            if time.monotonic() > end:
                raise
        if not behind:
            return
        if time.monotonic() > end:
            raise TimeoutError(f"{len(behind)} partitions have a replica out of sync")
        time.sleep(0.2)


def _admin(cluster: KafkaCluster) -> AdminClient:
    return AdminClient(
        {"bootstrap.servers": cluster.bootstrap, "log_level": 2, "error_cb": lambda _error: None}
    )


def _await_flow(scene: Scene) -> None:
    """Wait until sessions come out."""
    end = time.monotonic() + FLOW_S
    while not scene.watch.out_within(0.3):
        if time.monotonic() > end:
            scene.faults.append(f"nothing came out for {FLOW_S:.0f} s")
            return
        time.sleep(LOOK_S)


FAULTS: Final = ("kill -9", "SIGTERM", "freeze")
SHORT: Final = {
    ("worker", "kill -9", Load.STEADY),
    ("worker", "SIGTERM", Load.BACKLOG),
    ("worker", "freeze", Load.STEADY),
    ("ingest", "kill -9", Load.BACKLOG),
    ("ingest", "SIGTERM", Load.STEADY),
    ("ingest", "freeze", Load.STEADY),
    ("broker", "kill -9", Load.STEADY),
    ("broker", "SIGTERM", Load.IDLE),
    ("broker", "freeze", Load.STEADY),
}
"""Each fault on each role once, each load at least once."""

GRID: Final = tuple(
    Case(role, fault, load, on(fault), (role, fault, load) in SHORT)
    for role, on in (("worker", on_worker), ("ingest", on_ingest), ("broker", on_broker))
    for load in Load
    for fault in FAULTS
)
STORIES: Final = (
    Case("stories", "kills inside transactions", Load.STEADY, killed_inside_transactions, in_short=True),
    Case(
        "stories",
        "zombie inside a transaction",
        Load.STEADY,
        frozen_inside_a_transaction(SESSION_TIMEOUT_S + 3.0),
        in_short=True,
    ),
    Case("stories", "rebalance storm", Load.STEADY, rebalance_storm, in_short=True),
    Case("stories", "partitions move A→B→A", Load.STEADY, partitions_move_there_and_back, in_short=True),
    Case(
        "stories",
        "zombie beyond the transaction timeout",
        Load.STEADY,
        frozen_inside_a_transaction(TRANSACTION_TIMEOUT_S + 6.0, alone=True),
    ),
    Case("stories", "leaders change", Load.STEADY, leaders_change),
    Case("stories", "broker frozen for long", Load.STEADY, broker_frozen(LONG_S)),
    Case(
        "stories",
        "broker frozen, workers killed",
        Load.STEADY,
        broker_frozen(BROKER_SESSION_S + 4.0, kill_workers=True),
    ),
    Case("registry", "registry away", Load.STEADY, registry_away),
)
CASES: Final = GRID + STORIES
ROLES: Final = tuple(dict.fromkeys(case.role for case in CASES))
