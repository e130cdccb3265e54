"""The HTTP ingest: reads a request within limits, asks the door, stores, and only then answers.

What an answer says is decided by `pipeline.stages.receive`; here is only what does: sockets, limits,
time. Nothing is answered with a 2xx, 400, 413, 415, 422 or 207 before its uploads are durable.
"""
