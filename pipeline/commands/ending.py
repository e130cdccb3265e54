"""How a service's process ends: at once, when all that had to be closed is closed."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import NoReturn


def leave(code: int) -> NoReturn:
    """End the process with this exit code; what was logged and printed is written before.

    The interpreter's and the C library's own ends are left out: they take down what threads of RocksDB,
    librdkafka and OpenSSL still use, and one in some seventy workers crashed there after an orderly stop.
    """
    try:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # somebody started it with a closed one
                with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
                    stream.flush()
    finally:
        os._exit(code)
