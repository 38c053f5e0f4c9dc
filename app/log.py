"""Structured logs: one JSON object a line, carrying ids and never bodies, tokens or full addresses."""

from __future__ import annotations

import logging
import re
import sys

import structlog

# What PostgreSQL adds to an error: the row that failed, or the key that was there already, with addresses and words.
ROW = re.compile(r"\n(?:DETAIL|CONTEXT):.*?(?=\n\n(?:The above|During handling)|\Z)", re.DOTALL)


def configure(level: str = "INFO", *, pretty: bool = False) -> None:
    """Sets up logging for a process. pretty: readable lines for a terminal in place of JSON."""
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if pretty else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            _without_rows,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    # Libraries that would otherwise print whole URLs, with credentials and addresses in them.
    for noisy in ("httpx", "httpcore", "aiohttp.access", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


def _without_rows(
    _: structlog.typing.WrappedLogger, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """The event, its errors and tracebacks cut down to what went wrong."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = ROW.sub("", value)
    return event


def mask(address: str) -> str:
    """An address as logs and dashboards may show it: ``b…@example.com``."""
    local, at, domain = address.partition("@")
    return f"{local[:1]}…{at}{domain}" if at else f"…{address[-2:]}"
