"""An append-only log of topics and partitions in one SQLite file: the engine of the embedded default.

One writer thread takes everything that waits and makes it one transaction (group commit), with WAL and
`synchronous=FULL`: when a future is done, its records survive a power cut. Readers have their own
connections and see committed records only. Offsets are dense per partition and never used twice. A
compacted topic is compacted as it is written, since the latest offset of each key is known anyway; the
same table is the dedupe index. Retention runs in short transactions beside the writing.

A lock file keeps a second process out: the log has one owner, and readers.
"""
