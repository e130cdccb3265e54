"""`python -m faults.check BOOTSTRAP PREFIX FILE`: judge the topics alone, given the acknowledged session ids.

Prints the line that a run ends with; exit code 1 when a session is lost or counts more than once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from faults.outputs import OutputReader, Outputs


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 when every acknowledged session came out exactly once, 1 when not, 2 for bad arguments."""
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 3 or not Path(given[2]).is_file():
        print("usage: python -m faults.check BOOTSTRAP PREFIX FILE_OF_SESSION_IDS", file=sys.stderr)
        return 2
    bootstrap, prefix, path = given
    outputs = Outputs()
    OutputReader(bootstrap, prefix).read_into(outputs)
    verdict = outputs.verdict(Path(path).read_text().split())
    for name, sessions in (("lost", verdict.lost), ("duplicated", verdict.duplicated)):
        for session in sorted(sessions):
            print(f"{name}: {session}")
    print(verdict.line())
    return 0 if verdict.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
