"""Schema ids from a registry with the Confluent API; what was learned once is kept on disk.

An absent registry stops nothing that ran before: ids and schemas come from the file then. Only
`pipeline topics apply` registers; everything else looks up (an unknown schema is a deployment's fault).
"""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any, Final

import httpx

from pipeline.contract.ports import Unavailable
from pipeline.settings import SettingError

TIMEOUT_S: Final = 5.0
CONTENT_TYPE: Final = "application/vnd.schemaregistry.v1+json"
NOT_FOUND: Final = 404
CONFLICT: Final = 409
COMPATIBILITY: Final = "FULL_TRANSITIVE"


class HttpRegistry:
    """Implements `SchemaIds` on a registry's Confluent API, with a cache file."""

    def __init__(self, url: str, cache: Path) -> None:
        self._url = url.rstrip("/")
        self._cache = cache
        self._ids: dict[str, int] = {}
        self._schemas: dict[int, str] = {}
        for number, schema in _read(cache).get(self._url, {}).items():
            self._remember(int(number), schema)

    def id_of(self, subject: str, schema: str) -> int:
        """Return the id that this schema is registered with, or raise `Unavailable` or `SettingError`."""
        if schema not in self._ids:
            answer = self._ask("POST", f"/subjects/{subject}", {"schema": schema, "schemaType": "AVRO"})
            if answer.status_code == NOT_FOUND:
                raise SettingError(
                    f"PIPELINE_REGISTRY_URL: {subject} is not registered at {self._url} in this version: "
                    "run `pipeline topics apply`"
                )
            self._learn(int(self._json(answer)["id"]), schema)
        return self._ids[schema]

    def schema_of(self, schema_id: int) -> str:
        """Return the schema with this id, or raise KeyError or `Unavailable`."""
        if schema_id not in self._schemas:
            answer = self._ask("GET", f"/schemas/ids/{schema_id}", None)
            if answer.status_code == NOT_FOUND:
                raise KeyError(schema_id)
            self._learn(schema_id, str(self._json(answer)["schema"]))
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
        self._learn(int(self._json(answer)["id"]), schema)
        return self._ids[schema]

    def require_compatible(self, subject: str) -> None:
        """Make the registry refuse versions of this subject that old or new readers can't read."""
        self._json(self._ask("PUT", f"/config/{subject}", {"compatibility": COMPATIBILITY}))

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        try:
            return httpx.request(
                method,
                self._url + path,
                json=body,
                headers={"content-type": CONTENT_TYPE},
                timeout=TIMEOUT_S,
                trust_env=False,
            )
        except httpx.HTTPError as error:
            raise Unavailable(
                f"PIPELINE_REGISTRY_URL: can't reach the registry at {self._url}: {error}"
            ) from None

    def _json(self, answer: httpx.Response) -> dict[str, Any]:
        if not answer.is_success:
            raise Unavailable(
                f"PIPELINE_REGISTRY_URL: {self._url} answered {answer.status_code}: {answer.text[:200]}"
            )
        found: dict[str, Any] = answer.json()
        return found

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
            held.setdefault(self._url, {})[str(number)] = schema
            temporary = self._cache.with_suffix(".new")
            temporary.write_text(json.dumps(held, indent=1))
            temporary.replace(self._cache)


def _read(cache: Path) -> dict[str, dict[str, str]]:
    """Return what the cache holds; one that can't be read is none: the registry is asked again."""
    try:
        held = json.loads(cache.read_text())
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}
