"""The steps in order, each pure: what comes in is a value, what should be written is returned.

`receive` runs at the front door; `decode`, `validate`, `identify`, `measure` and `derive` run in the
worker, on every upload; `judge` decides its one outcome. Two kinds of error: the data is wrong
(`Refused`, with a reason and a destination) or we are wrong (any other exception, which is that
upload's dead letter `internal_error`). `pipeline.topology` puts the steps together.
"""
