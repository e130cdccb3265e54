"""`make bench`: what core and stages cost, beside plain decoding of the same bytes in the same run."""

from __future__ import annotations

import gc
import itertools
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from pipeline.contract.codec import Codec
from pipeline.contract.record import StoredRecord
from pipeline.contract.records import Upload
from pipeline.contract.topics import load_topics
from pipeline.session.calls import analytics_calls
from pipeline.session.datastream import OPEN_DATASTREAM
from pipeline.session.identity import session_id
from pipeline.session.measure import measure
from pipeline.session.model import Details, Event, Form, Kind, Qoe, Routing, Session, Visitor
from pipeline.session.rows import reporting_rows
from pipeline.stages.datastreams import OPEN_DIRECTORY
from pipeline.stages.derive import derive, derive_session, laid_out
from pipeline.stages.prepare import Identified, prepare
from pipeline.stages.receive import Request
from pipeline.topology import Topology
from pipeline.wire import media_collection
from pipeline.wire.encode import to_media_collection

PARTITIONS: Final = int(os.environ.get("BENCH_PARTITIONS", "6"))
"""Those of docker-compose.yml, which runs on one machine as these benchmarks do."""
SIZES: Final = (25, 180, 1_731)
RUN_S: Final = 0.5
REPEATS: Final = 5
PING_S: Final = 50
AIM_SESSION_US: Final = 60
AIM_EVENT_US: Final = 5
AIM_COMPILED_US: Final = 3
NOW_MS: Final = 1_795_000_000_000
APART_MS: Final = 7_919
"""So long after each other viewings begin."""
DIFFERENT: Final = 200
"""So many different sessions the stages are timed with, in turn."""
START: Final[dict[str, str | int | float | bool]] = {
    "contentType": "vod",
    "streamType": "video",
    "playerName": "player",
    "channel": "app",
    "hasResume": False,
    "isDownloaded": True,
    "libraryVersion": "android-media-3.1.2",
    "show": "Show",
    "season": "1",
    "episode": "2",
}


def sdk_session(events: int, number: int = 1) -> Session:
    """Return a session as an SDK sends it: a pre-roll, 50 s pings, a pause now and then, sessionEnd.

    Those of different numbers are of other viewers, films, lengths and times: no writer may profit from
    what viewings do not have in common.
    """
    at_ms, playhead = 1_760_000_000_000 + number * APART_MS, 0.0
    start = START | {
        "name": f"film-{number}",
        "friendlyName": f"Film number {number}",
        "length": 100_000.0 + number % 5_000,
    }
    ad: Details = {"name": "ad-1", "length": 15.0, "podPosition": 1, "playerName": "player"}
    found = [
        Event(Kind.SESSION_START, at_ms, 0.0, start),
        Event(Kind.AD_BREAK_START, at_ms, 0.0, {"index": 1, "offset": 0.0}),
        Event(Kind.AD_START, at_ms, 0.0, ad),
        Event(Kind.PLAY, at_ms, 0.0, qoe=Qoe(bitrate=2500, time_to_start_ms=900)),
        Event(Kind.AD_COMPLETE, at_ms + 15_000, 0.0),
        Event(Kind.AD_BREAK_COMPLETE, at_ms + 15_000, 0.0),
        Event(Kind.PLAY, at_ms + 15_000, 0.0),
    ]
    at_ms += 15_000
    while len(found) < events - 1:
        at_ms += PING_S * 1000
        playhead += PING_S
        kind = (
            Kind.PAUSE_START if len(found) % 40 == 20 else Kind.PLAY if len(found) % 40 == 21 else Kind.PING
        )
        found.append(Event(kind, at_ms, playhead))
    found.append(Event(Kind.SESSION_END, at_ms, playhead))
    ecid = f"{number:038d}"
    visitor = Visitor(ecid=ecid, key_value=ecid)
    return Session(
        Form.MEDIA_COLLECTION, tuple(found), visitor, Routing("ORG@AdobeOrg", ("suite",), "x.sc.omtrdc.net")
    )


def per_call_us(work: Callable[[], object]) -> float:
    """Return the CPU time of one call in the best of some rounds, in µs: others use this machine too."""
    rounds = []
    for _ in range(REPEATS):
        calls, end = 0, time.perf_counter() + RUN_S / REPEATS
        started = time.process_time()
        while time.perf_counter() < end:
            work()
            calls += 1
        rounds.append((time.process_time() - started) / calls * 1e6)
    return min(rounds)


class MemoryIds:
    """A registry in memory."""

    def __init__(self) -> None:
        self._schemas: list[str] = []

    def id_of(self, subject: str, schema: str) -> int:  # noqa: ARG002 - the port's signature
        if schema not in self._schemas:
            self._schemas.append(schema)
        return self._schemas.index(schema) + 1

    def schema_of(self, schema_id: int) -> str:
        return self._schemas[schema_id - 1]


def stages_us(size: int) -> dict[str, float]:
    """Return what the worker's way costs for one SDK-shaped session, by stage, in µs of one core.

    Each stage is timed alone and warm, so that the sum is less than the whole, which works in colder
    caches.
    """
    codec = Codec(MemoryIds())
    topology = Topology(codec, load_topics(), OPEN_DIRECTORY)
    bodies = [to_media_collection(sdk_session(size, number)) for number in range(DIFFERENT)]
    stored = []
    for number, body in enumerate(bodies):
        request = Request("/api/v1/downloaded", body, NOW_MS + number, f"request-{number}")
        (r,) = topology.upload_records(topology.receive(request, lambda n=number: f"upload-{n}"))  # type: ignore[misc]  # bound at once
        stored.append(StoredRecord(r.topic, r.partition, number, r.key, r.value, r.timestamp_ms))
    steps = [prepare(one, codec, OPEN_DIRECTORY) for one in stored]
    identified = [step.identified for step in steps if step.identified is not None]
    viewings = [measure(one.session, one.datastream.rules) for one in identified]
    derived = [derive_session(one, NOW_MS) for one in identified]
    outputs = [derive(step, NOW_MS + number) for number, step in enumerate(steps)]
    turn = itertools.cycle(range(DIFFERENT))

    def nothing_known(keys: Sequence[bytes]) -> dict[bytes, bytes]:  # noqa: ARG001 - the port's signature
        return {}

    def calls(n: int) -> object:
        session, datastream, identity, _ = identified[n]
        return analytics_calls(session, viewings[n], identity, datastream)

    def rows(n: int) -> object:
        session, datastream, identity, _ = identified[n]
        return reporting_rows(session, viewings[n], identity, datastream)

    work: dict[str, Callable[[int], object]] = {
        "read the upload": lambda n: codec.decode_record(Upload, stored[n].value),
        "decode and validate": lambda n: media_collection.decode(bodies[n], "/api/v1/downloaded"),
        "identify": lambda n: session_id(identified[n].session, identified[n].datastream),
        "measure": lambda n: measure(identified[n].session, identified[n].datastream.rules),
        "calls": calls,
        "rows": rows,
        "records": lambda n: laid_out(steps[n], derived[n], NOW_MS + n),
        "encode": lambda n: [codec.encode(output.topic, output.value) for output in outputs[n]],
        "the whole": lambda n: topology.process([stored[n]], nothing_known, NOW_MS + n),
    }
    return {
        name: per_call_us(lambda one=one: one(next(turn)))  # type: ignore[misc]  # bound at once
        for name, one in work.items()
    }


def core_table() -> Table:
    """Return the core on one core, and the ratio to decoding alone."""
    table = Table(title=f"Session core on one core ({'compiled' if is_compiled() else 'pure Python'})")
    for column in (
        "events",
        "bytes",
        "msgspec decode µs",
        "decode + validate µs",
        "measure µs",
        "derive all µs",
        "above decoding µs",
        "aim µs",
        "sessions/s",
        "events/s",
        "whole / msgspec decode",
    ):
        table.add_column(column, justify="right")
    for size in SIZES:
        body = to_media_collection(sdk_session(size))
        session = media_collection.decode(body, "/api/v1/downloaded")
        identified = Identified(session, OPEN_DATASTREAM, "f" * 64, "v")
        plain_us = per_call_us(lambda body=body: msgspec.json.decode(body))  # type: ignore[misc]  # bound at once
        decode_us = per_call_us(
            lambda body=body: media_collection.decode(body, "/api/v1/downloaded")  # type: ignore[misc]
        )
        identify_us = per_call_us(lambda session=session: session_id(session, OPEN_DATASTREAM))  # type: ignore[misc]
        measure_us = per_call_us(
            lambda session=session: measure(session, OPEN_DATASTREAM.rules)  # type: ignore[misc]
        )
        derive_us = per_call_us(
            lambda identified=identified: derive_session(identified, 1_770_000_000_000)  # type: ignore[misc]
        )
        whole_us = decode_us + identify_us + derive_us
        table.add_row(
            str(size),
            str(len(body)),
            f"{plain_us:.1f}",
            f"{decode_us:.1f}",
            f"{measure_us:.1f}",
            f"{derive_us:.1f}",
            f"{whole_us - plain_us:.0f}",
            f"{AIM_SESSION_US + size * (AIM_COMPILED_US if is_compiled() else AIM_EVENT_US):.0f}",
            f"{1e6 / whole_us:,.0f}",
            f"{1e6 / whole_us * size:,.0f}",
            f"{whole_us / plain_us:.1f}",
        )
    return table


def stages_table() -> Table:
    """Return the worker's whole way by stage: µs for one session, from stored bytes to records."""
    table = Table(title="The worker's stages, µs per session (no broker)")
    by_size = {size: stages_us(size) for size in SIZES}
    table.add_column("stage")
    for size in SIZES:
        table.add_column(f"{size} events", justify="right")
    for stage in by_size[SIZES[0]]:
        table.add_row(stage, *(f"{by_size[size][stage]:,.0f}" for size in SIZES))
    return table


def is_compiled() -> bool:
    """Whether `make compiled` has built the core."""
    return not str(sys.modules[measure.__module__].__file__).endswith(".py")


def main() -> None:
    """Print two tables: the core beside plain decoding, and the worker's stages."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)
    console = Console(width=180)
    console.print(core_table())
    console.print(stages_table())


if __name__ == "__main__":
    main()
