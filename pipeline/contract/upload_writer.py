"""Accepted uploads as Avro, the short way: what most of them have alike is written once and kept.

Avro writes a record as its fields one behind the other, so a run of fields is a record too, and a value of a
union is its branch's number and the value. fastavro writes every part, and the whole is byte for byte what
it makes of the whole record (a test).
"""

from __future__ import annotations

import io
from operator import attrgetter
from typing import Any, Final

import fastavro

from pipeline.contract.records import Upload

TOPIC: Final = "media.uploads"
IDS: Final = ("upload_id", "request_id", "received_at_ms")
FIRST_ALIKE: Final = "form"
BEHIND_ALIKE: Final = "session_id"
BEHIND: Final = (BEHIND_ALIKE, "replay_id", "body")
KEPT: Final = 256
"""How many different parts are kept: one for each kind of sender, of the size of its User-Agent."""


class UploadWriter:
    """Writes uploads in three parts: ids, what they have alike, and session id with body."""

    @staticmethod
    def fits(schema: dict[str, Any]) -> bool:
        """Whether the schema begins and ends as this writer does: others' records go the long way."""
        names = tuple(field["name"] for field in schema["fields"])
        return names[: len(IDS) + 1] == (*IDS, FIRST_ALIKE) and names[-len(BEHIND) :] == BEHIND

    def __init__(self, frame: bytes, schema: dict[str, Any]) -> None:
        fields = {field["name"]: field for field in schema["fields"]}
        names = list(fields)
        first, behind = names.index(FIRST_ALIKE), names.index(BEHIND_ALIKE)
        self._frame = frame
        self._ids = _part("Ids", [fields[name] for name in names[:first]])
        self._alike = _part(
            "Alike", [*(fields[name] for name in names[first:behind]), _field("session_id_branch", "long")]
        )
        self._rest = _part(
            "Rest",
            [_field("session_id", "string"), _field("replay_id_branch", "long"), _field("body", "bytes")],
        )
        self._alike_of = attrgetter(*names[first:behind])
        self._kept: dict[Any, bytes] = {}

    def __call__(self, upload: Upload) -> bytes | None:
        """Return the framed record, or None for one that is not a device's own valid upload."""
        if upload.session_id is None or upload.replay_id is not None or upload.problems:
            return None
        alike = self._alike_of(upload)
        write = fastavro.schemaless_writer
        out = io.BytesIO()
        out.write(self._frame)
        write(
            out,
            self._ids,
            {
                "upload_id": upload.upload_id,
                "request_id": upload.request_id,
                "received_at_ms": upload.received_at_ms,
            },
        )
        out.write(self._kept.get(alike) or self._written_alike(alike, upload))
        write(
            out,
            self._rest,
            {"session_id": upload.session_id, "replay_id_branch": 0, "body": upload.body},
        )
        return out.getvalue()

    def _written_alike(self, alike: Any, upload: Upload) -> bytes:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, self._alike, upload._asdict() | {"session_id_branch": 1})
        if len(self._kept) >= KEPT:
            self._kept.clear()
        found = self._kept[alike] = out.getvalue()
        return found


def _field(name: str, kind: str) -> dict[str, Any]:
    return {"name": name, "type": kind}


def _part(name: str, fields: list[dict[str, Any]]) -> Any:
    return fastavro.parse_schema({"type": "record", "name": name, "fields": fields})
