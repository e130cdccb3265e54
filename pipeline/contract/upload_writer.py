"""Accepted uploads as Avro, the short way: what most of them have alike is written once and kept.

Avro writes a record as its fields one behind the other, so a run of fields is a record too, and a value of a
union is its branch's number and the value. The whole is byte for byte what fastavro makes of the whole record
(a test).
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any, Final

from pipeline.contract.record_writer import NULL, Fastavro, Text, Writer
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

    def __init__(self, frame: bytes, schema: dict[str, Any], writer: Writer) -> None:
        fields = {field["name"]: field for field in schema["fields"]}
        names = list(fields)
        first, behind = names.index(FIRST_ALIKE), names.index(BEHIND_ALIKE)
        self._frame = frame
        self._length = writer.of("long")
        self._text = Text(self._length)
        self._moment = Fastavro("long")
        self._alike = Fastavro(
            {"type": "record", "name": "Alike", "fields": [fields[name] for name in names[first:behind]]}
        )
        self._alike_of = attrgetter(*names[first:behind])
        self._kept: dict[Any, bytes] = {}

    def __call__(self, upload: Upload) -> bytes | None:
        """Return the framed record, or None for one that is not a device's own valid upload."""
        if upload.session_id is None or upload.replay_id is not None or upload.problems:
            return None
        alike = self._alike_of(upload)
        text, body = self._text, upload.body
        return b"".join(
            (
                self._frame,
                text[upload.upload_id],
                text[upload.request_id],
                self._moment[upload.received_at_ms],
                self._kept.get(alike) or self._written_alike(alike, upload),
                text[upload.session_id],
                NULL,
                self._length[len(body)],
                body,
            )
        )

    def _written_alike(self, alike: Any, upload: Upload) -> bytes:
        if len(self._kept) >= KEPT:
            self._kept.clear()
        session_id_branch = self._length[1]
        found = self._kept[alike] = self._alike[upload._asdict()] + session_id_branch
        return found
