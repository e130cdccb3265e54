"""The HTTP service: one Starlette app around the door.

A request becomes a `receive.Request`; the door says the answer and the records; the sink makes them
durable; then the answer goes out. Nothing else is decided here.
"""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from collections.abc import Callable
from typing import Final, NamedTuple

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from pipeline.contract.ports import Unavailable, UploadSink
from pipeline.ingest import openapi
from pipeline.ingest.body import Body, Gone, SlowSender, read_body
from pipeline.ingest.clientip import ClientIp, shown_ip
from pipeline.ingest.limits import Limits
from pipeline.metrics import Meters
from pipeline.stages import receive
from pipeline.stages.receive import Answer, Reception
from pipeline.topology import Topology
from pipeline.traces import OFF, Headers, Traces
from pipeline.wire import schemas

_log = structlog.get_logger("pipeline.ingest")

RETRY_AFTER_S: Final = 5
LIMITED_RETRY_AFTER_S: Final = 60
CORS: Final = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "OPTIONS,POST,PUT",
    "access-control-allow-headers": "Content-Type",
    "access-control-expose-headers": "Location",
}


class Door(NamedTuple):
    """What the service needs: the stages, where to store, clocks and chance as functions."""

    topology: Topology
    sink: UploadSink
    meters: Meters
    body_limit_bytes: int
    store_deadline_s: float
    path_prefix: str = ""
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    new_id: Callable[[], str] = lambda: str(uuid.uuid4())
    is_ready: Callable[[], bool] = lambda: True
    limits: Limits | None = None
    client_ip: ClientIp = ClientIp.NONE
    monotonic: Callable[[], float] = time.monotonic
    traces: Traces = OFF


def make_app(door: Door) -> Starlette:
    """Return the ASGI app that serves both APIs, the schemas, health and metrics."""
    service = _Service(door)
    prefixes = [""] + ([door.path_prefix.rstrip("/")] if door.path_prefix.strip("/") else [])
    routes = [
        Route(prefix + path, service.upload, methods=["POST", "OPTIONS"])
        for prefix in prefixes
        for path in (receive.DOWNLOADED, receive.SESSIONS)
    ]
    routes += [
        Route(receive.EDGE, service.upload, methods=["POST", "OPTIONS"]),
        Route("/ee/{hint}/va/v1/downloaded", service.upload, methods=["POST", "OPTIONS"]),
        Route("/api/v1/schemas", service.schema_list),
        Route("/api/v1/schemas/{event_type}", service.schema),
        Route("/health/live", service.live),
        Route("/health/ready", service.ready),
        Route("/metrics", service.metrics),
        Route("/openapi.json", service.openapi),
        Route("/docs", service.docs),
    ]
    return Starlette(routes=routes)


class _Service:
    """The handlers, bound to one door."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def upload(self, request: Request) -> Response:
        """Answer an upload: preflight, 408, or what the door says once it is durable."""
        if request.method == "OPTIONS":
            return Response(status_code=200, headers=CORS)
        started = time.perf_counter()
        path = _canonical_path(request.url.path)
        try:
            body = await read_body(request, self._door.body_limit_bytes)
        except SlowSender:
            return self._counted(
                path, PlainTextResponse("body too slow", 408, {"connection": "close"} | CORS)
            )
        except Gone:
            return self._counted(path, Response(status_code=408, headers=CORS))
        with self._door.traces.request(path, request.headers) as span:
            answer = await self._answer(self._request(request, path, body), span.headers)
            span.answered(answer.status)
        self._door.meters.observe("pipeline_request_seconds", time.perf_counter() - started, path)
        return self._counted(path, Response(answer.body, answer.status, dict(answer.headers) | CORS))

    async def _answer(self, request: receive.Request, trace: Headers) -> Answer:
        door = self._door
        reception = door.topology.receive(request, door.new_id)
        for fault in reception.faults:
            door.meters.count("pipeline_internal_errors_total", "ingest")
            _log.error("internal_error", request_id=request.request_id, error=fault.partition("(")[0])
        if self._is_over_a_limit(reception):
            return receive.unavailable(request, LIMITED_RETRY_AFTER_S)
        try:
            records = door.topology.upload_records(reception, trace)
            if records:
                async with asyncio.timeout(door.store_deadline_s):
                    await door.sink.store(records)
        except (Unavailable, TimeoutError, MemoryError) as error:
            door.meters.count("pipeline_store_failures_total")
            _log.error("not_stored", request_id=request.request_id, error=repr(error))
            return receive.unavailable(request, RETRY_AFTER_S)
        for upload in reception.uploads:
            door.meters.count("pipeline_uploads_total", upload.value.verdict)
        return reception.answer

    def _is_over_a_limit(self, reception: Reception) -> bool:
        limits, now = self._door.limits, self._door.monotonic()
        if limits is None or not reception.uploads:
            return False
        refused_bytes = sum(
            len(upload.value.body) for upload in reception.uploads if upload.value.verdict == receive.REJECTED
        )
        hit = limits.hit(reception.uploads[0].value.datastream_id, refused_bytes, now)
        for _ in reception.faults:
            limits.count_fault(now)
        if hit is not None:
            self._door.meters.count("pipeline_limited_total", hit.value)
            _log.warning("limited", limit=hit.value, datastream=reception.uploads[0].value.datastream_id)
        return hit is not None

    def _request(self, request: Request, path: str, body: Body) -> receive.Request:
        sent = request.query_params.get("requestId") or request.headers.get("x-request-id")
        return receive.Request(
            path=path,
            body=body.data,
            content_type=request.headers.get("content-type", "")[:256],
            content_encoding=body.content_encoding,
            truncated=body.truncated,
            broken=body.broken,
            unsupported_coding=body.unsupported,
            config_id=request.query_params.get("configId"),
            location_hint=request.path_params.get("hint"),
            user_agent=request.headers.get("user-agent", "")[:256] or None,
            request_id=f"{(sent or self._door.new_id())[:64]}-{secrets.token_hex(8)}",
            received_at_ms=self._door.now_ms(),
            body_limit_bytes=self._door.body_limit_bytes,
            client_ip=shown_ip(request.client.host if request.client else "", self._door.client_ip),
            api_key=request.headers.get("x-api-key"),
        )

    def _counted(self, path: str, response: Response) -> Response:
        self._door.meters.count("pipeline_requests_total", path, str(response.status_code))
        return response

    async def schema_list(self, _request: Request) -> Response:
        """Answer the list of event types that have a schema."""
        return JSONResponse(list(schemas.EVENT_TYPES), headers=CORS)

    async def schema(self, request: Request) -> Response:
        """Answer the JSON Schema of one event type, or 404."""
        event_type = request.path_params["event_type"]
        if event_type not in schemas.EVENT_TYPES:
            return JSONResponse(
                {"type": "about:blank", "title": "Not Found", "status": 404},
                404,
                CORS,
                "application/problem+json",
            )
        return JSONResponse(schemas.schema(event_type), headers=CORS)

    async def live(self, _request: Request) -> Response:
        """Answer 200 as long as the event loop runs."""
        return JSONResponse({"status": "live"})

    async def ready(self, _request: Request) -> Response:
        """Answer 200 when an upload could be stored now, else 503; stores nothing."""
        limits = self._door.limits
        is_faulty = limits is not None and limits.has_too_many_faults(self._door.monotonic())
        if self._door.is_ready() and not is_faulty:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready"}, 503, {"retry-after": str(RETRY_AFTER_S)})

    async def metrics(self, _request: Request) -> Response:
        """Answer all metrics in Prometheus' text format."""
        return Response(self._door.meters.text(), media_type="text/plain; version=0.0.4")

    async def openapi(self, _request: Request) -> Response:
        """Answer the OpenAPI document."""
        return JSONResponse(openapi.openapi(), headers=CORS)

    async def docs(self, _request: Request) -> Response:
        """Answer the page that shows the OpenAPI document."""
        return HTMLResponse(openapi.page())


def _canonical_path(path: str) -> str:
    """Return which of the three documented paths this is, whatever prefix or hint it came under."""
    if path.startswith("/ee/"):
        return receive.EDGE
    return receive.SESSIONS if path.endswith(receive.SESSIONS) else receive.DOWNLOADED
