"""The front door's judgement: one HTTP request in, its answer and its uploads out.

Pure: ids come from `new_id`, the time of receipt with the request. The ingest makes the uploads
durable and only then sends the answer (DESIGN.md 2.1, 2.2). Statuses: `spec/media-collection.md` 1.8
and 6, `spec/media-edge.md` 2, DESIGN.md 6.
"""

from __future__ import annotations

import hmac
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import PurePath
from typing import Final, NamedTuple

from pipeline.contract.records import Problem as ProblemRecord
from pipeline.contract.records import Upload
from pipeline.session.datastream import OPEN_DATASTREAM, Datastream
from pipeline.session.identity import session_id, visitor_key, visitor_key_of
from pipeline.session.model import Form, Session
from pipeline.stages.datastreams import Directory, api_keys
from pipeline.wire import media_collection, media_edge, responses
from pipeline.wire.problems import MOST_PROBLEMS, Problem, Rejected, cut, more
from pipeline.wire.typed import Glance, glance

DOWNLOADED: Final = "/api/v1/downloaded"
SESSIONS: Final = "/api/v1/sessions"
EDGE: Final = "/ee/va/v1/downloaded"

ACCEPTED: Final = "accepted"
REJECTED: Final = "rejected"

LEAST_PROBLEMS: Final = 2
"""So many are told of every item: a missing identity, which is more than the item's fault, is among them."""

_JSON_TYPES: Final = frozenset({"", "application/json", "text/plain", "text/javascript"})
_DEPRECATED: Final = (
    ("deprecation", "@1628553600"),
    ("link", f'<{DOWNLOADED}>; rel="successor-version"'),
)
_OCTETS: Final = ("content-type", "application/octet-stream")
_PROBLEM: Final = ("content-type", "application/problem+json")
_JSON: Final = ("content-type", "application/json")


class Request(NamedTuple):
    """One HTTP request as the ingest read it; `path` is one of the three documented paths."""

    path: str
    body: bytes
    received_at_ms: int
    request_id: str
    content_type: str = "application/json"
    content_encoding: str | None = None
    truncated: bool = False
    broken: str | None = None
    """Why the content coding could not be undone; then `body` is as sent."""
    unsupported_coding: bool = False
    config_id: str | None = None
    location_hint: str | None = None
    user_agent: str | None = None
    client_ip: str | None = None
    body_limit_bytes: int = 4 * 1024 * 1024
    api_key: str | None = None


class Answer(NamedTuple):
    """The HTTP answer."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


class KeyedUpload(NamedTuple):
    """One upload with the key of its record: visitor key, else session id, else upload id."""

    value: Upload
    key: str
    session: Session | None = None
    """The decoded session where it is valid and was decoded (`whole`; the worker decodes again)."""


class Reception(NamedTuple):
    """What the door decided; `faults` are unexpected exceptions, each an alarm."""

    answer: Answer
    uploads: tuple[KeyedUpload, ...]
    faults: tuple[str, ...] = ()


class _Verdict(NamedTuple):
    """The judgement of one upload, before it is written down."""

    status: int
    datastream_id: str
    problems: tuple[Problem, ...] = ()
    reason: str | None = None
    session: Session | None = None
    session_id: str | None = None
    key: str | None = None
    fault: str | None = None


class _Unauthorised(Exception):
    """The sender doesn't carry the key that the datastream demands: 401, nothing is kept."""


def receive(
    request: Request, directory: Directory, new_id: Callable[[], str], *, whole: bool = False
) -> Reception:
    """Return the answer of this request and every upload in it; never raises for a body.

    With `whole` each valid upload comes with its decoded session.
    """
    try:
        if request.path == EDGE:
            return _receive_edge(request, directory, new_id)
        return _receive_media_collection(request, directory, new_id, whole=whole)
    except Exception as error:  # noqa: BLE001 - DESIGN.md 2.2: a fault of ours must not delete the session
        return failed(request, error, new_id)


def failed(request: Request, error: Exception, new_id: Callable[[], str]) -> Reception:
    """Return the success answer and the one upload of a request that a fault of ours met."""
    is_edge = request.path == EDGE
    verdict = _Verdict(200 if is_edge else 201, "", reason="internal_error", fault=described(error))
    form = Form.MEDIA_EDGE if is_edge else Form.MEDIA_COLLECTION
    upload = _written(request, verdict, request.body, form, None, new_id())
    if is_edge:
        body = responses.edge_answer(request.request_id, request.location_hint, [], {}, OPEN_DATASTREAM)
        return Reception(Answer(200, (_JSON,), body), (upload,), _faults(verdict))
    return Reception(Answer(201, (_OCTETS,)), (upload,), _faults(verdict))


def unavailable(request: Request, retry_after_s: int) -> Answer:
    """Return the 503 that makes both SDK platforms keep the session (DESIGN.md 2.2)."""
    headers = (("retry-after", str(retry_after_s)), _PROBLEM)
    if request.path == EDGE:
        return Answer(503, headers, responses.edge_problem("EXEG-0000-503", request.request_id))
    return Answer(503, headers, responses.problem(503, "Nothing could be stored; send it again later."))


def _receive_media_collection(
    request: Request, directory: Directory, new_id: Callable[[], str], *, whole: bool
) -> Reception:
    refused = _refused_by_envelope(request)
    if refused:
        verdict = _Verdict(refused.status, _open_id(directory), (refused.problem,), refused.problem.rule)
    else:
        try:
            seen = None if whole else glance(request.body, request.path)
            judge = partial(_judge_media_collection, request, directory, seen)
            verdict = _judged(judge, 201, _open_id(directory))
        except _Unauthorised:
            detail = "The header x-api-key does not hold the datastream's key."
            return Reception(Answer(401, (_PROBLEM,), responses.problem(401, detail)), ())
    headers = _DEPRECATED if request.path == SESSIONS and request.body.lstrip()[:1] == b"[" else ()
    upload = _written(request, verdict, request.body, Form.MEDIA_COLLECTION, None, new_id())
    if verdict.status == 201:
        location = (("location", f"{SESSIONS}/{verdict.session_id}"),) if verdict.session_id else ()
        created = (_OCTETS, *location, *headers)
        return Reception(Answer(201, created), (upload,), _faults(verdict))
    body = responses.media_collection_problem(verdict.status, verdict.problems)
    return Reception(Answer(verdict.status, (_PROBLEM, *headers), body), (upload,))


def _judge_media_collection(request: Request, directory: Directory, seen: Glance | None) -> _Verdict:
    try:
        session = None if seen else media_collection.decode(request.body, request.path)
    except Rejected as rejected:
        return _refused(request, directory.by_report_suites(rejected.report_suites), rejected)
    suites = session.routing.report_suites if session else seen.report_suites if seen else ()
    datastream = directory.by_report_suites(suites)
    if datastream is None:
        return _Verdict(201, "", reason="unknown_datastream", session=session)
    if datastream.disabled:
        return _Verdict(201, datastream.id, reason="datastream_disabled", session=session)
    _require_key(request, datastream)
    too_large = _larger_than_allowed(request, datastream)
    if too_large:
        return _Verdict(413, datastream.id, (too_large,), too_large.rule)
    if datastream.strict:
        try:
            session = media_collection.decode(request.body, request.path, strict=True)
        except Rejected as rejected:
            return _refused(request, datastream, rejected)
    if session is not None:
        return _accepted(session, datastream, 201)
    assert seen is not None  # noqa: S101 - what was not decoded was seen
    identity = seen.session_id(datastream.id)
    key = visitor_key_of(seen.visitor, datastream.id, identity)
    return _Verdict(201, datastream.id, session_id=identity, key=key)


def _refused(request: Request, datastream: Datastream | None, rejected: Rejected) -> _Verdict:
    """Return the verdict of an invalid body: it is that datastream's which it names, else the open one's."""
    if datastream is None:
        return _Verdict(400, "", rejected.problems, "invalid")
    _require_key(request, datastream)
    return _Verdict(400, datastream.id, rejected.problems, "invalid")


def _require_key(request: Request, datastream: Datastream) -> None:
    if not datastream.api_key:
        return
    given = (request.api_key or "").encode()
    right = [hmac.compare_digest(given, key.encode()) for key in api_keys(datastream)]
    if not any(right):
        raise _Unauthorised


def _larger_than_allowed(request: Request, datastream: Datastream) -> Problem | None:
    limit = datastream.body_limit_bytes
    if not limit or len(request.body) <= limit:
        return None
    return Problem("", "body_too_large", f"larger than {limit} bytes")


class _Refusal(NamedTuple):
    """A request refused before its body is looked into, with the Edge code of the same fault."""

    status: int
    problem: Problem
    edge_code: str


def _refused_by_envelope(request: Request) -> _Refusal | None:
    if request.truncated:
        message = f"larger than {request.body_limit_bytes} bytes"
        return _Refusal(413, Problem("", "body_too_large", message), "EXEG-0112-413")
    content_type = request.content_type.split(";")[0].strip().lower()
    if content_type not in _JSON_TYPES:
        message = f"content type {content_type!r} is not JSON"
        return _Refusal(415, Problem("", "content_type", message), "EXEG-0111-415")
    if request.unsupported_coding:
        message = f"content coding {request.content_encoding!r} is not gzip, deflate or zstd"
        return _Refusal(415, Problem("", "content_encoding", message), "EXEG-0111-415")
    if request.broken:
        return _Refusal(400, Problem("", "content_encoding", request.broken), "EXEG-0101-400")
    return None


def _receive_edge(request: Request, directory: Directory, new_id: Callable[[], str]) -> Reception:
    if not request.body and not request.truncated:
        # Documented as 408, and a 408 keeps nothing: there are no bytes to keep.
        code = "EXEG-0109-408"
        return Reception(Answer(408, (_PROBLEM,), responses.edge_problem(code, request.request_id)), ())
    refused = _refused_by_envelope(request)
    if refused:
        return _fatal(request, refused.edge_code, (refused.problem,), new_id())
    if not request.config_id:
        problem = Problem("", "config_id", "the query parameter configId is missing")
        return _fatal(request, "EXEG-0002-400", (problem,), new_id())
    datastream = directory.by_id(request.config_id)
    if datastream is None:
        problem = Problem("", "unknown_datastream", cut(f"no datastream {request.config_id!r}"))
        return _fatal(request, "EXEG-0003-400", (problem,), new_id())
    if datastream.disabled:
        problem = Problem("", "datastream_disabled", f"datastream {datastream.id!r} is switched off")
        return _fatal(request, "EXEG-0004-422", (problem,), new_id())
    try:
        _require_key(request, datastream)
    except _Unauthorised:
        body = responses.edge_problem("EXEG-0500-401", request.request_id)
        return Reception(Answer(401, (_PROBLEM,), body), ())
    too_large = _larger_than_allowed(request, datastream)
    if too_large:
        return _fatal(request, "EXEG-0112-413", (too_large,), new_id())
    try:
        items = media_edge.split(request.body)
    except Rejected as rejected:
        code = responses.edge_code(rejected.problems)
        return _fatal(request, code, rejected.problems, new_id(), datastream)
    verdicts = _judged_edge(items, datastream)
    nobody = next((v.problems for v in verdicts if media_edge.lacks_identity(v.problems)), ())
    if nobody:
        return _fatal(request, "EXEG-0306-400", nobody, new_id(), datastream)
    uploads = tuple(
        _written(request, verdict, item, Form.MEDIA_EDGE, index, new_id())
        for index, (item, verdict) in enumerate(zip(items, verdicts, strict=True))
    )
    errors = {index: verdict.problems for index, verdict in enumerate(verdicts) if verdict.problems}
    body = responses.edge_answer(
        request.request_id, request.location_hint, [v.session_id for v in verdicts], errors, datastream
    )
    faults = tuple(fault for verdict in verdicts for fault in _faults(verdict))
    return Reception(Answer(207 if errors else 200, (_JSON,), body), uploads, faults)


def _judged_edge(items: Sequence[bytes], datastream: Datastream) -> list[_Verdict]:
    """Return the verdict of each item; together they tell about as many problems as one body may."""
    verdicts = []
    left = MOST_PROBLEMS
    for item in items:
        verdict = _judged(partial(_judge_edge, item, datastream), 200, datastream.id)
        if len(verdict.problems) > max(left, LEAST_PROBLEMS):
            told = verdict.problems[: max(left, LEAST_PROBLEMS)]
            verdict = verdict._replace(problems=(*told, more("$", len(told), 0)))
        left -= len(verdict.problems)
        verdicts.append(verdict)
    return verdicts


def _judge_edge(item: bytes, datastream: Datastream) -> _Verdict:
    session = media_edge.decode(item, datastream, strict=datastream.strict)
    return _accepted(session, datastream, 200)


def _fatal(
    request: Request,
    code: str,
    problems: tuple[Problem, ...],
    upload_id: str,
    datastream: Datastream | None = None,
) -> Reception:
    status = responses.EDGE_ERRORS[code].status
    # Past the datastream only the body itself can be at fault; before it, the problem is the reason.
    reason = "invalid" if datastream else problems[0].rule
    verdict = _Verdict(status, datastream.id if datastream else "", problems, reason)
    upload = _written(request, verdict, request.body, Form.MEDIA_EDGE, None, upload_id)
    body = responses.edge_problem(code, request.request_id, problems)
    return Reception(Answer(status, (_PROBLEM,), body), (upload,))


def _accepted(session: Session, datastream: Datastream, status: int) -> _Verdict:
    identity = session_id(session, datastream)
    key = visitor_key(session, datastream, identity)
    return _Verdict(status, datastream.id, session=session, session_id=identity, key=key)


def _judged(judge: Callable[[], _Verdict], success: int, datastream_id: str) -> _Verdict:
    try:
        return judge()
    except Rejected as rejected:
        return _Verdict(400, datastream_id, rejected.problems, "invalid")
    except _Unauthorised:
        raise
    except Exception as error:  # noqa: BLE001 - DESIGN.md 2.2: a fault of ours must not delete the session
        return _Verdict(success, datastream_id, reason="internal_error", fault=described(error))


def described(error: BaseException) -> str:
    """Return what broke and where, without the exception's text, which may hold parts of a body."""
    *_, last = traceback.extract_tb(error.__traceback__) or [None]
    if last is None:
        return type(error).__name__
    return f"{type(error).__name__} in {last.name}, {PurePath(last.filename).name} line {last.lineno}"


def _open_id(directory: Directory) -> str:
    return directory.open.id if directory.open else ""


def _faults(verdict: _Verdict) -> tuple[str, ...]:
    return (verdict.fault,) if verdict.fault else ()


def _written(
    request: Request, verdict: _Verdict, body: bytes, form: Form, index: int | None, upload_id: str
) -> KeyedUpload:
    refused = verdict.reason is not None
    upload = Upload(
        upload_id=upload_id,
        request_id=request.request_id,
        received_at_ms=request.received_at_ms,
        form=form.value,
        path=request.path,
        event_index=index,
        datastream_id=verdict.datastream_id,
        content_type=request.content_type,
        content_encoding=request.content_encoding,
        user_agent=request.user_agent,
        client_ip=request.client_ip,
        verdict=REJECTED if refused else ACCEPTED,
        reason=verdict.reason,
        status=verdict.status,
        problems=tuple(
            [ProblemRecord(p.pointer, p.rule, p.message, p.index, p.event_type) for p in verdict.problems]
        ),
        truncated=request.truncated,
        session_id=verdict.session_id,
        body=body,
    )
    return KeyedUpload(upload, verdict.key or verdict.session_id or upload_id, verdict.session)
