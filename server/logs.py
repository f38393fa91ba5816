"""Log lines: structlog, as JSON for machines or coloured text for people, to standard error.

No secret and no content reaches a line: callers log ids, codes and figures. Libraries that log by the
standard library (hypercorn) come out in the same form. The ids of a request or a run are bound once, and are
then in all lines of its tasks.
"""

import io
import logging
import os
import sys
from contextlib import AbstractContextManager, suppress
from contextvars import Context
from typing import Literal, TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger, Processor

Logger = FilteringBoundLogger


class _Stderr(io.TextIOBase):
    """Standard error, on which a full disk or a reader that has gone ends no request and no server."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()


def configure(form: Literal["auto", "json", "text"]) -> None:
    """Sets the form of all log lines of this process. `auto`: text on a terminal, else JSON."""
    terminal = sys.stderr.isatty()
    text = form == "text" or (form == "auto" and terminal)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # A plain traceback: the coloured one prints local variables, keys among them.
    ending: list[Processor] = [
        structlog.dev.ConsoleRenderer(
            # In a file the codes of colours are noise; NO_COLOR: https://no-color.org
            colors=terminal and not os.environ.get("NO_COLOR"),
            exception_formatter=structlog.dev.plain_traceback,
        )
    ]
    if not text:
        ending = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*shared, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, _Stderr())),
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


def bind(**ids: str) -> None:
    """Puts ids into all further lines of this task, and of the tasks it starts from now on. Of no other."""
    structlog.contextvars.bind_contextvars(**ids)


def bound(**ids: str) -> AbstractContextManager[None]:
    """As `bind`, for the lines of a block: a task that serves one request after the other must not mix them up."""
    return structlog.contextvars.bound_contextvars(**ids)


def detached(context: Context) -> Context:
    """A copy of `context` in which lines carry this task's ids: for what outlives the request that began it.

    A task started the plain way would keep all of the request's own context alive, its body too, for as long
    as it runs.
    """
    copied = context.copy()
    copied.run(structlog.contextvars.bind_contextvars, **structlog.contextvars.get_contextvars())
    return copied


def get(room: str) -> Logger:
    """The logger of one room of the server."""
    logger: Logger = structlog.get_logger(room=room)
    return logger
