"""Schema ids from a registry with the Confluent API; what was learned once is kept on disk.

An absent registry stops nothing that ran before: ids and schemas come from the file then. One that answers
is asked once in a process whether the file is still right: it may have been made anew. Only
`pipeline topics apply` registers; everything else looks up (an unknown schema is a deployment's fault).
"""

from __future__ import annotations

import fcntl
import json
import ssl
from pathlib import Path
from typing import Any, Final

import httpx
import structlog

from pipeline.contract.ports import Unavailable
from pipeline.settings import SettingError

_log = structlog.get_logger("pipeline.registry")

TIMEOUT_S: Final = 5.0
CHECK_TIMEOUT_S: Final = 2.0
"""What looking whether the file is right may take: no longer does a registry that hangs delay a start."""
CONTENT_TYPE: Final = "application/vnd.schemaregistry.v1+json"
UNAUTHORIZED: Final = 401
FORBIDDEN: Final = 403
NOT_FOUND: Final = 404
CONFLICT: Final = 409
COMPATIBILITY: Final = "FULL_TRANSITIVE"


class HttpRegistry:
    """Implements `SchemaIds` on a registry's Confluent API, with a cache file.

    `login` is a user name and a password; `ca_file` are the certificates that its own is checked with.
    """

    def __init__(
        self, url: str, cache: Path, *, login: tuple[str, str] | None = None, ca_file: str = ""
    ) -> None:
        self._url = _checked(url).rstrip("/")
        self._login = login
        self._tls = _tls(url, ca_file)
        self._cache = cache
        self._ids: dict[str, int] = {}
        self._schemas: dict[int, str] = {}
        for number, schema in _read(cache).get(self._url, {}).items():
            self._remember(int(number), schema)
        self._unchecked = set(self._ids)
        """The schemas whose ids the file has said, and the registry not yet."""

    def id_of(self, subject: str, schema: str) -> int:
        """Return the id that this schema is registered with, or raise `Unavailable` or `SettingError`."""
        if schema not in self._ids:
            answer = self._ask("POST", f"/subjects/{subject}", {"schema": schema, "schemaType": "AVRO"})
            if answer.status_code == NOT_FOUND:
                raise SettingError(
                    f"PIPELINE_REGISTRY_URL: {subject} is not registered at {self._url} in this version: "
                    "run `pipeline topics apply`"
                )
            self._learn(int(self._member(answer, "id")), schema)
        elif schema in self._unchecked:
            self._check(subject, schema)
        return self._ids[schema]

    def _check(self, subject: str, schema: str) -> None:
        """Take the registry's id where the file has another; without an answer the file holds."""
        self._unchecked.remove(schema)
        held = self._ids[schema]
        body = {"schema": schema, "schemaType": "AVRO"}
        try:
            answer = self._ask("POST", f"/subjects/{subject}", body, CHECK_TIMEOUT_S)
            is_known = answer.status_code != NOT_FOUND
            found = int(self._member(answer, "id")) if is_known else None
        except (Unavailable, SettingError):
            self._unchecked.clear()  # the others would wait as long
            return
        if found is None:
            mend = "run `pipeline topics apply`, then start the services again"
            _log.error("schema_not_registered", subject=subject, schema_id=held, mend=mend)
        elif found != held:
            _log.error("schema_id_changed", subject=subject, before=held, schema_id=found)
            self._learn(found, schema)

    def schema_of(self, schema_id: int) -> str:
        """Return the schema with this id, or raise KeyError or `Unavailable`."""
        if schema_id not in self._schemas:
            answer = self._ask("GET", f"/schemas/ids/{schema_id}", None)
            if answer.status_code == NOT_FOUND:
                raise KeyError(schema_id)
            self._learn(schema_id, str(self._member(answer, "schema")))
        return self._schemas[schema_id]

    def register(self, subject: str, schema: str) -> int:
        """Register a schema and return its id, or raise `SettingError` when it is not compatible."""
        body = {"schema": schema, "schemaType": "AVRO"}
        answer = self._ask("POST", f"/subjects/{subject}/versions", body)
        if answer.status_code == CONFLICT:
            raise SettingError(
                f"PIPELINE_REGISTRY_URL: {subject} is not compatible with the version at {self._url}: "
                "add fields with defaults only, or make a new topic with the suffix .v2"
            )
        self._learn(int(self._member(answer, "id")), schema)
        return self._ids[schema]

    def is_registered(self, subject: str, schema: str) -> bool:
        """Return whether the registry has this schema under this subject, whatever the cache says."""
        answer = self._ask("POST", f"/subjects/{subject}", {"schema": schema, "schemaType": "AVRO"})
        return answer.status_code != NOT_FOUND and bool(self._member(answer, "id"))

    def require_compatible(self, subject: str) -> None:
        """Make the registry refuse versions of this subject that old or new readers can't read."""
        self._json(self._ask("PUT", f"/config/{subject}", {"compatibility": COMPATIBILITY}))

    def _ask(
        self, method: str, path: str, body: dict[str, Any] | None, timeout_s: float = TIMEOUT_S
    ) -> httpx.Response:
        try:
            answer = httpx.request(
                method,
                self._url + path,
                json=body,
                headers={"content-type": CONTENT_TYPE},
                timeout=timeout_s,
                trust_env=False,
                auth=self._login,
                verify=self._tls,
            )
        except httpx.HTTPError as error:
            raise Unavailable(
                f"PIPELINE_REGISTRY_URL: can't reach the registry at {self._url}: {error or repr(error)}. "
                "Is it running, and is the address right?"
            ) from None
        if answer.status_code in (UNAUTHORIZED, FORBIDDEN):
            raise SettingError(
                f"PIPELINE_REGISTRY_USERNAME / PIPELINE_REGISTRY_PASSWORD: {self._url} refuses them "
                f"with {answer.status_code}"
            )
        return answer

    def _json(self, answer: httpx.Response) -> dict[str, Any]:
        if not answer.is_success:
            raise Unavailable(
                f"PIPELINE_REGISTRY_URL: {self._url} answered {answer.status_code}: {answer.text[:200]}"
            )
        try:
            found = answer.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise SettingError(
                f"PIPELINE_REGISTRY_URL: what {self._url} answers is no registry's: is the path of its "
                "Confluent API right?"
            )
        return found

    def _member(self, answer: httpx.Response, name: str) -> Any:
        found = self._json(answer)
        if name not in found:
            raise SettingError(f"PIPELINE_REGISTRY_URL: what {self._url} answers has no {name!r}")
        return found[name]

    def _remember(self, number: int, schema: str) -> None:
        self._ids[schema] = number
        self._schemas[number] = schema

    def _learn(self, number: int, schema: str) -> None:
        """Remember, and keep on disk; other threads and processes learn into the same file."""
        self._remember(number, schema)
        self._cache.parent.mkdir(parents=True, exist_ok=True)
        with self._cache.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            held = _read(self._cache)
            known = held.setdefault(self._url, {})
            known.pop(str(number), None)  # of several ids of a schema the last one holds
            known[str(number)] = schema
            temporary = self._cache.with_suffix(".new")
            temporary.write_text(json.dumps(held, indent=1))
            temporary.replace(self._cache)


def _checked(url: str) -> str:
    """Return the address, or raise `SettingError` for one that is none, or that shows a password in logs."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise SettingError(f"PIPELINE_REGISTRY_URL: {url!r} is no address: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise SettingError(
            f"PIPELINE_REGISTRY_URL: {url!r} does not begin with http:// or https:// and a host"
        )
    if parsed.userinfo:
        raise SettingError(
            "PIPELINE_REGISTRY_URL holds a user name: give it by PIPELINE_REGISTRY_USERNAME and "
            "PIPELINE_REGISTRY_PASSWORD"
        )
    return url


def _tls(url: str, ca_file: str) -> ssl.SSLContext | bool:
    """Return what the registry's certificate is checked with, made once: each making reads all authorities.

    A plain address has no certificate: redirects are not followed.
    """
    try:
        if ca_file:
            return ssl.create_default_context(cafile=ca_file)
        return httpx.URL(url).scheme != "http" and httpx.create_ssl_context(trust_env=False)
    except OSError as error:
        raise SettingError(f"PIPELINE_REGISTRY_CA_FILE: can't use {ca_file}: {error}") from None


def _read(cache: Path) -> dict[str, dict[str, str]]:
    """Return what the cache holds; one that can't be read is none: the registry is asked again."""
    try:
        held = json.loads(cache.read_text())
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}
