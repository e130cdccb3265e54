"""The one writer thread: whatever waits becomes one transaction, and is durable when its futures are done."""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Final, NamedTuple

from pipeline.contract.ports import Unavailable
from pipeline.contract.record import Record

QUEUE_LIMIT_BYTES: Final = 64 * 1024 * 1024
QUEUE_LIMIT_ITEMS: Final = 20_000
GROUP_LIMIT_BYTES: Final = 16 * 1024 * 1024


class _Item(NamedTuple):
    """Something to do inside a transaction; `size` is what it adds to the queue, in bytes."""

    work: Callable[[sqlite3.Connection], Any]
    future: Future[Any]
    size: int


class Writer:
    """Owns the writing connection; `submit` may be called from any thread."""

    def __init__(
        self, connection: sqlite3.Connection, committed: Callable[[], None], undone: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._committed = committed
        self._undone = undone
        self._queue: deque[_Item] = deque()
        self._queued_bytes = 0
        self._changed = threading.Condition()
        self._closing = False
        self._failed = False
        self.transactions = 0
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    @property
    def is_well(self) -> bool:
        """Whether the last transaction went well and the writer takes more."""
        return not self._closing and not self._failed and self._thread.is_alive()

    def submit(self, work: Callable[[sqlite3.Connection], Any], size: int = 0) -> Future[Any]:
        """Return the future of this work; it fails with `Unavailable` when it can't be made durable."""
        future: Future[Any] = Future()
        with self._changed:
            if self._closing:
                future.set_exception(Unavailable("the log is closed"))
                return future
            full = self._queued_bytes + size > QUEUE_LIMIT_BYTES or len(self._queue) >= QUEUE_LIMIT_ITEMS
            if full and self._queue:
                future.set_exception(Unavailable("too much waits for the disk"))
                return future
            self._queue.append(_Item(work, future, size))
            self._queued_bytes += size
            self._changed.notify()
        return future

    def close(self) -> None:
        """Finish what was queued, then close the connection; may be called twice."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closing:
                    self._changed.wait()
                if not self._queue:
                    return
                group = self._taken()
            self._commit([item for item in group if item.future.set_running_or_notify_cancel()])

    def _taken(self) -> list[_Item]:
        group: list[_Item] = []
        size = 0
        while self._queue and (not group or size + self._queue[0].size <= GROUP_LIMIT_BYTES):
            item = self._queue.popleft()
            size += item.size
            self._queued_bytes -= item.size
            group.append(item)
        return group

    def _commit(self, group: Sequence[_Item]) -> None:
        if not group:
            return
        results: list[tuple[Future[Any], Any, Exception | None]] = []
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            results.extend(self._done(item) for item in group)
            self._connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - whatever it was, nothing of this group is durable
            self._roll_back()
            self._failed = True
            for item in group:
                item.future.set_exception(Unavailable(f"not stored: {error}"))
            return
        self._failed = False
        self.transactions += 1
        self._committed()
        for future, result, refused in results:
            if refused is None:
                future.set_result(result)
            else:
                future.set_exception(refused)

    def _done(self, item: _Item) -> tuple[Future[Any], Any, Exception | None]:
        """Do one piece of work; a refusal that it raises before it writes concerns it alone."""
        try:
            return item.future, item.work(self._connection), None
        except Refused as refused:
            return item.future, None, refused.cause

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._undone()


class Refused(Exception):
    """Raised by work before it has written anything: only its own future fails, with `cause`."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


def size_of(records: Sequence[Record]) -> int:
    """Return roughly how many bytes these records take."""
    return sum(len(record.key) + len(record.value or b"") + 64 for record in records)
