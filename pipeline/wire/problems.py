"""What can be wrong with a body: the closed list of rules, and the exception that carries all problems."""

from __future__ import annotations

from typing import Final, NamedTuple

MOST_ITEMS: Final = 1_000
"""So many sessions may come in one Media Edge request: each costs more than the three bytes it may have."""
MOST_PROBLEMS: Final = 250
"""So many problems of a body, or of a Media Edge request, are told; then the rest is not looked into."""
PROBLEM_BYTES: Final = 32 * 1024
"""So much text those problems have together, in UTF-8: half of what a record has room for beside its body."""
TEXT_CHARACTERS: Final = 200
"""A pointer, a message or an event type is cut to it: a key of a body may be as long as the body."""
TOO_MANY: Final = "too_many_problems"

RULES: Final[dict[str, str]] = {
    "additionalProperties": "A key that may not be there (strict datastreams; customMetadata key pattern).",
    "anyOf": "None of the alternatives is there (statesUpdate needs statesStart or statesEnd).",
    "body_too_large": "The body is larger than the limit.",
    "config_id": "The query parameter configId is missing.",
    "content_encoding": "The content coding is not supported, or the body is not in it.",
    "content_type": "The content type is not JSON.",
    "downloaded_flag": "media.downloaded has a value that the path doesn't allow.",
    "downloaded_flag_on_live": "A single session start that says it is downloaded: those are arrays.",
    "duplicate_key": "A key stands twice in one object.",
    "empty": "An array that needs elements has none.",
    "enum": "Not one of the allowed values.",
    "first_event": "The first event is not sessionStart.",
    "format": "Not in the wanted format (RFC 3339 with offset).",
    "json": "Not JSON in UTF-8.",
    "live_sessions_not_supported": "A single session start is a live session, which is not supported.",
    "maximum": "The number is larger than it can be.",
    "minLength": "The string is empty.",
    "minimum": "The number is smaller than it can be.",
    "not_allowed": "A member that must not be sent.",
    "output_too_large": "The records that the upload gives are larger than the limit.",
    "pattern": "The string doesn't have the wanted form.",
    "required": "A key that must be there is missing.",
    "second_session_start": "A second sessionStart: one upload is one session.",
    "session_id": "The session has another id here than the front door gave it.",
    "too_many_items": f"More than {MOST_ITEMS:,} items in one Media Edge request.",
    TOO_MANY: f"More than {MOST_PROBLEMS} problems, or {PROBLEM_BYTES:,} bytes of them: no more are told.",
    "type": "The value is of another type.",
    "undecodable": "A stored record can't be read.",
    "unknown_datastream": "No datastream has this id.",
    "unknown_event_type": "No event type has this name.",
}
"""Every rule that a problem may name; `docs/errors.md` is drawn from it."""


class Problem(NamedTuple):
    """One problem: `pointer` is a JSON Pointer (Media Collection) or a JSONPath from the item (Edge)."""

    pointer: str
    rule: str
    message: str
    index: int | None = None  # type: ignore[assignment]  # hides tuple.index, which nobody calls here
    event_type: str | None = None


class Full(Exception):
    """A body has more problems than are told: what is left of it is not looked into.

    `index` is the event that it was met in, None outside of events.
    """

    def __init__(self, index: int | None) -> None:
        super().__init__("too many problems")
        self.index = index


class Problems:
    """The problems of one body, as they are found."""

    def __init__(self) -> None:
        self.found: list[Problem] = []
        self._bytes = 0

    def add(self, pointer: str, rule: str, message: str, index: int | None, event_type: str | None) -> None:
        """Keep one problem, its texts cut, or raise `Full`."""
        if len(self.found) >= MOST_PROBLEMS or self._bytes > PROBLEM_BYTES:
            raise Full(index)
        problem = Problem(cut(pointer), rule, cut(message), index, event_type and cut(event_type))
        self.found.append(problem)
        self._bytes += len(f"{problem.pointer}{rule}{problem.message}{problem.event_type}".encode())


def cut(text: str) -> str:
    """Return the text, or its start and an ellipsis when it is too long to be told."""
    return text if len(text) <= TEXT_CHARACTERS else text[: TEXT_CHARACTERS - 1] + "…"


def more(pointer: str, told: int, left: int) -> Problem:
    """Return the last problem of a body that has too many; `left` events were not looked into."""
    rest = f"{left} more events were not looked into" if left else "the others are not told"
    return Problem(pointer, TOO_MANY, f"more than {told} problems: {rest}")


class Rejected(Exception):
    """The data is wrong: the problems of the body, in order of appearance; the last may be `TOO_MANY`.

    `report_suites` are those that the body names all the same, where it could be read so far.
    """

    def __init__(self, problems: tuple[Problem, ...], report_suites: tuple[str, ...] = ()) -> None:
        super().__init__(f"{len(problems)} problems, first {problems[0]}")
        self.problems = problems
        self.report_suites = report_suites
