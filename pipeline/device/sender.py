"""Send an upload as the mobile SDKs do, and follow their rules when it fails.

iOS keeps a session on 408, 503 and 504 and on network trouble, and deletes it on any other failure;
Android deletes it after three answered failures (`spec/client-sdk-behaviour.md` 7).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

import httpx

TIMEOUT_S: Final = 5.0
RETRY_S: Final = 60.0
ANDROID_TRIES: Final = 3
_KEPT_BY_IOS: Final = frozenset({408, 503, 504})


class Network(Protocol):
    """What a device posts through; an `httpx.Client` is one."""

    def post(self, url: str, *, content: bytes, headers: dict[str, str], timeout: float) -> httpx.Response:
        """Return the answer, or raise `httpx.TransportError`."""


class Platform(StrEnum):
    """Whose rules a device follows."""

    IOS = "ios"
    ANDROID = "android"


class Fate(StrEnum):
    """How a stored session ended on the device."""

    DELIVERED = "delivered"
    DELETED = "deleted"
    STILL_KEPT = "still kept"


class Sent(NamedTuple):
    """What became of one session: its fate, every answer (None is network trouble), and the last one."""

    fate: Fate
    answers: tuple[int | None, ...]
    last: httpx.Response | None


def send(
    network: Network,
    path: str,
    body: bytes,
    platform: Platform = Platform.ANDROID,
    *,
    most_tries: int = 1_000,
    wait: Callable[[float], None] = lambda _seconds: None,
) -> Sent:
    """Post one session until it is delivered, given up by the platform's rule, or `most_tries` is spent."""
    answers: list[int | None] = []
    failures = 0
    response: httpx.Response | None = None
    for _ in range(most_tries):
        try:
            response = network.post(
                path, content=body, headers={"content-type": "application/json"}, timeout=TIMEOUT_S
            )
        except httpx.TransportError:
            answers.append(None)
            wait(RETRY_S)
            continue
        answers.append(response.status_code)
        if response.is_success:
            return Sent(Fate.DELIVERED, tuple(answers), response)
        failures += 1
        if _gives_up(platform, response.status_code, failures):
            return Sent(Fate.DELETED, tuple(answers), response)
        wait(RETRY_S)
    return Sent(Fate.STILL_KEPT, tuple(answers), response)


def _gives_up(platform: Platform, status: int, failures: int) -> bool:
    if platform is Platform.IOS:
        return status not in _KEPT_BY_IOS
    return failures >= ANDROID_TRIES
