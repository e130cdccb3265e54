"""The worker binds the stages to a log: `embedded` to the SQLite log, the Faust modules to Kafka.

Here is only what does: read a batch, hand it to `Topology.process`, commit what comes back. No rule
about a session is in this package.
"""
