"""Refused bodies at the real limit: answered in time, in bounded memory, and their records fit the topics."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psutil
import pytest

from pipeline.contract.topics import load_topics
from pipeline.ingest.app import App
from pipeline.settings import load
from pipeline.stages import receive
from pipeline.stages.datastreams import parse_datastreams
from pipeline.wire.encode import to_media_collection, to_media_edge
from pipeline.wire.problems import MOST_ITEMS, MOST_PROBLEMS
from tests.homes.uploading import make_pipeline
from tests.ingest.serving import AMPLE_S, deadlines, post, served, status_of
from tests.ingest.test_door import Asked
from tests.stories import story
from tests.waiting import until

pytestmark = pytest.mark.slow

LIMIT = load({}).ingest_body_limit_bytes
IN_TIME_S = 4.5
MOST_GROWTH_BYTES = 400 * 1024 * 1024
"""A body of empty objects takes about thirty times its size once it is parsed; two are parsed at a time."""
EDGE = receive.EDGE + "?configId=any"


def filled(start: bytes, part: bytes, end: bytes, most: int = LIMIT) -> bytes:
    """Return as many of these parts as fit, with commas between."""
    number = (most - len(start) - len(end) + 1) // (len(part) + 1)
    return start + b",".join([part] * number) + end


EVENTS = (b'{"xdm":{"mediaDownloadedEvents":[', b"{}", b"]}}")
GOOD_ITEM = to_media_edge(story("0 start, 9 end"))
START = json.dumps(json.loads(to_media_collection(story("0 start, 9 end")))[0]).encode()
BODIES: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty events": (lambda: filled(b"[", b"{}", b"]"), receive.DOWNLOADED),
    "numbers for events": (lambda: filled(b"[", b"1", b"]"), receive.DOWNLOADED),
    "names of unknown events": (
        lambda: filled(b"[", b'{"eventType":"' + b"\\u0000" * 9_000 + b'"}', b"]"),
        receive.DOWNLOADED,
    ),
    "session starts": (lambda: filled(b"[", START, b"]"), receive.DOWNLOADED),
    "one long key": (
        lambda: b'[{"eventType":"' + "\U0001f600".encode() * (LIMIT // 4 - 9) + b'"}]',
        receive.DOWNLOADED,
    ),
    "the empty events of one item": (
        lambda: filled(b'{"events":[' + EVENTS[0], *EVENTS[1:2], EVENTS[2] + b"]}"),
        EDGE,
    ),
    "the empty events of many items": (
        lambda: filled(b'{"events":[', filled(*EVENTS, most=LIMIT // MOST_ITEMS - 1), b"]}"),
        EDGE,
    ),
    "too many items": (lambda: filled(b'{"events":[', b"{}", b"]}"), EDGE),
    "a long name of many identities": (
        lambda: (
            b'{"events":['
            + GOOD_ITEM.replace(b"media.downloaded", b"media.other").replace(
                b'"xdm":{',
                filled(
                    b'"xdm":{"identityMap":{"' + b"n" * (LIMIT // 2) + b'":[',
                    b'{"id":"a"}',
                    b"]},",
                    LIMIT - 5_000,
                ),
            )
            + b"]}"
        ),
        EDGE,
    ),
}
"""How each is made, and where it is sent."""


class Grown:
    """How much memory the process has taken at most."""

    most_bytes = 0


@contextmanager
def growth() -> Iterator[Grown]:
    """Watch the memory of this process while the block runs."""
    here, found, ended = psutil.Process(os.getpid()), Grown(), threading.Event()
    before = here.memory_info().rss

    def watch() -> None:
        while not ended.wait(0.01):
            found.most_bytes = max(found.most_bytes, here.memory_info().rss - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()


@pytest.mark.parametrize("name", BODIES)
def test_a_refused_body_at_the_limit_is_answered_in_time_its_records_fit_and_the_worker_agrees(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Processor time is measured: on a machine that does other work too, the clock tells of that.
    for name_of_limit in ("app.LATEST_ANSWER_S", "protocol.ANSWER_DEADLINE_S", "protocol.BODY_DEADLINE_S"):
        monkeypatch.setattr(f"pipeline.ingest.{name_of_limit}", 120)
    made, path = BODIES[name]
    body = made()
    assert LIMIT - 50_000 < len(body) <= LIMIT
    door = Asked()
    door.app = App(door.door._replace(body_limit_bytes=LIMIT))
    with served(door) as server, growth() as grown:
        started = time.process_time()
        answer = server.exchange(post(body, b"connection: close", path=path.encode()))
        took_s = time.process_time() - started
    status, told = int(answer[9:12]), answer.partition(b"\r\n\r\n")[2]
    assert status in {400, 207}
    assert took_s < IN_TIME_S
    assert grown.most_bytes < MOST_GROWTH_BYTES
    assert len(told) < 1024 * 1024
    stored = records_of(door, "media.uploads")
    assert sum(map(len, stored)) < 2 * LIMIT
    assert max(map(len, stored)) <= load_topics()["media.uploads"].max_record_bytes(LIMIT)
    make_pipeline(door.log, door.codec, partitions=load_topics()["media.uploads"].partitions).carry()
    letters = records_of(door, "media.uploads.dlq")
    assert {door.codec.decode(letter)["reason"] for letter in letters} == {"invalid"}
    assert max(map(len, letters)) <= load_topics()["media.uploads.dlq"].max_record_bytes(LIMIT)


def records_of(door: Asked, topic: str) -> list[bytes]:
    """Return the values of all records of a topic that the door or a worker wrote."""
    return [
        row.value or b"" for (of, _), rows in door.log.disk.records.items() if of == topic for row in rows
    ]


@pytest.mark.parametrize(
    ("problems", "rest"),
    [
        (MOST_PROBLEMS, None),
        (MOST_PROBLEMS + 1, "the others are not told"),
        (MOST_PROBLEMS + 500, "499 more events were not looked into"),
    ],
)
def test_the_first_problems_are_told_and_how_much_was_left(problems: int, rest: str | None) -> None:
    door = Asked()
    answer = door.post(filled(b"[", b"1", b"]", most=problems * 2 + 1)).json()
    (upload,) = door.uploads()
    assert [error["pointer"] for error in answer["errors"]] == [p["pointer"] for p in upload["problems"]]
    assert [error["index"] for error in answer["errors"][:MOST_PROBLEMS]] == list(range(MOST_PROBLEMS))
    last = [(error["rule"], error["message"]) for error in answer["errors"][MOST_PROBLEMS:]]
    assert last == ([("too_many_problems", f"more than {MOST_PROBLEMS} problems: {rest}")] if rest else [])
    number = f"More than {MOST_PROBLEMS}" if rest else str(MOST_PROBLEMS)
    assert answer["detail"] == f"{number} problems; nothing of the body was accepted."


def test_an_item_without_identity_is_fatal_also_after_many_problems() -> None:
    strict = parse_datastreams("[datastream.any]\nstrict = true\n")
    bad = filled(
        b'{"xdm":{"eventType":"x","identityMap":{},"mediaDownloadedEvents":[', b"1", b"]}}", most=9_000
    )
    nobody = b'{"xdm":{"eventType":"x","mediaDownloadedEvents":[1,1,1]}}'
    answer = Asked(strict).post(b'{"events":[' + bad + b"," + nobody + b"]}", EDGE)
    assert (answer.status_code, answer.json()["type"].rsplit("/", 1)[1]) == (400, "EXEG-0306-400")


def test_bodies_that_take_long_fill_no_thread_that_others_need(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    others_answered = threading.Event()

    def slow(*_arguments: object, **_options: object) -> None:
        begun.append(1)
        others_answered.wait(AMPLE_S)
        raise RuntimeError

    deadlines(monkeypatch)
    monkeypatch.setattr("pipeline.wire.media_collection.decode", slow)
    monkeypatch.setattr("pipeline.ingest.app.LATEST_ANSWER_S", AMPLE_S)
    door = Asked()
    door.app = App(door.door._replace(body_limit_bytes=2**20))
    with served(door) as server, ThreadPoolExecutor(8) as senders:

        def send(_number: int) -> int | None:
            return status_of(server.exchange(post(b"[" * 300_000, b"connection: close")))

        first = senders.map(send, range(2))
        until(lambda: len(begun) == 2)
        monkeypatch.setattr("pipeline.ingest.app.LATEST_ANSWER_S", 0.5)
        others = list(senders.map(send, range(6)))
        others_answered.set()
        assert list(first) == [201, 201]
    assert others == [503] * 6, "who would have waited too long is told to come again"
    assert len(begun) == 2, "no thread was left for them"
