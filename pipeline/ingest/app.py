"""The HTTP service: uploads on a short way of their own, everything else on Starlette.

A request becomes a `receive.Request`; the door says the answer and the records; the sink makes them
durable; then the answer goes out. Nothing else is decided here. No exception gets further than this: SDKs
delete a session at a 500, so the answer to one of ours is 503 (or, once the body is read, success, with the
upload kept as `internal_error`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from pipeline.contract.ports import Unavailable, UploadSink
from pipeline.contract.record import Record
from pipeline.ingest import ids, openapi
from pipeline.ingest.body import CODINGS, IDENTITY, Crowded, Gone, Held, Memory, read_body
from pipeline.ingest.clientip import ClientIp, shown_ip
from pipeline.ingest.limits import LATEST_ANSWER_S, Limit, Limits
from pipeline.ingest.protocol import answered_at_once
from pipeline.metrics import Meters
from pipeline.stages import receive
from pipeline.stages.receive import Answer, Reception
from pipeline.topology import Topology
from pipeline.traces import NAMES as TRACE_HEADERS
from pipeline.traces import OFF, Headers, Traces
from pipeline.wire import responses, schemas

_log = structlog.get_logger("pipeline.ingest")

RETRY_AFTER_S: Final = 5
LIMITED_RETRY_AFTER_S: Final = 60
MEMORY_LIMIT_BYTES: Final = 256 * 1024 * 1024
LARGE_BYTES: Final = 256 * 1024
"""A session of 24 h is half of it; what is larger is looked into on a thread of its own."""
MANY_COMMAS: Final = 500
"""An Edge body with more may hold as many items, each an upload, and goes to such a thread too."""
APART_THREADS: Final = 2
"""Those threads: others that the loop needs are never full of such bodies, nor is the memory."""
SENT_ID_CHARACTERS: Final = 64
HEADER_CHARACTERS: Final = 256

CORS: Final = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "OPTIONS,POST,PUT",
    "access-control-allow-headers": "Content-Type",
    "access-control-expose-headers": "Location",
}
"""As documented for the Media Collection API (`spec/media-collection.md` 1.8)."""
EDGE_CORS: Final = CORS | {"access-control-allow-headers": "Content-Type,x-api-key,x-request-id"}
"""On Edge, where nothing is documented, a page may send what the API knows."""

_EDGE_START: Final = "/ee/"
_EDGE_END: Final = "/va/v1/downloaded"
_TRACE_HEADERS: Final = tuple((name.encode(), name) for name in TRACE_HEADERS)
_READ: Final = frozenset(
    {b"content-type", b"content-encoding", b"user-agent", b"x-request-id", b"x-api-key"}
) | {key for key, _ in _TRACE_HEADERS}
_ALLOW: Final = ("allow", "OPTIONS, POST")
_PROBLEM: Final = ("content-type", "application/problem+json")

Received = tuple[Reception, tuple[Record, ...]]
"""What the door decided, and its records."""
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Door(NamedTuple):
    """What the service needs: the stages, where to store, clocks and chance as functions."""

    topology: Topology
    sink: UploadSink
    meters: Meters
    body_limit_bytes: int
    store_deadline_s: float | None
    """How long an answer may wait for the sink; None where the sink itself keeps to a deadline."""
    path_prefix: str = ""
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    new_id: Callable[[], str] = ids.uuid4
    is_ready: Callable[[], bool] = lambda: True
    limits: Limits | None = None
    client_ip: ClientIp = ClientIp.NONE
    monotonic: Callable[[], float] = time.monotonic
    traces: Traces = OFF
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES


class Place(NamedTuple):
    """Which of the three documented paths a path is, and the hint it came under."""

    path: str
    hint: str | None = None


class App:
    """The ASGI app of one door."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._memory = Memory(door.memory_limit_bytes)
        self._apart = ThreadPoolExecutor(APART_THREADS, "apart")
        self._pages = _pages(door)
        prefixes = {"", "/" + door.path_prefix.strip("/")} if door.path_prefix.strip("/") else {""}
        self._places = {receive.EDGE: Place(receive.EDGE)} | {
            prefix + path: Place(path)
            for prefix in prefixes
            for path in (receive.DOWNLOADED, receive.SESSIONS)
        }
        self._cors = {receive.EDGE: EDGE_CORS.items()}
        self._cors_lines = {receive.EDGE: _lines(EDGE_CORS.items())}

    async def __call__(self, scope: Scope, receive_: Receive, send: Send) -> None:
        """Answer one request, whatever happens."""
        place = self._places.get(scope["path"]) or _hinted(scope["path"])
        if place is None:
            await self._page(scope, receive_, send)
            return
        try:
            answer = await self._answer(scope, receive_, place)
        except Gone:
            self._door.meters.count("pipeline_requests_total", place.path, "408")
            return
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the device must keep its session
            self._failed(error)
            answer = receive.unavailable(_nameless(place), RETRY_AFTER_S)
        self._door.meters.count("pipeline_requests_total", place.path, str(answer.status))
        lines = _lines(answer.headers) + self._cors_lines.get(place.path, _CORS_LINES)
        if not answered_at_once(send, answer.status, lines, answer.body):
            headers = [*_encoded(answer.headers), *_encoded(self._cors.get(place.path, CORS.items()))]
            await _sent(send, answer.status, headers, answer.body)

    async def _answer(self, scope: Scope, receive_: Receive, place: Place) -> Answer:
        """Return the answer, once what it promises is durable."""
        if scope["method"] != "POST":
            return _other_method(scope["method"])
        headers = {name: value for name, value in scope["headers"] if name in _READ}
        coding = _text(headers, b"content-encoding").strip().lower() or IDENTITY
        held = Held(self._memory)
        started = time.perf_counter()
        try:
            body = await read_body(receive_, coding, self._door.body_limit_bytes, held)
            request = self._request(scope, place, headers, body)
            with self._door.traces.request(place.path, _trace_of(headers)) as span:
                answer = await self._stored(request, span.headers)
                span.answered(answer.status)
            self._door.meters.observe("pipeline_request_seconds", time.perf_counter() - started, place.path)
        except Crowded:
            self._door.meters.count("pipeline_limited_total", Limit.MEMORY.value)
            return receive.unavailable(_nameless(place), RETRY_AFTER_S)
        finally:
            held.release()
        if body.unsupported:
            return answer._replace(headers=(*answer.headers, ("accept-encoding", ", ".join(CODINGS))))
        return answer

    async def _stored(
        self, request: receive.Request, trace: Headers, received: Received | None = None
    ) -> Answer:
        door = self._door
        is_much = len(request.body) > LARGE_BYTES or (
            request.path == receive.EDGE and request.body.count(b",") > MANY_COMMAS
        )
        if is_much and received is None:
            return await self._stored_apart(request, trace)
        reception, records = received or self._received(request, trace)
        refused_bytes = _refused_bytes(reception)
        if reception.uploads and self._is_over_a_limit(reception, refused_bytes):
            return receive.unavailable(request, LIMITED_RETRY_AFTER_S)
        if records:
            try:
                if door.store_deadline_s is None:
                    await door.sink.store(records)
                else:
                    async with asyncio.timeout(door.store_deadline_s):
                        await door.sink.store(records)
            except (Unavailable, TimeoutError, MemoryError) as error:
                door.meters.count("pipeline_store_failures_total")
                _log.error("not_stored", request=_suffix(request), error=repr(error))
                if door.limits is not None:
                    door.limits.give_back(_datastream_of(reception), refused_bytes)
                return receive.unavailable(request, RETRY_AFTER_S)
        if refused_bytes:
            door.meters.count("pipeline_refused_bytes_total", by=refused_bytes)
        for upload in reception.uploads:
            door.meters.count("pipeline_uploads_total", upload.value.verdict)
        return reception.answer

    async def _stored_apart(self, request: receive.Request, trace: Headers) -> Answer:
        """Do the same for a body whose work is shared with everybody else's, not before it."""
        try:
            async with asyncio.timeout(LATEST_ANSWER_S):
                looking = asyncio.get_running_loop().run_in_executor(
                    self._apart, self._received, request, trace
                )
                return await self._stored(request, trace, await looking)
        except TimeoutError:
            self._door.meters.count("pipeline_store_failures_total")
            _log.error("not_stored", request=_suffix(request), error="too much else is looked into")
            return receive.unavailable(request, RETRY_AFTER_S)

    def _received(self, request: receive.Request, trace: Headers) -> Received:
        """Return what the door decided and its records; a fault of ours becomes a verdict of its own."""
        door = self._door
        reception = door.topology.receive(request, door.new_id)
        try:
            records = door.topology.upload_records(reception, trace)
        except Exception as error:  # noqa: BLE001 - DESIGN.md 2.2: a fault of ours must not delete the session
            reception = receive.failed(request, error, door.new_id)
            records = door.topology.upload_records(reception, trace)
        for fault in reception.faults:
            door.meters.count("pipeline_internal_errors_total", "ingest")
            _log.error("internal_error", request=_suffix(request), error=fault)
        return reception, records

    def _is_over_a_limit(self, reception: Reception, refused_bytes: int) -> bool:
        limits = self._door.limits
        if limits is None:
            return False
        now = self._door.monotonic()
        datastream = _datastream_of(reception)
        hit = limits.hit(datastream, refused_bytes, now)
        for _ in reception.faults:
            limits.count_fault(now)
        if hit is None:
            return False
        self._door.meters.count("pipeline_limited_total", hit.value)
        _log.warning("limited", limit=hit.value, datastream=datastream)
        return True

    def _request(self, scope: Scope, place: Place, headers: dict[bytes, bytes], body: Any) -> receive.Request:
        door = self._door
        query = parse_qs(scope["query_string"].decode("latin-1")) if scope["query_string"] else {}
        sent = query.get("requestId", [_text(headers, b"x-request-id")])[0] or door.new_id()
        client = scope.get("client")
        return receive.Request(
            path=place.path,
            body=body.data,
            content_type=_text(headers, b"content-type")[:HEADER_CHARACTERS],
            content_encoding=body.content_encoding,
            truncated=body.truncated,
            broken=body.broken,
            unsupported_coding=body.unsupported,
            config_id=query.get("configId", [None])[0],
            location_hint=place.hint,
            user_agent=_text(headers, b"user-agent")[:HEADER_CHARACTERS] or None,
            request_id=f"{sent[:SENT_ID_CHARACTERS]}-{ids.random_hex(16)}",
            received_at_ms=door.now_ms(),
            body_limit_bytes=door.body_limit_bytes,
            client_ip=shown_ip(client[0] if client else "", door.client_ip),
            api_key=_text(headers, b"x-api-key") or None,
        )

    def _failed(self, error: BaseException) -> None:
        """Count and log what was answered 503; the text of an exception may hold parts of a body."""
        self._door.meters.count("pipeline_store_failures_total")
        if isinstance(error, Exception):
            self._door.meters.count("pipeline_internal_errors_total", "ingest")
            if self._door.limits is not None:
                self._door.limits.count_fault(self._door.monotonic())
        _log.error("not_answered", error=receive.described(error))

    async def _page(self, scope: Scope, receive_: Receive, send: Send) -> None:
        has_started = False

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal has_started
            # Starlette answers its own faults with 500; nothing of ours may.
            has_started = has_started or message.get("status", 500) < 500 or message.get("status") == 503
            if has_started:
                await send(message)

        try:
            await self._pages(scope, receive_, sending)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - logged, and answered below
            self._failed(error)
        if not has_started:
            answer = receive.unavailable(_nameless(Place(receive.DOWNLOADED)), RETRY_AFTER_S)
            await _sent(send, answer.status, _encoded(answer.headers), answer.body)


def _hinted(path: str) -> Place | None:
    """Return the place of an Edge path with a location hint."""
    if not (path.startswith(_EDGE_START) and path.endswith(_EDGE_END)):
        return None
    hint = path[len(_EDGE_START) : -len(_EDGE_END)]
    return Place(receive.EDGE, hint) if hint and "/" not in hint else None


def _nameless(place: Place) -> receive.Request:
    """Return a request of which nothing but its path is known."""
    return receive.Request(place.path, b"", 0, ids.random_hex(16), location_hint=place.hint)


def _suffix(request: receive.Request) -> str:
    """Return our own part of the request's id: what a client sent as one might name a person."""
    return request.request_id[-16:]


def _refused_bytes(reception: Reception) -> int:
    """Return how many bytes of refused bodies would be kept."""
    return sum([len(u.value.body) for u in reception.uploads if u.value.verdict == receive.REJECTED])


def _datastream_of(reception: Reception) -> str:
    return reception.uploads[0].value.datastream_id if reception.uploads else ""


def _other_method(method: str) -> Answer:
    if method == "OPTIONS":
        return Answer(200, (_ALLOW,))
    return Answer(405, (_ALLOW, _PROBLEM), responses.problem(405, "Uploads are sent with POST."))


def _text(headers: dict[bytes, bytes], name: bytes) -> str:
    return headers[name].decode("latin-1") if name in headers else ""


def _trace_of(headers: dict[bytes, bytes]) -> dict[str, str]:
    """Return the sender's trace context."""
    return {name: headers[key].decode("latin-1") for key, name in _TRACE_HEADERS if key in headers}


def _lines(headers: Iterable[tuple[str, str]]) -> bytes:
    """Return headers as they stand in an answer."""
    return "".join([f"{name}: {value}\r\n" for name, value in headers]).encode("latin-1", "replace")


def _encoded(headers: Any) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers]


_CORS_LINES: Final = _lines(CORS.items())


async def _sent(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


# --- Everything but uploads -------------------------------------------------------------------------------


def _pages(door: Door) -> Starlette:
    """Return the app of the schemas, health, metrics and documentation."""

    async def schema_list(_request: Request) -> Response:
        return JSONResponse(list(schemas.EVENT_TYPES), headers=CORS)

    async def schema(request: Request) -> Response:
        event_type = request.path_params["event_type"]
        if event_type not in schemas.EVENT_TYPES:
            return _problem(404, f"There is no event type of this name; see {SCHEMAS}.")
        return JSONResponse(schemas.schema(event_type), headers=CORS)

    async def live(_request: Request) -> Response:
        return JSONResponse({"status": "live"})

    async def ready(_request: Request) -> Response:
        is_faulty = door.limits is not None and door.limits.has_too_many_faults(door.monotonic())
        if door.is_ready() and not is_faulty:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready"}, 503, {"retry-after": str(RETRY_AFTER_S)})

    async def metrics(_request: Request) -> Response:
        return Response(door.meters.text(), media_type="text/plain; version=0.0.4")

    async def description(_request: Request) -> Response:
        return JSONResponse(openapi.openapi(), headers=CORS)

    async def page(_request: Request) -> Response:
        return HTMLResponse(openapi.page())

    async def refused(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for it alone
        return _problem(error.status_code, error.detail, error.headers)

    app = Starlette(
        routes=[
            Route(SCHEMAS, schema_list),
            Route(SCHEMAS + "/{event_type}", schema),
            Route("/health/live", live),
            Route("/health/ready", ready),
            Route("/metrics", metrics),
            Route("/openapi.json", description),
            Route("/docs", page),
        ],
        exception_handlers={HTTPException: refused},
    )
    # A redirect is a failure to SDKs: iOS deletes the session at one.
    app.router.redirect_slashes = False
    return app


SCHEMAS: Final = "/api/v1/schemas"


def _problem(status: int, detail: str, headers: Any = None) -> Response:
    body = responses.problem(status, detail)
    return Response(body, status, CORS | dict(headers or {}), "application/problem+json")
