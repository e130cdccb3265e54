"""How a service's process ends: at once, when all that had to be closed is closed."""

from __future__ import annotations

import logging
import os
import sys
from typing import NoReturn


def leave(code: int) -> NoReturn:
    """End the process with this exit code; what was logged and printed is written before.

    The interpreter's and the C library's own ends are left out: they take down what threads of RocksDB,
    librdkafka and OpenSSL still use, and one in some seventy workers crashed there after an orderly stop.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
