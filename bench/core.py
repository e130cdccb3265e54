"""`make bench`: what the core costs, beside plain decoding of the same bytes in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from pipeline.session.datastream import OPEN_DATASTREAM
from pipeline.session.measure import measure
from pipeline.session.model import Details, Event, Form, Kind, Qoe, Routing, Session, Visitor
from pipeline.stages.derive import derive_session
from pipeline.stages.prepare import Identified
from pipeline.wire import media_collection
from pipeline.wire.encode import to_media_collection

SIZES: Final = (25, 180, 1_731)
RUN_S: Final = 0.5
REPEATS: Final = 5
PING_S: Final = 50
START: Final[Details] = {
    "name": "film-1",
    "friendlyName": "A film",
    "length": 100_000.0,
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


def sdk_session(events: int) -> Session:
    """Return a session as an SDK sends it: a pre-roll, 50 s pings, a pause now and then, sessionEnd."""
    at_ms, playhead = 1_760_000_000_000, 0.0
    ad: Details = {"name": "ad-1", "length": 15.0, "podPosition": 1, "playerName": "player"}
    found = [
        Event(Kind.SESSION_START, at_ms, 0.0, START),
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
    visitor = Visitor(ecid="4" * 38, key_value="4" * 38)
    return Session(
        Form.MEDIA_COLLECTION, tuple(found), visitor, Routing("ORG@AdobeOrg", ("suite",), "x.sc.omtrdc.net")
    )


def per_call_us(work: Callable[[], object]) -> float:
    """Return the median time of one call, in µs."""
    rounds = []
    for _ in range(REPEATS):
        calls, end = 0, time.perf_counter() + RUN_S / REPEATS
        started = time.perf_counter()
        while time.perf_counter() < end:
            work()
            calls += 1
        rounds.append((time.perf_counter() - started) / calls * 1e6)
    return statistics.median(rounds)


def main() -> None:
    """Print one table: the core on one core, and the ratio to decoding alone."""
    table = Table(title="Session core on one core", title_justify="left")
    for column in (
        "events",
        "bytes",
        "msgspec decode µs",
        "decode + validate µs",
        "measure µs",
        "derive all µs",
        "core (no decode) µs/event",
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
        measure_us = per_call_us(
            lambda session=session: measure(session, OPEN_DATASTREAM.rules)  # type: ignore[misc]
        )
        derive_us = per_call_us(
            lambda identified=identified: derive_session(identified, 1_770_000_000_000)  # type: ignore[misc]
        )
        whole_us = decode_us + derive_us
        table.add_row(
            str(size),
            str(len(body)),
            f"{plain_us:.1f}",
            f"{decode_us:.1f}",
            f"{measure_us:.1f}",
            f"{derive_us:.1f}",
            f"{derive_us / size:.2f}",
            f"{1e6 / whole_us:,.0f}",
            f"{1e6 / whole_us * size:,.0f}",
            f"{whole_us / plain_us:.1f}",
        )
    Console(width=180).print(table)


if __name__ == "__main__":
    main()
