"""Log lines: structlog, as JSON for machines or coloured text for people, to standard error.

No secret and no content reaches a line: callers log ids, codes and figures. Libraries that log by the
standard library (hypercorn) come out in the same form.
"""

import logging
import sys
from typing import Literal

import structlog
from structlog.typing import FilteringBoundLogger, Processor

Logger = FilteringBoundLogger


def configure(form: Literal["auto", "json", "text"]) -> None:
    """Sets the form of all log lines of this process. `auto`: text on a terminal, else JSON."""
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    ending: list[Processor] = [structlog.dev.ConsoleRenderer()]
    if not text:
        ending = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*shared, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)


def get(room: str) -> Logger:
    """The logger of one room of the server."""
    logger: Logger = structlog.get_logger(room=room)
    return logger
