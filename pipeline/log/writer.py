"""The one writer thread: whatever waits becomes one transaction, and is durable when its futures are done.

Every future ends, whatever the disk does: a failed transaction fails its futures and the thread goes on. What
could not be undone then is undone before the next transaction. After a failure the idle thread tries small
writes by itself: who is not ready gets no more uploads, and would never find out that the disk is well again.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Final, NamedTuple, TypeVar

from pipeline.contract.ports import Unavailable
from pipeline.contract.record import Record

QUEUE_LIMIT_BYTES: Final = 64 * 1024 * 1024
QUEUE_LIMIT_ITEMS: Final = 20_000
GROUP_LIMIT_BYTES: Final = 16 * 1024 * 1024
TRY_AGAIN_S: Final = 1.0

T = TypeVar("T")


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
        self._owed: Callable[[], None] | None = None
        """What the last transaction must still do once it has ended; nothing new begins before it is done."""
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
        group: Sequence[_Item] = ()
        try:
            while not self._closing or self._queue:  # in this order: a closing queue only shrinks
                group = self._awaited()
                if group:
                    self._commit(group)
                elif self._failed and not self._closing:
                    self._try_disk()
        finally:
            self._end(group)

    def _awaited(self) -> list[_Item]:
        """Return what is to be written next; nothing at the end, and when a failed disk is to be tried."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._queue or self._closing, TRY_AGAIN_S if self._failed else None
            )
            return self._taken()

    def _taken(self) -> list[_Item]:
        group: list[_Item] = []
        size = 0
        while self._queue and (not group or size + self._queue[0].size <= GROUP_LIMIT_BYTES):
            item = self._queue.popleft()
            self._queued_bytes -= item.size
            if item.future.set_running_or_notify_cancel():
                size += item.size
                group.append(item)
        return group

    def _commit(self, group: Sequence[_Item]) -> None:
        try:
            results = self._transact(lambda: [self._done(item) for item in group])
        except Exception as error:  # noqa: BLE001 - whatever it was, nothing of this group is durable
            for item in group:
                item.future.set_exception(Unavailable(f"not stored: {error}"))
            return
        self.transactions += 1
        self._owed = self._committed
        self._try_to_settle()
        for future, result, refused in results:
            if refused is None:
                future.set_result(result)
            else:
                future.set_exception(refused)

    def _try_disk(self) -> None:
        """Write a page that changes nothing; that it goes well is all that is wanted."""

        def work() -> None:
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            self._connection.execute(f"PRAGMA user_version = {version}")

        with contextlib.suppress(Exception):
            self._transact(work)

    def _transact(self, work: Callable[[], T]) -> T:
        """Do this in one transaction; whatever is raised, nothing of it is durable."""
        try:
            self._settle()
            self._connection.execute("BEGIN IMMEDIATE")
            self._owed = self._roll_back
            result = work()
            self._connection.execute("COMMIT")
        except Exception:
            self._failed = True
            self._try_to_settle()
            raise
        self._owed = None
        self._failed = False
        return result

    def _settle(self) -> None:
        if self._owed is not None:
            self._owed()
            self._owed = None

    def _try_to_settle(self) -> None:
        """Do what is owed, or leave it to the next transaction: it is no reason to keep futures waiting."""
        try:
            self._settle()
        except Exception:  # noqa: BLE001 - it shows: the writer is not well until it is done
            self._failed = True

    def _end(self, group: Sequence[_Item]) -> None:
        """Take nothing more; should a bug have ended the thread, nobody waits for it."""
        with self._changed:
            self._closing = True
            left = [*group]
            while self._queue:
                left += self._taken()
        for item in left:
            if not item.future.done():
                item.future.set_exception(Unavailable("the log's writer has ended"))

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
