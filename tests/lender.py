"""Servers that all processes of a test run share: its first process has them, and lends their addresses.

A server starts when it is first asked for. All of them are children of one thread of that process, which
lives as long as the run: none outlives it, however it ends (`deploy.process.die_with_parent`).
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Client, Listener
from typing import Any, Final, NamedTuple

from deploy.fetching import ServerFailed

_STOP: Final = ""


class LentKafka(NamedTuple):
    """A running Apache Kafka that others use at the same time: a test that ill-treats one has its own."""

    bootstrap: str


class LentRegistry(NamedTuple):
    """A running Apicurio Registry that others use at the same time."""

    url: str


class Lender:
    """Answers at `address` those who `borrow`; what starts a server returns its address."""

    def __init__(self, servers: Mapping[str, Callable[[contextlib.ExitStack], str]]) -> None:
        self._servers = servers
        self._listener = Listener(family="AF_UNIX")
        self.address = str(self._listener.address)
        self._thread = threading.Thread(target=self._lend, daemon=True)
        self._thread.start()

    @property
    def is_lending(self) -> bool:
        """Whether it was not closed."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop all servers."""
        borrow(self.address, _STOP)
        self._thread.join()

    def _lend(self) -> None:
        lent: dict[str, str] = {}
        with self._listener, contextlib.ExitStack() as running:
            name = None
            while name != _STOP:
                # One that asked may be gone before it was answered.
                with self._listener.accept() as asker, contextlib.suppress(EOFError, OSError):
                    name = asker.recv()
                    asker.send(self._answer(name, lent, running))

    def _answer(self, name: str, lent: dict[str, str], running: contextlib.ExitStack) -> tuple[str, str]:
        """Return the address of a server, or why there is none."""
        try:
            if name != _STOP and name not in lent:
                lent[name] = self._servers[name](running)
        except (ServerFailed, OSError, subprocess.TimeoutExpired) as failed:
            return "", str(failed)
        return lent.get(name, ""), ""


def borrow(lender: str, name: str) -> str:
    """Return the address of the server with this name, once it runs, or raise `ServerFailed`."""
    with Client(lender) as asked:
        asked.send(name)
        answer: Any = asked.recv()
    address, failure = answer
    if failure:
        raise ServerFailed(failure)
    return str(address)
