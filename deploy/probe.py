"""Ask a health endpoint: `python -m deploy.probe URL` exits 0 when it answers 200, else 1."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from typing import Final

TIMEOUT_S: Final = 4


def is_healthy(url: str) -> bool:
    """Return whether this address answers 200 in time."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    sys.exit(0 if is_healthy(sys.argv[1]) else 1)
