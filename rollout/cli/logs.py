"""The server's log on stderr: JSON for programs or text for people, from one level on."""

import contextlib
import logging
import sys
from enum import StrEnum

import structlog


class LogFormat(StrEnum):
    """How the log is written."""

    JSON = "json"
    TEXT = "text"


class LogLevel(StrEnum):
    """How much must be the matter for a line."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class _Stderr:
    """The log's file: what cannot be written is lost, for a full disk must not end the fleet's control plane."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


def log_to_stderr(wanted: LogFormat | None, level: LogLevel) -> None:
    """Write the log; None: text on a terminal, JSON elsewhere. Colours are for terminals alone."""
    terminal = sys.stderr.isatty()
    text = wanted is LogFormat.TEXT or (wanted is None and terminal)
    renderer = structlog.dev.ConsoleRenderer(colors=terminal) if text else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if terminal and text else "iso", utc=not terminal),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(_Stderr()),  # type: ignore[arg-type]  # has what is used of a file
    )
