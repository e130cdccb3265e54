"""The domain core: one pure way from a valid upload to everything that reports need.

`model` is the canonical session that both wire forms become; `fields` the one table of named values;
`machine` the state machine as tables; `measure` walks the events once and gives a `Viewing` with every
metric; `calls` and `rows` derive the analytics calls and the XDM rows from it, `custom` what becomes of
customMetadata in both; `timeledger` records the times and their doubts; `identity` says which session an
upload is. `explain` walks once more, when somebody asks, and `metric_rules` says how each metric is made.

No I/O, no clock, no chance, and nothing but the standard library: the same upload always gives the
same result, which is what makes a replay and an explanation possible.
"""
