"""Player states of a session: a set of open names, counted and timed (`spec/metrics.csv`, player states)."""

from __future__ import annotations

from typing import Final

from pipeline.session.model import Event, StateTotal

STANDARD: Final = {
    name.lower(): name for name in ("fullscreen", "mute", "closedCaptioning", "pictureInPicture", "inFocus")
}
"""The five standard names by lower case: they are compared without case, custom names are not (6.22)."""

NAMES_LIMIT: Final = 10


def state_name(sent: str) -> str:
    """Return the name that a state goes by, whatever the case of a standard one."""
    return STANDARD.get(sent.lower(), sent)


class PlayerStates:
    """The open states and totals; time is the wall clock of the session, whatever playback does."""

    __slots__ = ("_counts", "_opened_ms", "_times_ms", "flags")

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._times_ms: dict[str, int] = {}
        self._opened_ms: dict[str, int] = {}
        self.flags: set[str] = set()

    def update(self, event: Event, clock_ms: int) -> None:
        """Take one statesUpdate: what it ends first, then what it starts."""
        for sent in event.states_ended:
            name = self._known(sent)
            if name is None:
                continue
            if name in self._opened_ms:
                self._times_ms[name] += clock_ms - self._opened_ms.pop(name)
            else:
                self.flags.add("stateEnd_without_start_ignored")
        for sent in event.states_started:
            name = self._known(sent)
            if name is not None and name not in self._opened_ms:
                self._opened_ms[name] = clock_ms
                self._counts[name] += 1

    def totals(self, clock_ms: int) -> tuple[StateTotal, ...]:
        """Return every state that was opened; those still open end now."""
        return tuple(
            StateTotal(
                name,
                count,
                self._times_ms[name] + (clock_ms - self._opened_ms[name] if name in self._opened_ms else 0),
            )
            for name, count in self._counts.items()
            if count
        )

    def _known(self, sent: str) -> str | None:
        name = state_name(sent)
        if name in self._counts:
            return name
        if len(self._counts) >= NAMES_LIMIT:
            self.flags.add("state_limit")
            return None
        self._counts[name] = 0
        self._times_ms[name] = 0
        return name
