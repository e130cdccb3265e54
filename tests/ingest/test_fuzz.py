"""Whatever bytes come: an answer with a documented status or a cut in time, and what was answered is kept.

Hypothesis makes requests that are nearly right, on a real socket: bodies of any JSON and of none, heads with
strange lines, chunks, codings, and bytes changed, left out, doubled and cut off anywhere.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.wire.encode import to_media_edge
from tests.ingest.serving import DEADLINES, IN_TIME_S, SOON_S, Served, deadlines, post, served, status_of
from tests.ingest.test_door import GOOD, Asked
from tests.stories import story

KEEPS = {200, 201, 207, 400, 413, 415, 422}
KEEPS_NOTHING = {401, 404, 405, 408, 431, 503}
NOT_HTTP = b"Invalid HTTP request received."
PATHS = (
    b"/api/v1/downloaded",
    b"/api/v1/sessions",
    b"/first-party/api/v1/sessions",
    b"/ee/va/v1/downloaded?configId=a",
    b"/ee/or2/va/v1/downloaded?configId=a&requestId=%F0%9F%8E%AC",
    b"/ee/va/v1/downloaded",
    b"/nothing",
)
EDGE_GOOD = b'{"events": [' + to_media_edge(story("0 start, 9 end")) + b"]}"
LINES = st.sampled_from(
    [
        b"content-encoding: gzip",
        b"content-encoding: zstd",
        b"content-encoding: br",
        b"content-type: application/xml",
        b"content-type: \xff\xfe",
        b"expect: 100-continue",
        b"upgrade: websocket\r\nconnection: upgrade",
        b"x-request-id: \xf0\x9f",
        b"transfer-encoding: chunked",
        b"content-length: 3",
        b"connection: close",
        b": nameless",
        b"x" * 300 + b": long",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["eventType", "playerTime", "params", "events", "xdm", "x"]), inner)
    ),
    max_leaves=8,
)
STRANGE = [
    b"",
    b"[" * 5_000,
    b'{"a":' * 3_000,
    b'[{"eventType":"sessionStart","eventType":"sessionStart"}]',
    GOOD.replace(b'"ts":', b'"ts":1' + b"0" * 5_000 + b',"ts":', 1),
    GOOD.replace(b"film-1", b"\\ud800"),
    GOOD.replace(b"film-1", b"\xff\xfe"),
    b"\xef\xbb\xbf" + GOOD,
    GOOD.decode().encode("utf-16"),
    GOOD.replace(b":0", b":NaN", 1),
    b"[Infinity]",
    b"[1e400]",
]
BODIES = st.one_of(
    st.sampled_from([GOOD, EDGE_GOOD, *STRANGE]),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=60),
    st.sampled_from([gzip.compress(GOOD), zlib.compress(GOOD), zstandard.compress(GOOD)]),
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    request = post(draw(BODIES), *draw(st.lists(LINES, max_size=3)), path=draw(st.sampled_from(PATHS)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(request)))
        end = draw(st.integers(at, min(len(request), at + 40)))
        change: Any = draw(st.sampled_from(["cut", "leave out", "double", "replace"]))
        inside = {
            "cut": request[:at],
            "leave out": request[:at] + request[end:],
            "double": request[:end] + request[at:],
            "replace": request[:at] + draw(st.binary(max_size=8)) + request[end:],
        }
        request = inside[change]
    return request


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patched:
        deadlines(patched, *DEADLINES)
        patched.setattr("pipeline.ingest.server.KEEP_ALIVE_S", SOON_S)
        with served(Asked()) as running:
            yield running


@given(request=requests())
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_invariant(server: Served, request: bytes) -> None:
    kept = len(server.door.uploads())
    answer = server.exchange(request, half_close=True, timeout=IN_TIME_S)
    status = status_of(answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n"))
    assert status is None or status in KEEPS | KEEPS_NOTHING, answer
    if status in KEEPS and NOT_HTTP not in answer:
        assert len(server.door.uploads()) > kept, answer
    if kept % 20 == 0:
        with pytest.MonkeyPatch.context() as patched:
            deadlines(patched)
            good = server.exchange(post(GOOD, b"connection: close"))
        assert status_of(good) == 201, "it serves no more"
