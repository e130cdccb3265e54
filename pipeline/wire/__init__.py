"""Both upload formats to the canonical session and back, every problem of a body with its place.

`tables` says which params and members there are; the decoders, the explanation of errors and the JSON
Schemas are made from it, so that they can't disagree. A decoder walks the whole body, collects every
problem, and raises `Rejected` with all of them, or returns a `Session` that is valid by construction.
Undocumented params and members are kept and flagged; a strict datastream refuses them (DESIGN.md 6.1).
"""
