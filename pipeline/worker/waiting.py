"""Where the tasks of an event loop wait: what a worker that can't stop leaves in its log."""

from __future__ import annotations

import asyncio
from typing import Any, Final

MOST_TOLD: Final = 30


def waits_of(loop: asyncio.AbstractEventLoop) -> list[str]:
    """Return for each task the functions that await each other, outermost first, with their lines.

    It may be called from any thread: what moves meanwhile is told as it was met.
    """
    return [" > ".join(_chain(task.get_coro())) for task in list(asyncio.all_tasks(loop))[:MOST_TOLD]]


def _chain(awaited: Any) -> list[str]:
    chain = []
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None:
            chain.append(f"{awaited.__qualname__}:{frame.f_lineno}")
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return chain
