"""The registry's home in a file: schema ids that stay the same for ever, without any server."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from pipeline.contract.ports import Unavailable


class FileRegistry:
    """Implements `SchemaIds` on one JSON file; a schema has one id under whatever subject."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._schemas = self._read()

    def id_of(self, subject: str, schema: str) -> int:
        """Return the id of this schema, given for ever at the first call, or raise `Unavailable`."""
        found = self._found(schema)
        if found is not None:
            return found
        try:
            with self._path.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._schemas = self._read()
                found = self._found(schema)
                if found is None:
                    found = max(self._schemas, default=0) + 1
                    self._schemas[found] = {"subject": subject, "schema": schema}
                    self._write()
        except OSError as error:
            raise Unavailable(f"{self._path.name}: {error}") from None
        return found

    def schema_of(self, schema_id: int) -> str:
        """Return the schema with this id, or raise KeyError."""
        if schema_id not in self._schemas:
            self._schemas = self._read()
        return self._schemas[schema_id]["schema"]

    def _found(self, schema: str) -> int | None:
        return next((number for number, row in self._schemas.items() if row["schema"] == schema), None)

    def _read(self) -> dict[int, dict[str, str]]:
        try:
            rows = json.loads(self._path.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise OSError(f"{self._path.name} is not JSON: {error}") from None
        return {int(number): row for number, row in rows.items()}

    def _write(self) -> None:
        temporary = self._path.with_suffix(".new")
        with temporary.open("w") as out:
            json.dump(self._schemas, out, indent=1)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
