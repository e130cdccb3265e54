"""The one door to confluent-kafka, and the second home of the ports in `contract`.

`uploads` is the ingest's idempotent producer; `lanes` commits a worker's outputs, dedupe entries and
position in one transaction per source partition; `reader` reads committed records; `admin` makes the
broker agree with `topics.toml`; `registry` is the client of a schema registry, its ids kept on disk.
"""
