"""Set up logging: one line per event, as JSON or for a console, ours and that of the libraries.

Events have a name and members (topic, partition, offset, session_id where they are known). No event of
ours has a body, an identity, or the text of an exception of a stage, which may hold both: of that only
the type is logged, and the dead letter keeps the rest.
"""

from __future__ import annotations

import logging
import sys
from typing import Final, TextIO

import structlog
from structlog.types import Processor

from pipeline.settings import SettingError, Settings

LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final = ("auto", "json", "console")
LIBRARY_LEVEL: Final = logging.WARNING


def set_up_logs(settings: Settings, stream: TextIO | None = None) -> None:
    """Log to this stream (standard error) as the settings say, or raise `SettingError`."""
    if settings.log_level.lower() not in LEVELS:
        raise SettingError(
            f"PIPELINE_LOG_LEVEL must be debug, info, warning or error, not {settings.log_level!r}"
        )
    out = sys.stderr if stream is None else stream
    structlog.configure(
        processors=[*_added(), *_rendered(settings, out)],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[settings.log_level.upper()]
        ),
        logger_factory=_Loggers(out),
    )
    logging.root.handlers = [library_handler(settings, out)]
    logging.root.setLevel(LIBRARY_LEVEL)
    logging.captureWarnings(capture=True)


def library_handler(settings: Settings, stream: TextIO | None = None) -> logging.Handler:
    """Return the handler that shows the warnings of libraries in the same form."""
    out = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(out)
    handler.setLevel(LIBRARY_LEVEL)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_added(),
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendered(settings, out),
            ],
        )
    )
    return handler


def is_json(settings: Settings, stream: TextIO) -> bool:
    """Return whether lines are JSON: as set, else when the stream is no terminal."""
    if settings.log_format not in FORMATS:
        raise SettingError(
            f"PIPELINE_LOG_FORMAT must be {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, "
            f"not {settings.log_format!r}"
        )
    return settings.log_format == "json" or (settings.log_format == "auto" and not stream.isatty())


def _added() -> list[Processor]:
    """What every line has beside its own members."""
    return [
        structlog.stdlib.add_logger_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _rendered(settings: Settings, stream: TextIO) -> list[Processor]:
    if is_json(settings, stream):
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=repr)]
    return [structlog.dev.ConsoleRenderer(colors=stream.isatty())]


class _NamedLogger(structlog.PrintLogger):
    """A logger that knows the name it was got by."""

    def __init__(self, stream: TextIO, name: str) -> None:
        super().__init__(stream)
        self.name = name


class _Loggers:
    """Makes structlog's loggers on one stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, name: str = "pipeline", *_more: object) -> _NamedLogger:
        return _NamedLogger(self._stream, name)
