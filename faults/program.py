"""The `pipeline` program on topics of few partitions: three brokers share one small machine here.

`python -m faults.program COMMAND …` is `pipeline COMMAND …` but for the numbers of `topics.toml`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from typing import Final

from pipeline.contract import topics as contract

PARTITIONS: Final = 6
COMMAND: Final = (sys.executable, "-m", "faults.program")

_declared: Final = contract.load_topics


@cache
def few_topics() -> Mapping[str, contract.Topic]:
    """Return the declared topics, each with few partitions."""
    return {name: topic._replace(partitions=PARTITIONS) for name, topic in _declared().items()}


def main() -> None:
    """Run the program's command line."""
    contract.load_topics = few_topics  # before anything else imports it by name
    from pipeline.cli import main as program

    program()


if __name__ == "__main__":
    main()
