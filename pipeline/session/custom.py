"""Custom metadata on its way out: whose key wins, which tenant it is of, what Analytics can take.

Analytics takes at most 32 KB of context data on a call, in keys of letters, digits, `_` and `.` that it
compares without case, and 255 bytes of a media variable (`spec/media-collection.md` 4.2). The media path
is the content id once more, and Analytics itself cuts that to 100 bytes: cutting here would cut the id.
Nothing is lost of what comes here: the session record holds custom metadata and context data as sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pipeline.session.datastream import Datastream
from pipeline.session.model import Form, Session

CONTEXT_LIMIT_BYTES: Final = 32 * 1024
VARIABLE_LIMIT_BYTES: Final = 255

_MOST_BYTES_OF_A_CHARACTER: Final = 4
SURELY_SHORT: Final = VARIABLE_LIMIT_BYTES // _MOST_BYTES_OF_A_CHARACTER
"""So many characters fit a variable whatever they are."""
_TENANT: Final = re.compile(r"_[a-zA-Z0-9]+\.(?=.)")
_KEY: Final = re.compile(r"[a-zA-Z0-9_.]+")

OPT_OUTS: Final = frozenset({"cm.ssf", "opt.dmp", "opt.oos"})
"""The privacy opt-outs: standard variables, too, which nothing may push out or contradict."""

Custom = Mapping[str, str]
_NONE: Final[Custom] = {}


def tenant_prefix(name: str, form: Form, datastream: Datastream) -> str:
    """Return the `_tenant.` that a name starts with, or nothing.

    It is the datastream's; without one any of an Edge name, which is where XDM wants it.
    """
    if datastream.tenant:
        prefix = f"_{datastream.tenant}."
        return prefix if name.startswith(prefix) and len(name) > len(prefix) else ""
    found = _TENANT.match(name) if form is Form.MEDIA_EDGE else None
    return found[0] if found else ""


def tenant_fields(merged: Custom, form: Form, datastream: Datastream) -> Custom:
    """Return the custom metadata that XDM has at the root of a row, by dotted path."""
    if not merged:
        return _NONE
    return {name: value for name, value in merged.items() if tenant_prefix(name, form, datastream)}


def analytics_custom(
    custom: Custom | None, session: Session, datastream: Datastream, flags: set[str]
) -> Custom:
    """Return custom metadata or context data as Analytics gets it: the path without the tenant.

    Keys that Analytics has for itself, or can't take, are left out and flagged.
    """
    if not custom:
        return _NONE
    found: dict[str, str] = {}
    for name, value in custom.items():
        key = name[len(tenant_prefix(name, session.form, datastream)) :]
        if key[:2] in ("a.", "A."):
            flags.add("metadata_key_reserved")
        elif _KEY.fullmatch(key):
            found[key] = value
        else:
            flags.add("context_key_invalid")
    return found


def merged_without_case(*layers: Custom) -> dict[str, str]:
    """Return all layers as one; of keys that differ in case only, the last is kept (narrower wins)."""
    filled = [layer for layer in layers if layer]
    if not filled:
        return {}
    last: dict[str, tuple[str, str]] = {}
    for layer in filled:
        for key, value in layer.items():
            last[key.lower()] = (key, value)
    return dict(last.values())


def cut_to_variable(text: str) -> str:
    """Return the text as far as a media variable holds it, whole characters only."""
    return text.encode("utf-8", "replace")[:VARIABLE_LIMIT_BYTES].decode("utf-8", "ignore")


def within_context_limit(context: Mapping[str, str]) -> Mapping[str, str]:
    """Return the context within its limit: what doesn't fit is left out, standard variables last."""
    characters = sum(map(len, context)) + sum(map(len, context.values()))
    if characters * _MOST_BYTES_OF_A_CHARACTER <= CONTEXT_LIMIT_BYTES:
        return context
    kept: dict[str, str] = {}
    room = CONTEXT_LIMIT_BYTES
    for name in sorted(context, key=lambda name: not (name.startswith("a.") or name in OPT_OUTS)):
        size = len(name.encode("utf-8", "replace")) + len(context[name].encode("utf-8", "replace")) + 2
        if size <= room:
            kept[name] = context[name]
            room -= size
    return kept
