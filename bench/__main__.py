"""`make bench`: every benchmark, as ratios of one run.

`python -m bench core|index|ingest|kafka|latency` runs one of them.
"""

from __future__ import annotations

import os
import platform
import sys

from bench.core import is_compiled
from deploy.fetching import why_not


def main() -> None:
    """Run what was asked for, else everything that this machine can run."""
    built = "compiled" if is_compiled() else "not compiled"
    print(
        f"Python {platform.python_version()} ({platform.python_compiler()}), {built}, {os.cpu_count()} cores"
    )
    wanted = sys.argv[1:] or ["core", "index", "ingest", "kafka", "latency"]
    if "core" in wanted:
        from bench.core import main as core

        core()
    if "index" in wanted:
        from bench.index import main as index

        index()
    reason = why_not()
    if reason:
        print(f"not run on Apache Kafka: {reason}")
        return
    if "ingest" in wanted:
        from bench.ingest import main as ingest

        ingest()
    if "kafka" in wanted:
        from bench.kafka import main as kafka

        kafka()
    if "latency" in wanted:
        from bench.latency import main as latency

        latency()


if __name__ == "__main__":
    main()
